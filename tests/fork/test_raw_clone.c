/* test_raw_clone.c - children that a raw clone() makes without the C library's knowledge, with a
 * copy of the memory or with the memory itself: each is stopped with a message at its first lock.
 * Children of fork() are not stopped. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"

enum { STACK = 256 << 10, LARGE = 300000 };

static dvsm_heap *heap;

/* The block is so large that the calls need locks, whatever is in the lanes. */
static bool use(void)
{
    void *block = dvsm_heap_malloc(heap, LARGE);

    dvsm_free(block);
    return block != NULL;
}

static int use_in_child(void *context)
{
    (void)context;
    return use() ? 0 : 1;
}

static bool was_stopped(pid_t child)
{
    int status;

    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_a_copy_by_a_raw_clone_is_stopped(void **state)
{
    (void)state;
    assert_true(use());
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(use() ? 0 : 1);
    assert_true(was_stopped(child));
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static pid_t share_memory(char *stack)
{
    return clone(use_in_child, stack + STACK, CLONE_VM | SIGCHLD, NULL);
}

static void test_a_child_that_shares_the_memory_is_stopped(void **state)
{
    (void)state;
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(stack != MAP_FAILED);
    assert_true(use());
    assert_true(was_stopped(share_memory(stack)));
    assert_true(use());
    assert_int_equal(dvsm_check(heap, stderr), 0);
    munmap(stack, STACK);
}

/* The lane serves this block, so that no lock is needed. */
static int use_lane(void *context)
{
    (void)context;
    dvsm_free(dvsm_heap_malloc(heap, 64));
    return 0;
}

static void test_such_a_child_is_stopped_though_the_lane_serves_it(void **state)
{
    (void)state;
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(stack != MAP_FAILED);
    for (int i = 0; i < 200; i++)
        use_lane(NULL);
    assert_true(was_stopped(clone(use_lane, stack + STACK, CLONE_VM | SIGCHLD, NULL)));
    assert_int_equal(dvsm_check(heap, stderr), 0);
    munmap(stack, STACK);
}

/* Clones in a thread, whose stack lies among others'. */
static void *clone_in_thread(void *stack)
{
    return use() && was_stopped(share_memory(stack)) && use() ? stack : NULL;
}

static void test_a_child_of_a_thread_is_stopped(void **state)
{
    (void)state;
    pthread_t thread;
    void *result;
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(stack != MAP_FAILED);
    assert_int_equal(pthread_create(&thread, NULL, clone_in_thread, stack), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, stack);
    munmap(stack, STACK);
}

/* ---- what must not be taken for such a child */

static void *fork_in_thread(void *context)
{
    if (context != NULL)
        use();
    return run_in_child(use_in_child, NULL) == 0 && use() ? heap : NULL;
}

static void test_a_thread_may_fork_before_and_after_its_first_call(void **state)
{
    (void)state;
    for (uintptr_t before = 0; before < 2; before++) {
        pthread_t thread;
        void *result;

        assert_int_equal(pthread_create(&thread, NULL, fork_in_thread, (void *)before), 0);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, heap);
    }
}

static int grandchildren(void *context)
{
    const int *depth = context;

    if (*depth == 0)
        return use() ? 0 : 1;
    CHILD_CHECK(*depth % 2 == 0 || use());
    CHILD_CHECK(run_in_child(grandchildren, &(int){*depth - 1}) == 0);
    CHILD_CHECK(use());
    return 0;
}

static void test_children_of_children_are_known(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(grandchildren, &(int){5}), 0);
}

/* A thread may call far down its stack and further up again, and on a signal handler's own
 * stack. */
static volatile sig_atomic_t handled;

static void on_signal(int number)
{
    (void)number;
    handled = use();
}

static bool use_deep_down(int levels)
{
    volatile char room[64 << 10];

    room[0] = room[sizeof room - 1] = (char)levels;
    return levels == 0 ? use() : use_deep_down(levels - 1) && use() && room[0] == (char)levels;
}

static void test_a_thread_may_be_anywhere_on_any_stack(void **state)
{
    (void)state;
    stack_t other = {.ss_sp = malloc(STACK), .ss_size = STACK}, former;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};

    assert_true(use_deep_down(60));
    assert_int_equal(sigaltstack(&other, &former), 0);
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    for (int i = 0; i < 3; i++) {
        handled = 0;
        raise(SIGUSR1);
        assert_true(handled);
        assert_true(use());
    }
    sigaltstack(&former, NULL);
    free(other.ss_sp);
}

/* In nested process namespaces parent and child can have the same process id: 1. */
static int first_of_a_namespace(void *context)
{
    const bool *again = context;

    if (*again && unshare(CLONE_NEWPID) != 0)
        return CHILD_SKIP;
    CHILD_CHECK(use());
    if (!*again)
        return 0;
    CHILD_CHECK(run_in_child(first_of_a_namespace, &(bool){false}) == 0);
    CHILD_CHECK(use());
    return 0;
}

static int in_a_namespace(void *context)
{
    (void)context;
    if (unshare(CLONE_NEWPID) != 0)
        return CHILD_SKIP;
    return WEXITSTATUS(run_in_child(first_of_a_namespace, &(bool){true}));
}

static void test_the_same_number_in_another_namespace_is_right(void **state)
{
    (void)state;
    int status = run_in_child(in_a_namespace, NULL);

    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
        skip();
    assert_int_equal(status, 0);
}

static int make_heap(void **state)
{
    const struct rlimit no_core = {0, 0};

    (void)state;
    setrlimit(RLIMIT_CORE, &no_core);
    heap = dvsm_heap_create(&(dvsm_options){.reserve = (size_t)64 << 20});
    return heap != NULL ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_by_a_raw_clone_is_stopped),
        cmocka_unit_test(test_a_child_that_shares_the_memory_is_stopped),
        cmocka_unit_test(test_such_a_child_is_stopped_though_the_lane_serves_it),
        cmocka_unit_test(test_a_child_of_a_thread_is_stopped),
        cmocka_unit_test(test_a_thread_may_fork_before_and_after_its_first_call),
        cmocka_unit_test(test_children_of_children_are_known),
        cmocka_unit_test(test_a_thread_may_be_anywhere_on_any_stack),
        cmocka_unit_test(test_the_same_number_in_another_namespace_is_right),
    };

    return cmocka_run_group_tests(tests, make_heap, NULL);
}
