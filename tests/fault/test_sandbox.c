/* test_sandbox.c - processes that may make few system calls: a filter (seccomp) kills on any other,
 * or has the kernel refuse it.
 *
 * docs/sandbox.md lists what is needed and when; here each of its lines is held to.
 *
 * Not under sanitizers: a filter ends the process at any other call, and they make their own.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"
#include "support/cpu.h"

/* The GNU C library asks by either, as its version is. */
#ifdef SYS_newfstatat
#define FSTAT SYS_newfstatat
#else
#define FSTAT SYS_fstat
#endif

enum { MIB = 1 << 20, CALLS_MOST = 32 };

/* Docs: "after fork", "while the heap has memory", "while it grows". A test itself must write what
 * it found, and exit. */
#define OF_THE_TEST SYS_write, SYS_exit_group, SYS_exit, SYS_rt_sigreturn
static const long nothing[] = {OF_THE_TEST};
static const long working[] = {OF_THE_TEST, SYS_madvise, SYS_futex};
static const long growing[] = {OF_THE_TEST,   SYS_madvise, SYS_futex, SYS_fallocate,
                               SYS_ftruncate, SYS_fstat,   FSTAT,     SYS_prlimit64};
#define COUNT(calls) (sizeof(calls) / sizeof *(calls))

