/* test_stopped_holder.c - a process that is stopped while it holds a lock keeps nobody waiting.
 *
 * The locks are, in turn, those of the first arena, all depots, the table of arenas, and a lane.
 * Meanwhile another process allocates and frees, also blocks of the locked arena; its longest call
 * is measured.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/depot.h"
#include "heap/heap.h"
#include "support/child.h"
#include "support/exchange.h"

enum { BLOCKS = 300, ROUNDS = 4000, BAR_MS = 20 };

static struct dvsm_heap *heap;
static void *block[BLOCKS];

static void hold_arena(void)
{
    struct arena_hold hold = {0};

    if (!arenas_enter_index(&heap->arenas, &hold, 0))
        _exit(1);
}

static void hold_depots(void)
{
    if (!cache_lock_all(&heap->cache))
        _exit(1);
}

static void hold_table(void)
{
    if (lock_acquire(&heap->region->arenas.lock) != LOCK_ACQUIRED)
        _exit(1);
}

static void hold_lanes(void)
{
    void *former;

    for (size_t i = 0; i < heap->cache.table->cpus && heap->cache.table->mode == LANES_LOCKED; i++)
        if (!word_lock_acquire(&heap->cache.table->lanes[i].lock, &former))
            _exit(1);
}

static pid_t stop_while(void (*hold)(void))
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        hold();
        raise(SIGSTOP);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    return child;
}

static void go_on_while(void (*hold)(void), size_t cache_bytes)
{
    dvsm_stats_t stats;

    heap = dvsm_heap_create(&(dvsm_options){.cache_bytes = cache_bytes});
    assert_non_null(heap);
    for (unsigned i = 0; i < BLOCKS; i++)
        block[i] = dvsm_heap_malloc(heap, exchange_size(i));

    pid_t child = stop_while(hold);
    struct exchange e = {heap, block, BLOCKS, .random = 1, .bar_ms = BAR_MS};
    for (unsigned n = 0; n < ROUNDS; n++)
        assert_true(exchange_block(&e));
    printf("longest call %.1f ms, %u above %d ms\n", e.longest, e.slow, BAR_MS);
    assert_true(e.slow <= ROUNDS / 100); /* a busy machine causes some slow calls */
    kill(child, SIGKILL);
    wait_for_child(child);

    for (unsigned i = 0; i < BLOCKS; i++)
        dvsm_free(block[i]);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_the_holder_of_an_arena(void **state)
{
    (void)state;
    go_on_while(hold_arena, 0);
    go_on_while(hold_arena, SIZE_MAX);
}

static void test_the_holder_of_all_depots(void **state)
{
    (void)state;
    go_on_while(hold_depots, 0);
}

static void test_the_maker_of_an_arena(void **state)
{
    (void)state;
    go_on_while(hold_table, 0);
    go_on_while(hold_table, SIZE_MAX);
}

static void test_the_holder_of_every_lane(void **state)
{
    (void)state;
    go_on_while(hold_lanes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_holder_of_an_arena),
        cmocka_unit_test(test_the_holder_of_all_depots),
        cmocka_unit_test(test_the_maker_of_an_arena),
        cmocka_unit_test(test_the_holder_of_every_lane),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
