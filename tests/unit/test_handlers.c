/* test_handlers.c - signal handlers that use the heap, run every few instructions of a call.
 *
 * The processor's trap flag steps a child: the handler runs in the interrupted thread, at any point
 * of a call, and calls functions of the same heap itself. These may fail, but they return and cause
 * no fault; no block is lost, and the heap stays sound.
 *
 * Not under sanitizers: it single-steps whole calls, and instrumentation adds millions of steps.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dvsm/dvsm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.h"
#include "support/cpu.h"
#include "support/stepping.h"

enum { KEPT = 64, STRIDE = 61, STEPS_MOST = 3000000 };

static volatile int faults;
static void *kept[KEPT]; /* the handler's own blocks */
static unsigned got, refused;
static volatile bool over; /* from now on the handler does nothing */

static void count_fault(const dvsm_fault *fault)
{
    fprintf(stderr, "fault: %s: %s\n", fault->function, fault->what);
    faults++;
}

/* ---- what is interrupted */

static void some_calls(void)
{
    void *block[12];
    static const size_t sizes[12] = {24,   40,    300,   3000,   2000,   33000,
                                     5000, 70000, 90000, 150000, 300000, 400000};

    for (size_t i = 0; i < 12; i++)
        block[i] = dvsm_malloc(sizes[i]);
    for (size_t i = 0; i < 6; i += 2)
        block[i] = dvsm_realloc(block[i], sizes[i] / 2 + 16);
    for (size_t i = 0; i < 12; i++)
        dvsm_free(block[i]);
}

static void calls(void *context)
{
    (void)context;
    faults = 0;
    dvsm_set_fault_handler(count_fault);
    some_calls();
    dvsm_malloc_trim(0);
    some_calls();
}

/* ---- handlers */

static void allocate_and_free(unsigned step)
{
    static const size_t sizes[] = {40, 700, 40000, 300000};
    size_t i = step / STRIDE % KEPT;

    if (step > STEPS_MOST)
        abort();
    if (step % STRIDE != 0 || over)
        return;
    dvsm_free(kept[i]);
    kept[i] = dvsm_malloc(sizes[step / STRIDE % 4]);
    got += kept[i] != NULL;
    refused += kept[i] == NULL;
}

static void look_around(unsigned step)
{
    dvsm_stats_t stats;

    if (step > STEPS_MOST)
        abort();
    if (step % (STRIDE * 41) != 0)
        return;
    dvsm_stats(dvsm_heap_default(), &stats);
    dvsm_malloc_trim(0);
    dvsm_malloc_footprint();
    dvsm_mallinfo();
    dvsm_reap(dvsm_heap_default());
    dvsm_check(dvsm_heap_default(), NULL);
}

static void expect_sound(void)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
    assert_int_equal(dvsm_stats(dvsm_heap_default(), &stats), 0);
    assert_int_equal(stats.arenas_damaged, 0);
    assert_int_equal(stats.used_blocks, 0);
}

static void calls_then_nothing_left(void *context)
{
    calls(context);
    over = true;
    for (size_t i = 0; i < KEPT; i++) {
        dvsm_free(kept[i]);
        kept[i] = NULL;
    }
    printf("%u blocks in handlers, %u refused\n", got, refused);
    fflush(stdout);
    if (faults != 0 || got == 0)
        _exit(1);
}

static void test_a_handler_allocates_and_frees(void **state)
{
    (void)state;
    int status = stepping_through(calls_then_nothing_left, NULL, allocate_and_free);
    if (status == -1)
        skip();
    assert_int_equal(status, 0);
    expect_sound();
}

static void calls_without_fault(void *context)
{
    calls(context);
    if (faults != 0)
        _exit(1);
}

static void test_a_handler_looks_around_and_trims(void **state)
{
    (void)state;
    int status = stepping_through(calls_without_fault, NULL, look_around);
    if (status == -1)
        skip();
    assert_int_equal(status, 0);
    expect_sound();
}

/* ---- a block of the arena that the interrupted call has locked */

static void *victim;

static void free_victim(const dvsm_chunk *chunk, void *context)
{
    (void)chunk, (void)context;
    dvsm_free(victim);
    victim = NULL;
}

static void free_in_a_visitor(size_t size)
{
    dvsm_stats_t stats;

    dvsm_set_fault_handler(count_fault);
    faults = 0;
    victim = dvsm_malloc(size);
    void *other = dvsm_malloc(100);
    assert_non_null(victim);
    dvsm_walk(dvsm_heap_default(), free_victim, NULL);
    assert_null(victim);
    dvsm_free(other);
    expect_sound();
    assert_int_equal(dvsm_stats(dvsm_heap_default(), &stats), 0);
    assert_int_equal(stats.large_blocks, 0);
    assert_int_equal(faults, 0);
    dvsm_set_fault_handler(NULL);
}