/* From here on only those calls are made; what becomes of others: `otherwise`. */
static bool allow_only(const long *calls, size_t count, unsigned otherwise)
{
    struct sock_filter filter[2 * CALLS_MOST + 2];
    struct sock_fprog program = {.filter = filter};

    filter[program.len++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++) {
        filter[program.len++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
        filter[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    filter[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static bool refuse_all_but(const long *calls, size_t count, int error)
{
    return allow_only(calls, count, SECCOMP_RET_ERRNO | (unsigned)error);
}

static void skip_without_seccomp(int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
        skip();
    assert_int_equal(status, 0);
}

/* Blocks of many sizes come and go. */
static bool use(dvsm_heap *heap, size_t largest, size_t blocks)
{
    void *block[512];

    for (size_t i = 0; i < blocks; i++) {
        size_t size = 16 + i * 7919 % largest;

        block[i] = dvsm_heap_malloc(heap, size);
        if (block[i] == NULL)
            return false;
        memset(block[i], (int)i, size);
    }
    for (size_t i = 0; i < blocks; i++)
        dvsm_free(block[i]);
    return true;
}

static const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open,
                                               &dvsm_backend_anon};

/* On one CPU (cpu_stay), which its children are on, too: another one's lane has stock of its own to
 * get. */
static dvsm_heap *make_used_heap(const dvsm_backend *b)
{
    const dvsm_options options = {.backend = b, .reserve = (size_t)1 << 30, .arenas = 1};
    dvsm_heap *heap = dvsm_heap_create(&options);

    assert_non_null(heap);
    for (int i = 0; i < 3; i++)
        assert_true(use(heap, 3000, 512));
    return heap;
}

/* ---- killed for anything else */

static int first_calls(void *context)
{
    dvsm_heap *heap = context;

    if (!allow_only(nothing, COUNT(nothing), SECCOMP_RET_KILL_PROCESS))
        return CHILD_SKIP;
    CHILD_CHECK(use(heap, 3000, 100));
    void *block = dvsm_heap_malloc(heap, 100);
    block = dvsm_realloc(block, 200);
    CHILD_CHECK(block != NULL && dvsm_malloc_usable_size(block) >= 200);
    dvsm_free(block);
    return 0;
}

static int uses_what_is_there(void *context)
{
    dvsm_heap *heap = context;

    if (!allow_only(working, COUNT(working), SECCOMP_RET_KILL_PROCESS))
        return CHILD_SKIP;
    for (int i = 0; i < 10; i++)
        CHILD_CHECK(use(heap, 3000, 512));
    return 0;
}

static int grows(void *context)
{
    dvsm_heap *heap = context;
    void *block[300];

    if (!allow_only(growing, COUNT(growing), SECCOMP_RET_KILL_PROCESS))
        return CHILD_SKIP;
    for (size_t i = 0; i < 300; i++) {
        block[i] = dvsm_heap_malloc(heap, i % 3 == 0 ? 300000 : 5000);
        CHILD_CHECK(block[i] != NULL);
        memset(block[i], 1, 5000);
    }
    for (size_t i = 0; i < 300; i++)
        dvsm_free(block[i]);
    return 0;
}

static void in_each_backend(child_work work)
{
    for (size_t i = 0; i < COUNT(backends); i++) {
        dvsm_heap *heap = make_used_heap(backends[i]);
        int status = run_in_child(work, heap);

        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
        skip_without_seccomp(status);
    }
}

static void test_a_child_of_fork_needs_no_call_for_its_first(void **state)
{
    (void)state;
    in_each_backend(first_calls);
}

static void test_a_heap_that_has_memory_needs_two_calls(void **state)
{
    (void)state;
    in_each_backend(uses_what_is_there);
}

static void test_a_heap_that_grows_needs_few_calls(void **state)
{
    (void)state;
    in_each_backend(grows);
}

/* ---- refused */

struct refusal {
    dvsm_heap *heap;
    const long *calls;
    size_t count;
    int error;
};

/* Everything it asks for; what there is no memory for is ENOMEM. */
static int goes_on(void *context)
{
    const struct refusal *r = context;
    void *block[200];

    if (!refuse_all_but(r->calls, r->count, r->error))
        return CHILD_SKIP;
    for (size_t i = 0; i < 200; i++) {
        errno = 0;
        block[i] = dvsm_heap_malloc(r->heap, i % 3 == 0 ? 100000 : 5000);
        CHILD_CHECK(block[i] != NULL || errno == ENOMEM);
        if (block[i] != NULL)
            memset(block[i], 1, 5000);
    }
    for (size_t i = 0; i < 200; i++) {
        errno = EDOM;
        dvsm_free(block[i]);
        CHILD_CHECK(errno == EDOM);
    }
    dvsm_heap_trim(r->heap, 0);
    errno = 0;
    dvsm_heap *another = dvsm_heap_create(NULL);
    CHILD_CHECK(another != NULL || errno != 0);
    CHILD_CHECK(dvsm_check(r->heap, NULL) == 0);
    return 0;
}

static void test_what_is_refused_is_done_otherwise_or_is_no_memory(void **state)
{
    (void)state;
    static const int errors[] = {EPERM, ENOSYS};
    static const long without_madvise[] = {OF_THE_TEST, SYS_fallocate, SYS_fstat, FSTAT,
                                           SYS_rt_sigprocmask};
    static const long by_touching[] = {OF_THE_TEST, SYS_rt_sigprocmask};
    const struct {
        const long *calls;
        size_t count;
    } sets[] = {{nothing, COUNT(nothing)},
                {working, COUNT(working)},
                {growing, COUNT(growing)},
                {without_madvise, COUNT(without_madvise)},
                {by_touching, COUNT(by_touching)}};

    for (size_t b = 0; b < COUNT(backends); b++)
        for (size_t s = 0; s < COUNT(sets) * 2; s++) {
            struct refusal r = {make_used_heap(backends[b]), sets[s / 2].calls, sets[s / 2].count,
                                errors[s % 2]};
            int status = run_in_child(goes_on, &r);

            assert_int_equal(dvsm_check(r.heap, stderr), 0);
            assert_int_equal(dvsm_heap_destroy(r.heap), 0);
            skip_without_seccomp(status);
        }
}

/* A thread that starts in the sandbox, which tells it nothing about itself. */
static void *allocate_in_thread(void *heap)
{
    for (size_t i = 0; i < 1000; i++)
        dvsm_free(dvsm_heap_malloc(heap, 16 + i));
    return heap;
}

static int has_a_thread(void *context)
{
    static const long calls[] = {
        OF_THE_TEST, SYS_madvise,  SYS_futex,          SYS_clone,           SYS_clone3, SYS_mmap,
        SYS_munmap,  SYS_mprotect, SYS_rt_sigprocmask, SYS_set_robust_list, SYS_rseq};
    pthread_t thread;
    void *result = NULL;

    if (!refuse_all_but(calls, COUNT(calls), EPERM))
        return CHILD_SKIP;
    CHILD_CHECK(pthread_create(&thread, NULL, allocate_in_thread, context) == 0);
    CHILD_CHECK(pthread_join(thread, &result) == 0);
    CHILD_CHECK(result == context);
    return 0;
}

static void test_a_thread_may_start_in_a_sandbox(void **state)
{
    (void)state;
    in_each_backend(has_a_thread);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_child_of_fork_needs_no_call_for_its_first),
        cmocka_unit_test(test_a_heap_that_has_memory_needs_two_calls),
        cmocka_unit_test(test_a_heap_that_grows_needs_few_calls),
        cmocka_unit_test(test_what_is_refused_is_done_otherwise_or_is_no_memory),
        cmocka_unit_test(test_a_thread_may_start_in_a_sandbox),
    };

    return cmocka_run_group_tests(tests, cpu_stay, NULL);
}
