/* test_cancel.c - threads that are to be cancelled: no call of the library is where that happens,
 * but the end of dvsm_heap_destroy(). */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"

enum { MIB = 1 << 20 };

/* What a thread with a cancellation pending does; the last line says that it got so far. */
typedef void (*calls)(void);
static bool came_to_its_end;

static void *run_to_be_cancelled(void *context)
{
    pthread_cancel(pthread_self());
    (*(const calls *)context)();
    came_to_its_end = true;
    pthread_testcancel();
    return NULL;
}

/* Whether the request is still there afterwards is seen by the thread's end. */
static void check(calls work)
{
    pthread_t thread;
    void *result = NULL;

    came_to_its_end = false;
    assert_int_equal(pthread_create(&thread, NULL, run_to_be_cancelled, (void *)&work), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_true(came_to_its_end);
    assert_ptr_equal(result, PTHREAD_CANCELED);
}

static dvsm_heap *heap;
static void *block[64];

static void allocate_and_free(void)
{
    for (size_t i = 0; i < 64; i++)
        block[i] = dvsm_heap_malloc(heap, i * 40000);
    for (size_t i = 0; i < 64; i++)
        block[i] = dvsm_realloc(block[i], i * 30000 + 1);
    for (size_t i = 0; i < 64; i++)
        dvsm_free(block[i]);
    dvsm_heap_trim(heap, 0);
}

static void make_heaps(void)
{
    static const dvsm_backend *const backends[] = {NULL, &dvsm_backend_memfd,
                                                   &dvsm_backend_shm_open, &dvsm_backend_anon};

    for (size_t i = 0; i < 4; i++) {
        block[i] =
            dvsm_heap_create(&(dvsm_options){.backend = backends[i], .reserve = (size_t)64 * MIB});
        if (block[i] == NULL)
            return;
    }
}

static void unlink_name(void)
{
    dvsm_heap_unlink("/dvsm-test-that-is-not-there");
}

static void test_a_pending_cancellation_ends_no_call(void **state)
{
    static const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open,
                                                   &dvsm_backend_anon};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        heap =
            dvsm_heap_create(&(dvsm_options){.backend = backends[i], .reserve = (size_t)256 * MIB});
        assert_non_null(heap);
        check(allocate_and_free);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        if (i == 0)
            check(unlink_name);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
    check(make_heaps);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(dvsm_heap_destroy(block[i]), 0);
}

/* The reports: stdout's and stderr's write() would be cancellation points. */
static void print_statistics(void)
{
    dvsm_malloc_stats();
}

static int prints_statistics(void *context)
{
    pthread_t thread;
    calls work = print_statistics;

    (void)context;
    CHILD_CHECK(pthread_create(&thread, NULL, run_to_be_cancelled, (void *)&work) == 0);
    CHILD_CHECK(pthread_join(thread, NULL) == 0);
    CHILD_CHECK(came_to_its_end);
    return 0;
}

static void test_statistics_are_printed_whole(void **state)
{
    (void)state;
    char text[1000];

    assert_int_equal(run_in_child_with_stderr(prints_statistics, NULL, text, sizeof text), 0);
    assert_non_null(strstr(text, "in use bytes"));
}

static void free_twice(void)
{
    void *twice = dvsm_malloc(100);

    dvsm_free(twice);
    dvsm_free(twice);
}

static void free_a_foreign_pointer(void)
{
    static char foreign[64];

    dvsm_free(foreign);
}

static int reports_fault(void *context)
{
    pthread_t thread;
    calls work = context == NULL ? free_twice : free_a_foreign_pointer;

    CHILD_CHECK(pthread_create(&thread, NULL, run_to_be_cancelled, (void *)&work) == 0);
    pthread_join(thread, NULL);
    return 0;
}

static void test_a_fault_is_reported_and_aborts(void **state)
{
    (void)state;
    for (uintptr_t which = 0; which < 2; which++) {
        char text[1000] = "";
        int status = run_in_child_with_stderr(reports_fault, (void *)which, text, sizeof text);

        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGABRT);
        assert_non_null(strstr(text, "dvsm_free: "));
    }
}

/* At its end, once the heap is gone; nothing of it is left. */
static void *destroy_to_be_cancelled(void *doomed)
{
    pthread_cancel(pthread_self());
    dvsm_heap_destroy(doomed);
    return doomed;
}

static void test_destroy_is_done_before_its_thread_ends(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) { /* more than a process can have */
        pthread_t thread;
        void *result;

        heap = dvsm_heap_create(&(dvsm_options){.reserve = (size_t)16 * MIB});
        assert_non_null(heap);
        assert_int_equal(pthread_create(&thread, NULL, destroy_to_be_cancelled, heap), 0);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, PTHREAD_CANCELED);
        assert_int_equal(dvsm_heap_destroy(heap), -1);
    }
    int fd = open("/dev/null", O_RDONLY);
    assert_in_range(fd, 0, 50);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pending_cancellation_ends_no_call),
        cmocka_unit_test(test_statistics_are_printed_whole),
        cmocka_unit_test(test_a_fault_is_reported_and_aborts),
        cmocka_unit_test(test_destroy_is_done_before_its_thread_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