static void test_what_is_freed_while_its_arena_is_walked_is_free_afterwards(void **state)
{
    (void)state;
    free_in_a_visitor(40);
    free_in_a_visitor(5000);
    free_in_a_visitor(50000);
    free_in_a_visitor(5000000);
}

static void free_twice(const dvsm_chunk *chunk, void *context)
{
    (void)chunk, (void)context;
    if (victim == NULL)
        return;
    dvsm_free(victim);
    dvsm_free(victim);
    victim = NULL;
}

static void test_a_second_free_is_seen_in_the_visitor_and_after_it(void **state)
{
    (void)state;
    dvsm_set_fault_handler(count_fault);
    faults = 0;
    void *block = victim = dvsm_malloc(50000);
    dvsm_walk(dvsm_heap_default(), free_twice, NULL);
    assert_int_equal(faults, 1);
    dvsm_free(block);
    assert_int_equal(faults, 2);
    expect_sound();
    victim = dvsm_malloc(50000);
    block = victim;
    dvsm_walk(dvsm_heap_default(), free_victim, NULL);
    dvsm_free(block);
    assert_int_equal(faults, 3);
    dvsm_set_fault_handler(NULL);
    expect_sound();
}

static void resize_in_visitor(const dvsm_chunk *chunk, void *context)
{
    size_t *usable = context;

    (void)chunk;
    if (*usable != 0)
        return;
    *usable = dvsm_malloc_usable_size(victim);
    char *larger = dvsm_realloc(victim, 100000);
    if (larger == NULL || larger[49999] != 7)
        abort();
    victim = larger;
}

static void test_a_block_of_the_walked_arena_is_measured_and_moved(void **state)
{
    size_t usable = 0;

    (void)state;
    char *block = victim = dvsm_malloc(50000);
    block[49999] = 7;
    dvsm_walk(dvsm_heap_default(), resize_in_visitor, &usable);
    assert_in_range(usable, 50000, 50000 * 5 / 4); /* a class has at most a quarter more */
    dvsm_free(victim);
    expect_sound();
}

/* ---- a handler that ends the process, or forks */

static volatile unsigned end_at;

static void end_the_process(unsigned step)
{
    if (step != end_at)
        return;
    for (size_t i = 0; i < 20; i++)
        dvsm_free(dvsm_malloc(40 + 3000 * i));
    _exit(0);
}

static void test_a_handler_that_ends_the_process_leaves_nothing_locked(void **state)
{
    dvsm_stats_t stats;

    (void)state;
    for (end_at = 5; end_at < 6000; end_at += 701 + end_at % 29) {
        int status = stepping_through(calls, NULL, end_the_process);

        if (status == -1)
            skip();
        assert_int_equal(status, 0);
        alarm(30);
        some_calls();
        dvsm_malloc_trim(0);
        assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
        alarm(0);
    }
    assert_int_equal(dvsm_stats(dvsm_heap_default(), &stats), 0);
}

static volatile int forked, stopped;

/* Forks in the handler; the child returns into the interrupted call. */
static void fork_in_handler(unsigned step)
{
    int status;

    if (step % 4001 != 0 || forked)
        return;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        forked = 1;
        return;
    }
    waitpid(child, &status, 0);
    stopped += status != 0;
    if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT))
        abort();
}

static void calls_then_some_stopped(void *context)
{
    calls(context);
    if (!forked && stopped == 0)
        _exit(1);
}

static void test_a_child_forked_in_a_handler_goes_on_whole_or_is_stopped(void **state)
{
    (void)state;
    int status = stepping_through(calls_then_some_stopped, NULL, fork_in_handler);
    if (status == -1)
        skip();
    assert_int_equal(status, 0);
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

/* The process stays on one CPU, so that no trim starts a thread for another CPU. Starting one
 * blocks all signals for a moment, and the trap by which these tests step would then end the
 * process. */
int main(void)
{
    cpu_stay(NULL);

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_freed_while_its_arena_is_walked_is_free_afterwards),
        cmocka_unit_test(test_a_second_free_is_seen_in_the_visitor_and_after_it),
        cmocka_unit_test(test_a_block_of_the_walked_arena_is_measured_and_moved),
        cmocka_unit_test(test_a_handler_allocates_and_frees),
        cmocka_unit_test(test_a_handler_looks_around_and_trims),
        cmocka_unit_test(test_a_handler_that_ends_the_process_leaves_nothing_locked),
        cmocka_unit_test(test_a_child_forked_in_a_handler_goes_on_whole_or_is_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
