/* child.c - forking, and saving what gcov counted in the child. */
#define _GNU_SOURCE
#include "support/child.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef DVSM_COVERAGE
void __gcov_dump(void); /* GCC's */

static void keep_coverage(void)
{
    __gcov_dump();
}
#else
static void keep_coverage(void)
{
}
#endif

/* Saves the counts at abort(): the handler returns, and abort() then ends the process as usual. */
static void keep_coverage_of_abort(int number)
{
    (void)number;
    keep_coverage();
}

static _Noreturn void work_and_exit(child_work work, void *context)
{
    const struct rlimit no_core = {0, 0};

    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGABRT, keep_coverage_of_abort);
    int code = work(context);
    fflush(NULL);
    keep_coverage();
    _exit(code);
}

static pid_t fork_or_abort(void)
{
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        abort();
    }
    return child;
}

pid_t start_child(child_work work, void *context)
{
    pid_t child = fork_or_abort();

    if (child == 0)
        work_and_exit(work, context);
    return child;
}

int wait_for_child(pid_t child)
{
    int status;

    while (waitpid(child, &status, 0) != child)
        if (errno != EINTR) {
            perror("waitpid");
            abort();
        }
    return status;
}

int run_in_child(child_work work, void *context)
{
    return wait_for_child(start_child(work, context));
}

static void read_all(int fd, char *text, size_t bytes)
{
    char rest[512];
    size_t length = 0;
    ssize_t n;

    while (length + 1 < bytes && (n = read(fd, text + length, bytes - 1 - length)) > 0)
        length += (size_t)n;
    text[length] = '\0';
    /* Reads what does not fit, too: otherwise the child would hang in its write. */
    while (read(fd, rest, sizeof rest) > 0)
        continue;
}

int run_in_child_with_stderr(child_work work, void *context, char *text, size_t bytes)
{
    int ends[2];

    if (pipe(ends) != 0) {
        perror("pipe");
        abort();
    }
    pid_t child = fork_or_abort();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        work_and_exit(work, context);
    }
    close(ends[1]);
    read_all(ends[0], text, bytes);
    close(ends[0]);
    return wait_for_child(child);
}
