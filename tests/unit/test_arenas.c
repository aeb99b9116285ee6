/* test_arenas.c - several arenas: which one serves, making one, moving to another, keeping their
 * sizes even, damage. Caches are off, so that each call reaches an arena.
 *
 * Modes: default
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
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "support/child.h"
#include "support/cpu.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

static struct dvsm_heap *heap;
static struct arena_table *table;

static void use_arenas(unsigned wanted)
{
    heap = dvsm_heap_create(&(dvsm_options){.arenas = wanted, .cache_bytes = SIZE_MAX});
    assert_non_null(heap);
    table = &heap->region->arenas;
}

static int tear_down(void **state)
{
    (void)state;
    return dvsm_check(heap, stderr) != 0 || dvsm_heap_destroy(heap) != 0 ? -1 : 0;
}

/* The arena of a block, counted from 0. */
static size_t arena_of(const void *block)
{
    return segment_owner(heap->region->map, block, NULL) - 1;
}

static size_t arena_for_next(size_t size)
{
    void *block = dvsm_heap_malloc(heap, size);

    assert_non_null(block);
    size_t index = arena_of(block);
    dvsm_free(block);
    return index;
}

/* ---- making */

static void test_the_first_block_makes_the_first_arena(void **state)
{
    (void)state;
    use_arenas(4);
    assert_int_equal(arenas_count(table), 0);
    assert_int_equal(arena_for_next(100), 0);
    assert_int_equal(arenas_count(table), 1);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(arena_for_next(100), 0);
    assert_int_equal(arenas_count(table), 1);
}

static void test_a_taken_arena_is_left_alone_and_one_more_made(void **state)
{
    struct arena_hold hold[4];

    (void)state;
    use_arenas(4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(arena_for_next(100), i);
        assert_int_equal(arenas_count(table), i + 1);
        assert_true(arenas_enter_index(&heap->arenas, &hold[i], i));
    }
    for (size_t i = 0; i < 4; i++)
        arenas_leave(&heap->arenas, &hold[i]);
    /* An arena that exists already is tried before another one is made. */
    assert_true(arenas_enter_index(&heap->arenas, &hold[0], 3));
    assert_in_range(arena_for_next(100), 0, 2);
    arenas_leave(&heap->arenas, &hold[0]);
    assert_int_equal(arenas_count(table), 4);
}

static size_t arenas_after_contention(void)
{
    pid_t child[4];

    for (size_t i = 0; i < 4; i++) {
        child[i] = fork();
        assert_true(child[i] >= 0);
        if (child[i] == 0) {
            for (size_t k = 0; k < 20000; k++)
                dvsm_free(dvsm_heap_malloc(heap, 16 + k % 3000));
            _exit(0);
        }
    }
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    return arenas_count(table);
}

/* A holder that gets no CPU for long looks as if it were stopped, and another arena is made.
 * That may happen on a busy machine: hence the attempts. */
static void test_a_heap_of_one_arena_has_one(void **state)
{
    (void)state;
    use_arenas(1);
    for (int attempt = 1; arenas_after_contention() != 1; attempt++) {
        assert_true(attempt < 10);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
        use_arenas(1);
    }
}

static void test_more_arenas_than_there_is_room_for_are_as_many_as_there_is(void **state)
{
    (void)state;
    use_arenas(100000);
    assert_int_equal(table->wanted, table->most);
    assert_in_range(table->most, 64, SEGMENT_OWNER_MOST);
    for (size_t i = 0; i < table->most; i++)
        assert_true(arenas_make(&heap->arenas, i));
    assert_false(arenas_make(&heap->arenas, table->most));
    assert_int_equal(arenas_count(table), table->most);
}

/* The page of an arena counts against the limit. If there is no memory for it, the arenas that
 * exist serve. */
static void test_an_arena_that_cannot_be_made_is_done_without(void **state)
{
    struct arena_hold hold;

    (void)state;
    use_arenas(4);
    assert_int_equal(arena_for_next(100), 0);
    size_t page = dvsm_heap_footprint(heap);
    assert_true(arenas_make(&heap->arenas, 1));
    assert_int_equal(dvsm_heap_footprint(heap), page + table->stride);
    dvsm_heap_set_limit(heap, GRANULE);
    assert_false(arenas_make(&heap->arenas, 2));
    assert_true(arenas_enter_index(&heap->arenas, &hold, 1));
    assert_int_equal(arena_for_next(100), 0);
    arenas_leave(&heap->arenas, &hold);
    assert_int_equal(arenas_count(table), 2);
}

static void test_a_new_arena_has_the_parameters_of_the_first(void **state)
{
    (void)state;
    use_arenas(3);
    arena_for_next(100);
    arena_set_parameter(&region_arena(heap->region, 0)->arena, -1, 12345678);
    arena_set_parameter(&region_arena(heap->region, 0)->arena, -3, 7 * MIB);
    assert_true(arenas_make(&heap->arenas, 1));
    const struct arena *made = &region_arena(heap->region, 1)->arena;
    assert_int_equal(made->trim_threshold, 12345678);
    assert_int_equal(made->large_threshold, 7 * MIB);
    assert_int_equal(made->id, 2);
}

/* ---- whose a block is */

