/* stepping.c - a child under ptrace. */
#define _GNU_SOURCE
#include "support/stepping.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.h"

#if defined __x86_64__ && defined __linux__

/* The stepped work lies between calls of these two. Their bodies differ, so that the compiler
 * does not merge them. */
static volatile int mark;

static __attribute__((noinline)) void begins(void)
{
    mark = 1;
}

static __attribute__((noinline)) void ends(void)
{
    mark = 2;
}

static _Noreturn void be_stepped(stepped_work work, void *context)
{
    const struct rlimit no_core = {0, 0};

    setrlimit(RLIMIT_CORE, &no_core);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(CHILD_SKIP);
    raise(SIGSTOP);
    begins();
    work(context);
    ends();
    _exit(0);
}

static uintptr_t user_word(const struct stepped *s, size_t offset)
{
    return (uintptr_t)ptrace(PTRACE_PEEKUSER, s->child, (void *)offset, NULL);
}

uintptr_t stepping_at(const struct stepped *s)
{
    return user_word(s, offsetof(struct user_regs_struct, rip));
}

uintptr_t stepping_stack_pointer(const struct stepped *s)
{
    return user_word(s, offsetof(struct user_regs_struct, rsp));
}

uintptr_t stepping_peek(const struct stepped *s, uintptr_t address)
{
    return (uintptr_t)ptrace(PTRACE_PEEKDATA, s->child, (void *)address, NULL);
}

/* One step; false: the child has ended, or a signal has stopped it, for good. */
static bool step(const struct stepped *s)
{
    int status;

    return ptrace(PTRACE_SINGLESTEP, s->child, NULL, NULL) == 0 &&
           waitpid(s->child, &status, 0) == s->child && WIFSTOPPED(status) &&
           WSTOPSIG(status) == SIGTRAP;
}

bool stepping_start(struct stepped *s, stepped_work work, void *context)
{
    int status;

    fflush(NULL);
    s->child = fork();
    if (s->child < 0) {
        perror("fork");
        abort();
    }
    if (s->child == 0)
        be_stepped(work, context);
    if (waitpid(s->child, &status, 0) != s->child || !WIFSTOPPED(status))
        return false;
    while (stepping_at(s) != (uintptr_t)begins)
        if (!step(s))
            abort();
    return true;
}

bool stepping_step(struct stepped *s)
{
    if (stepping_at(s) == (uintptr_t)ends)
        return false;
    if (!step(s)) {
        fprintf(stderr, "the child stopped at %#zx\n", (size_t)stepping_at(s));
        abort();
    }
    return true;
}

int stepping_finish(struct stepped *s)
{
    ptrace(PTRACE_DETACH, s->child, NULL, NULL);
    return wait_for_child(s->child);
}

int stepping_kill(struct stepped *s)
{
    kill(s->child, SIGKILL);
    return wait_for_child(s->child);
}

/* ---- by the processor's trap flag */

static void (*each_step)(unsigned step);
static unsigned steps_made;

static void stepped(int number)
{
    (void)number;
    each_step(++steps_made);
}

static __attribute__((noinline)) void set_trap_flag(void)
{
    __asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc");
}

static __attribute__((noinline)) void clear_trap_flag(void)
{
    __asm__ volatile("pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc");
}

int stepping_through(stepped_work work, void *context, void (*each)(unsigned step))
{
    const struct rlimit no_core = {0, 0};
    struct sigaction action = {.sa_handler = stepped};

    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        abort();
    }
    if (child != 0)
        return wait_for_child(child);
    setrlimit(RLIMIT_CORE, &no_core);
    each_step = each;
    sigaction(SIGTRAP, &action, NULL);
    set_trap_flag();
    work(context);
    clear_trap_flag();
    _exit(0);
}

#else

int stepping_through(stepped_work work, void *context, void (*each)(unsigned step))
{
    (void)work, (void)context, (void)each;
    return -1;
}
bool stepping_start(struct stepped *s, stepped_work work, void *context)
{
    (void)s, (void)work, (void)context;
    return false;
}
bool stepping_step(struct stepped *s)
{
    (void)s;
    return false;
}
uintptr_t stepping_at(const struct stepped *s)
{
    (void)s;
    return 0;
}
uintptr_t stepping_stack_pointer(const struct stepped *s)
{
    (void)s;
    return 0;
}
uintptr_t stepping_peek(const struct stepped *s, uintptr_t address)
{
    (void)s, (void)address;
    return 0;
}
int stepping_finish(struct stepped *s)
{
    (void)s;
    return 0;
}
int stepping_kill(struct stepped *s)
{
    (void)s;
    return 0;
}

#endif
