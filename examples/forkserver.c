/* forkserver.c - a server that executes its workers, which share its heap.
 *
 *     forkserver [WORKERS [REQUESTS]]      4 and 100,000, if nothing else is said
 *
 * A program with threads does well to execute its workers instead of only forking them: a child of
 * fork() has locks in it that other threads held. What is executed has nothing of its parent's
 * memory; but dvsm_heap_inherit() lets it find the heap, as its default heap, at the same
 * addresses. A root leads to the table, and the workers count in it.
 *
 * The workers are this program, executed with the argument "worker".
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <dvsm/dvsm.h>

enum { ANSWERS = 1000 };

struct table {
    atomic_long next;                /* the request to be taken next */
    long requests;                   /* how many there are */
    _Atomic(char *) answer[ANSWERS]; /* the last one for each number, in a block of the heap */
};

static int work(void)
{
    struct table *table = dvsm_root_get(dvsm_heap_default(), "table");
    long request;

    if (table == NULL) {
        perror("worker: table");
        return EXIT_FAILURE;
    }
    while ((request = atomic_fetch_add(&table->next, 1)) < table->requests) {
        char *answer = dvsm_malloc(32);

        if (answer == NULL)
            return EXIT_FAILURE;
        snprintf(answer, 32, "%ld", request);
        dvsm_free(atomic_exchange(&table->answer[request % ANSWERS], answer));
    }
    return EXIT_SUCCESS;
}

static pid_t start_worker(const char *program)
{
    pid_t worker = fork();

    if (worker == 0) {
        execl("/proc/self/exe", program, "worker", (char *)NULL);
        _exit(EXIT_FAILURE);
    }
    return worker;
}

/* Each answer is whole, and to a request with that remainder. */
static int look_at(struct table *table)
{
    int wrong = 0;

    for (long i = 0; i < ANSWERS; i++) {
        char *answer = atomic_load(&table->answer[i]);

        wrong += i < table->requests && (answer == NULL || atol(answer) % ANSWERS != i);
        dvsm_free(answer);
    }
    return wrong;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return work();

    int workers = argc > 1 ? atoi(argv[1]) : 4, failed = 0, status;
    struct table *table = dvsm_calloc(1, sizeof *table);
    if (table == NULL || dvsm_root_set(dvsm_heap_default(), "table", table) != 0 ||
        dvsm_heap_inherit(dvsm_heap_default()) != 0) {
        perror("forkserver");
        return EXIT_FAILURE;
    }
    table->requests = argc > 2 ? atol(argv[2]) : 100000;
    for (int i = 0; i < workers; i++)
        failed += start_worker(argv[0]) < 0;
    while (wait(&status) > 0)
        failed += status != 0;
    failed += look_at(table);
    dvsm_free(table);
    failed += dvsm_check(dvsm_heap_default(), stderr);
    printf("%d workers, %ld requests, %d wrong\n", workers, argc > 2 ? atol(argv[2]) : 100000L,
           failed);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