static void test_a_block_goes_back_to_the_arena_it_came_from(void **state)
{
    void *block[40];
    struct arena_hold hold[4];

    (void)state;
    use_arenas(4);
    for (size_t i = 0; i < 4; i++) {
        for (size_t k = 0; k < 10; k++) {
            block[10 * i + k] = dvsm_heap_malloc(heap, k == 9 ? 500 * KIB : (size_t)100 << k);
            assert_int_equal(arena_of((char *)block[10 * i + k] - CHUNK_HEADER), i);
        }
        assert_true(arenas_enter_index(&heap->arenas, &hold[i], i));
    }
    for (size_t i = 0; i < 4; i++)
        arenas_leave(&heap->arenas, &hold[i]);
    for (size_t k = 0; k < 40; k++)
        dvsm_free(block[k * 7 % 40]);
    for (size_t i = 0; i < 4; i++) {
        struct arena_usage usage;

        arena_usage(&region_arena(heap->region, i)->arena, &usage);
        assert_int_equal(usage.used_chunks + usage.large_count, 0);
    }
}

/* ---- evening out */

static void test_a_cpu_whose_arena_grew_beyond_its_share_prefers_the_smallest(void **state)
{
    static void *block[600];
    size_t bytes[3] = {0}, most = 0, sum = 0;

    (void)state;
    use_arenas(3);
    for (size_t i = 0; i < 3; i++)
        assert_true(arenas_make(&heap->arenas, i));
    for (size_t i = 0; i < 600; i++) {
        block[i] = dvsm_heap_malloc(heap, 30 * KIB);
        bytes[arena_of(block[i])] += 30 * KIB;
        assert_true(i % 50 != 0 || dvsm_check(heap, stderr) == 0);
    }
    for (size_t i = 0; i < 3; i++) {
        sum += bytes[i];
        most = bytes[i] > most ? bytes[i] : most;
    }
    assert_true(most <= 2 * sum / 3);
    for (size_t i = 0; i < 600; i++)
        dvsm_free(block[i]);
}

/* ---- damage and death */

static void test_a_damaged_arena_serves_nobody(void **state)
{
    (void)state;
    use_arenas(2);
    assert_int_equal(arena_for_next(100), 0);
    void *block = dvsm_heap_malloc(heap, 100);
    region_arena(heap->region, 0)->arena.damaged = 1;
    for (int i = 0; i < 10; i++)
        assert_int_equal(arena_for_next(100), 1);
    region_arena(heap->region, 1)->arena.damaged = 1; /* then one more than wanted is made */
    for (int i = 0; i < 10; i++)
        assert_int_equal(arena_for_next(100), 2);
    dvsm_free(block); /* its arena is damaged: free does nothing */
    dvsm_stats_t stats;
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.arenas_damaged, 2);
    assert_int_equal(stats.used_blocks, 0);
    region_arena(heap->region, 0)->arena.damaged = 0;
    region_arena(heap->region, 1)->arena.damaged = 0;
    table->damaged = 0;
}

static void test_all_damaged_is_no_memory(void **state)
{
    (void)state;
    use_arenas(2);
    arena_for_next(100);
    for (size_t i = 0; i < table->most; i++) {
        arenas_make(&heap->arenas, i);
        region_arena(heap->region, i)->arena.damaged = 1;
    }
    assert_null(dvsm_heap_malloc(heap, 100));
    for (size_t i = 0; i < table->most; i++)
        region_arena(heap->region, i)->arena.damaged = 0;
}

static int die_while_making(void *context)
{
    (void)context;
    lock_acquire(&table->lock);
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_arenas_are_made_after_their_maker_died(void **state)
{
    (void)state;
    use_arenas(4);
    for (size_t i = 0; i < 4; i++) {
        assert_true(WIFSIGNALED(run_in_child(die_while_making, NULL)));
        assert_true(arenas_make(&heap->arenas, i));
        assert_int_equal(arenas_count(table), i + 1);
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
}

static int die_in_the_arena(void *context)
{
    struct arena_hold hold;

    CHILD_CHECK(arenas_enter_index(&heap->arenas, &hold, *(const size_t *)context));
    journal_store(&hold.slot->arena.journal, &hold.slot->arena.dv_size, 99);
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_a_dead_holder_of_any_arena_is_recovered_by_the_next(void **state)
{
    (void)state;
    use_arenas(3);
    for (size_t i = 0; i < 3; i++)
        assert_true(arenas_make(&heap->arenas, i));
    for (size_t i = 0; i < 3; i++) {
        struct arena_hold hold;

        assert_true(WIFSIGNALED(run_in_child(die_in_the_arena, &i)));
        assert_true(arenas_enter_index(&heap->arenas, &hold, i));
        assert_int_equal(hold.slot->arena.dv_size, 0);
        assert_int_equal(hold.slot->recoveries, 1);
        arenas_leave(&heap->arenas, &hold);
    }
}

int main(void)
{
/* The test stays on one CPU, so that it knows which CPU's preference counts. */
#define TEST(function) cmocka_unit_test_setup_teardown(function, cpu_stay, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_the_first_block_makes_the_first_arena),
        TEST(test_a_taken_arena_is_left_alone_and_one_more_made),
        TEST(test_a_heap_of_one_arena_has_one),
        TEST(test_more_arenas_than_there_is_room_for_are_as_many_as_there_is),
        TEST(test_an_arena_that_cannot_be_made_is_done_without),
        TEST(test_a_new_arena_has_the_parameters_of_the_first),
        TEST(test_a_block_goes_back_to_the_arena_it_came_from),
        TEST(test_a_cpu_whose_arena_grew_beyond_its_share_prefers_the_smallest),
        TEST(test_a_damaged_arena_serves_nobody),
        TEST(test_all_damaged_is_no_memory),
        TEST(test_arenas_are_made_after_their_maker_died),
        TEST(test_a_dead_holder_of_any_arena_is_recovered_by_the_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
