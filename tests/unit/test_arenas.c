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

static const struct arena *arena(const struct dvsm_heap *h, size_t index)
{
    return &region_arena(h->region, index)->arena;
}

static void assert_parameters(const struct arena *a, size_t trim, size_t granularity, size_t large)
{
    assert_int_equal(a->trim_threshold, trim);
    assert_int_equal(a->trim_check, trim);
    assert_int_equal(a->granularity, granularity);
    assert_int_equal(a->large_threshold, large);
}

static void test_an_arena_begins_with_the_defaults(void **state)
{
    (void)state;
    use_arenas(3);
    arena_for_next(100);
    assert_parameters(arena(heap, 0), 2 * MIB, 64 * KIB, 256 * KIB);
    assert_int_equal(arena(heap, 0)->growth_most, 2 * MIB);
}

/* The default heap, because only that has a public function for it; no other test here uses it. */
static void test_mallopt_before_any_arena_and_after(void **state)
{
    struct dvsm_heap *h = heap_default();

    (void)state;
    assert_non_null(h);
    assert_int_equal(region_arena_count(h->region), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 12345678), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 1 << 20), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 7 * MIB), 1);
    assert_int_equal(region_arena_count(h->region), 0);
    assert_true(arenas_make(&h->arenas, 0));
    assert_parameters(arena(h, 0), 12345678, MIB, 7 * MIB);

    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, -1), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 4096), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 0), 1);
    assert_true(arenas_make(&h->arenas, 1));
    for (size_t i = 0; i < 2; i++)
        assert_parameters(arena(h, i), SIZE_MAX, GRANULE, 0);
    assert_int_equal(dvsm_check(h, stderr), 0);
}

static void test_a_heap_keeps_its_parameters_to_itself(void **state)
{
    (void)state;
    use_arenas(3);
    struct dvsm_heap *other = dvsm_heap_create(NULL);
    assert_non_null(other);
    assert_true(heap_set_parameter(other, DVSM_M_TRIM_THRESHOLD, 5 * MIB, "test"));
    arena_for_next(100);
    assert_true(arenas_make(&other->arenas, 0));
    assert_parameters(arena(heap, 0), 2 * MIB, 64 * KIB, 256 * KIB);
    assert_parameters(arena(other, 0), 5 * MIB, 64 * KIB, 256 * KIB);
    assert_int_equal(dvsm_heap_destroy(other), 0);
}

static void test_a_parameter_that_is_refused_changes_nothing(void **state)
{
    static const struct {
        int parameter, value;
    } wrong[] = {
        {DVSM_M_GRANULARITY, 0},
        {DVSM_M_GRANULARITY, -1},
        {DVSM_M_GRANULARITY, 2048},
        {DVSM_M_GRANULARITY, 65535},
        {DVSM_M_GRANULARITY, 100000},
        {DVSM_M_TRIM_THRESHOLD, -2},
        {DVSM_M_MMAP_THRESHOLD, -12345},
        {DVSM_M_RETAIN, -2},
        {0, 65536},
        {1, 65536},
        {-5, 65536},
    };

    (void)state;
    use_arenas(3);
    arena_for_next(100);
    const struct policy before = heap->region->policy;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(heap_set_parameter(heap, wrong[i].parameter, wrong[i].value, "test"));
        assert_memory_equal(&before, &heap->region->policy, sizeof before);
        assert_parameters(arena(heap, 0), 2 * MIB, 64 * KIB, 256 * KIB);
    }
    assert_true(arenas_make(&heap->arenas, 1));
    assert_parameters(arena(heap, 1), 2 * MIB, 64 * KIB, 256 * KIB);
}

static void test_a_damaged_granularity_is_not_taken_over(void **state)
{
    static const size_t damaged[] = {0, 1, 2048, 65535, 100000, SIZE_MAX};

    (void)state;
    use_arenas(100);
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        heap->region->policy.granularity = damaged[i];
        assert_true(arenas_make(&heap->arenas, i));
        assert_parameters(arena(heap, i), 2 * MIB, 64 * KIB, 256 * KIB);
    }
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
        TEST(test_an_arena_begins_with_the_defaults),
        cmocka_unit_test(test_mallopt_before_any_arena_and_after),
        TEST(test_a_heap_keeps_its_parameters_to_itself),
        TEST(test_a_parameter_that_is_refused_changes_nothing),
        TEST(test_a_damaged_granularity_is_not_taken_over),
        TEST(test_a_block_goes_back_to_the_arena_it_came_from),
        TEST(test_a_cpu_whose_arena_grew_beyond_its_share_prefers_the_smallest),
        TEST(test_a_damaged_arena_serves_nobody),
        TEST(test_all_damaged_is_no_memory),
        TEST(test_arenas_are_made_after_their_maker_died),
        TEST(test_a_dead_holder_of_any_arena_is_recovered_by_the_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
