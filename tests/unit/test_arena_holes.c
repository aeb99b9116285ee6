/* test_arena_holes.c - memory inside free chunks: it is given back, and taken again when it is
 * used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/arena_internal.h"
#include "support/growing_arena.h"
#include "support/guarded_backend.h"

enum { GRANULES = 400, BLOCKS = 60 };

static int setup(void **state)
{
    *state = growing_arena_new_over(GRANULES, &guarded_backend);
    return 0;
}

static int teardown(void **state)
{
    growing_arena_delete(*state);
    return 0;
}

static void *allocate(struct growing_arena *g, size_t bytes)
{
    struct arena_call call = growing_arena_call(g);
    void *block = arena_malloc(&call, bytes);

    assert_int_equal(call.fault.kind, FAULT_NONE);
    if (block != NULL)
        memset(block, 0x5a, bytes);
    assert_int_equal(growing_arena_check(g), 0);
    return block;
}

static void release(struct growing_arena *g, void *block)
{
    struct arena_call call = growing_arena_call(g);

    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
}

static bool punch(struct growing_arena *g, size_t pad)
{
    struct arena_call call = growing_arena_call(g);
    bool punched = arena_punch(&call, pad);

    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
    return punched;
}

static size_t with_memory(struct growing_arena *g)
{
    struct segment_usage usage;

    segment_usage(&g->segments, &usage);
    return usage.committed;
}

/* Allocates BLOCKS blocks of `bytes` and frees every second one: that leaves free chunks between
 * blocks, and a top. */
static void spread(struct growing_arena *g, size_t bytes, void **block)
{
    arena_set_parameter(g->arena, -3, ARENA_NEVER);
    for (size_t i = 0; i < BLOCKS; i++)
        assert_non_null(block[i] = allocate(g, bytes));
    for (size_t i = 1; i < BLOCKS; i += 2)
        release(g, block[i]);
}

static void test_all_whole_pages_inside_free_chunks_go(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];
    size_t page = g->source.page, before;

    spread(g, 5 * page, block);
    before = with_memory(g);
    assert_true(punch(g, 0));
    /* Each chunk keeps at most the pages with its fields and its end. */
    assert_true(g->arena->holes >= BLOCKS / 2 * 3);
    assert_int_equal(with_memory(g), before - g->arena->holes * page);
    assert_false(punch(g, 0));
    for (size_t i = 0; i < BLOCKS; i += 2)
        for (size_t j = 0; j < 5 * page; j++)
            assert_int_equal(((unsigned char *)block[i])[j], 0x5a);
}

static void test_pad_stays_at_the_top(void **state)
{
    struct growing_arena *g = *state;

    arena_set_parameter(g->arena, -2, 32 * GRANULE);
    allocate(g, 100);
    size_t top = g->arena->top_size;
    assert_true(punch(g, 20 * GRANULE));
    assert_in_range(g->arena->holes * g->source.page, top - 20 * GRANULE - 2 * g->source.page,
                    top - 20 * GRANULE);
    size_t before = with_memory(g);
    allocate(g, 19 * GRANULE);
    assert_int_equal(with_memory(g), before);
}

static void test_memory_comes_with_use_and_a_little_ahead(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];
    size_t before;

    spread(g, 40 * g->source.page, block);
    punch(g, 0);
    before = with_memory(g);
    g->calls[SOURCE_FILL] = 0;
    for (size_t i = 0; i < 32; i++)
        allocate(g, 1000);
    assert_in_range(with_memory(g) - before, 32 * 1000 - g->source.page, 32 * 1000 + 2 * GRANULE);
    assert_in_range(g->calls[SOURCE_FILL], 1, 33);
}

/* There is no memory for the holes: every way to cut from a chunk takes another chunk, or fails. */
static void test_without_memory_a_chunk_with_holes_is_passed_over(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];
    size_t page = g->source.page, footprint;

    spread(g, 9 * page, block);
    punch(g, 0);
    footprint = g->arena->footprint;
    segment_set_limit(&g->segments, with_memory(g));
    for (size_t size = 300; size < 20 * page; size += 1500) {
        assert_null(allocate(g, size + 8 * page));
        assert_int_equal(g->arena->footprint, footprint);
    }
    struct arena_call call = growing_arena_call(g);
    assert_null(arena_resize_in_place(&call, block[0], 15 * page));
    assert_null(arena_resize_in_place(&call, block[BLOCKS - 2], 17 * page));
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
    segment_set_limit(&g->segments, SIZE_MAX);
    call = growing_arena_call(g);
    assert_ptr_equal(arena_resize_in_place(&call, block[0], 15 * page), block[0]);
    memset(block[0], 1, 15 * page);
    assert_int_equal(growing_arena_check(g), 0);
}

/* The best fit has holes; one that fits less well has none. */
static void test_without_memory_a_larger_chunk_without_holes_serves(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS], *larger;
    size_t page = g->source.page;

    larger = allocate(g, 12 * page);
    spread(g, 9 * page, block);
    punch(g, 0);
    release(g, larger);
    segment_set_limit(&g->segments, with_memory(g));
    assert_ptr_equal(allocate(g, 8 * page), larger);
    assert_null(allocate(g, 8 * page));
    struct arena_call call = growing_arena_call(g);
    assert_null(arena_memalign(&call, 64, 8 * page));
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
}

static void test_a_heap_full_of_holes_empties(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];
    struct arena_call call = growing_arena_call(g);

    spread(g, 7 * g->source.page, block);
    punch(g, 0);
    for (size_t i = 0; i < BLOCKS; i += 2)
        release(g, block[i]);
    arena_trim(&call, 0);
    assert_int_equal(growing_arena_check(g), 0);
    punch(g, 0);
    segment_release(&g->segments, 0);
    assert_true(with_memory(g) <= GRANULE * 2);
}

static void test_a_punch_that_is_not_worth_while(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];

    spread(g, 40 * g->source.page, block);

    struct arena_call call = growing_arena_call(g);
    assert_true(arena_may_give(g->arena, g->source.page));
    assert_true(arena_punch(&call, 0));
    assert_false(arena_may_give(g->arena, g->source.page));
    release(g, block[4]);
    assert_true(arena_may_give(g->arena, g->source.page));
    assert_true(arena_punch(&call, 0));
    assert_int_equal(growing_arena_check(g), 0);
}

/* If the backend cannot take memory away, nothing changes. */
static void test_a_source_that_does_not_punch(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];

    spread(g, 7 * g->source.page, block);
    size_t before = with_memory(g);
    g->source.punch = NULL;
    assert_false(punch(g, 0));
    assert_int_equal(with_memory(g), before);
    assert_int_equal(g->arena->holes, 0);
}

static void test_damage_met_in_punching(void **state)
{
    struct growing_arena *g = *state;
    void *block[BLOCKS];

    spread(g, 7 * g->source.page, block);
    chunk_of_payload(block[7])->head ^= 64;

    struct arena_call call = growing_arena_call(g);
    arena_punch(&call, 0);
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_int_equal(g->arena->damaged, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_all_whole_pages_inside_free_chunks_go),
        TEST(test_pad_stays_at_the_top),
        TEST(test_memory_comes_with_use_and_a_little_ahead),
        TEST(test_without_memory_a_chunk_with_holes_is_passed_over),
        TEST(test_without_memory_a_larger_chunk_without_holes_serves),
        TEST(test_a_heap_full_of_holes_empties),
        TEST(test_a_punch_that_is_not_worth_while),
        TEST(test_a_source_that_does_not_punch),
        TEST(test_damage_met_in_punching),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
