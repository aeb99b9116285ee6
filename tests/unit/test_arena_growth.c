/* test_arena_growth.c - an arena over the granule map: where new memory goes, how it is given back,
 * large blocks, and a source that fails at each call.
 *
 * Modes: default
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/arena_internal.h"
#include "support/growing_arena.h"

enum { GRANULES = 4096 };

/* A request may be smaller than its granules by this many bytes and still take all of them: by
 * the header, and by the overhead that is added as for an ordinary chunk. */
#define LARGE_OVERHEAD (CHUNK_HEADER + CHUNK_OVERHEAD)

static int setup(void **state)
{
    *state = growing_arena_new(GRANULES);
    return 0;
}

static int teardown(void **state)
{
    struct growing_arena *g = *state;

    assert_int_equal(growing_arena_check(g), 0);
    growing_arena_delete(g);
    return 0;
}

static void *allocate(struct growing_arena *g, size_t bytes)
{
    struct arena_call call = growing_arena_call(g);
    void *block = arena_malloc(&call, bytes);

    assert_int_equal(call.fault.kind, FAULT_NONE);
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

static void *resize(struct growing_arena *g, void *block, size_t bytes)
{
    struct arena_call call = growing_arena_call(g);
    void *result = arena_realloc(&call, block, bytes);

    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
    return result;
}

static bool trim(struct growing_arena *g, size_t pad)
{
    struct arena_call call = growing_arena_call(g);
    bool released = arena_trim(&call, pad);

    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
    return released;
}

static struct arena_usage usage_of(const struct growing_arena *g)
{
    struct arena_usage usage;

    arena_usage(g->arena, &usage);
    return usage;
}

/* Bytes to ask for so that a segment of that many granules is left with a top of `left` bytes. */
static size_t request_leaving(size_t granules, size_t left)
{
    return granules * GRANULE - ARENA_FOOT - left - CHUNK_OVERHEAD;
}

/* Takes all of top but `left` bytes. */
static void *use_up_top(struct growing_arena *g, size_t left)
{
    void *block = allocate(g, g->arena->top_size - left - CHUNK_OVERHEAD);

    assert_int_equal(g->arena->top_size, left);
    return block;
}

/* ---- growing --------------------------------------------------------------------------------- */

static void test_first_request_makes_a_segment(void **state)
{
    struct growing_arena *g = *state;
    char *block = allocate(g, 100);

    assert_ptr_equal(block, g->granules + CHUNK_HEADER);
    assert_int_equal(g->arena->footprint, GRANULE);
    assert_int_equal(g->arena->top_size, GRANULE - ARENA_FOOT - chunk_size_for(100));
}

static void test_granularity_sets_the_step(void **state)
{
    struct growing_arena *g = *state;

    assert_true(arena_set_parameter(g->arena, -2, 4 * GRANULE));
    allocate(g, 100);
    assert_int_equal(g->arena->footprint, 4 * GRANULE);
    /* The source's unit is larger, and counts. */
    assert_true(arena_set_parameter(g->arena, -2, 4096));
    allocate(g, g->arena->top_size);
    assert_int_equal(g->arena->footprint, 8 * GRANULE);
    assert_true(trim(g, 0));
    assert_int_equal(g->arena->footprint % GRANULE, 0);
}

static void test_append_lets_top_grow(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 1000);
    size_t top = g->arena->top_size;
    g->arena->trim_check = ARENA_NEVER;
    allocate(g, 100000);
    assert_int_equal(usage_of(g).segments, 1);
    assert_int_equal(g->arena->footprint, 3 * GRANULE);
    assert_int_equal(g->arena->top_size, top + 2 * GRANULE - chunk_size_for(100000));
    assert_int_equal(g->arena->trim_check, g->arena->trim_threshold);
}

/* top is all of its segment, which begins two granules after the lowest free one. */
static void test_prepend_to_top(void **state)
{
    struct growing_arena *g = *state;
    struct run before = growing_arena_hold(g, 2);
    void *block = allocate(g, 1000);

    release(g, block); /* all of the segment is top */
    growing_arena_hold(g, 1);
    growing_arena_unhold(g, before);
    char *low = allocate(g, 100000);
    assert_ptr_equal(low, g->granules + CHUNK_HEADER);
    assert_int_equal(usage_of(g).segments, 1);
    assert_int_equal(g->arena->top_size, 3 * GRANULE - ARENA_FOOT - chunk_size_for(100000));
}

static void test_prepend_to_a_chunk_in_use(void **state)
{
    struct growing_arena *g = *state;
    struct run before = growing_arena_hold(g, 2);

    allocate(g, 1000);
    use_up_top(g, 64);
    growing_arena_unhold(g, before);
    char *low = allocate(g, 100000);
    assert_ptr_equal(low, g->granules + CHUNK_HEADER);
    assert_int_equal(usage_of(g).segments, 1);
    assert_int_equal(usage_of(g).free_chunks, 2);
    assert_int_equal(g->arena->bins.tree_map != 0, 1); /* the rest */
    assert_int_equal(g->arena->top_size, 64);
}

static void test_prepend_to_a_free_chunk(void **state)
{
    struct growing_arena *g = *state;
    struct run before = growing_arena_hold(g, 2);
    void *first = allocate(g, 1000);

    use_up_top(g, 64);
    release(g, first);
    growing_arena_unhold(g, before);
    allocate(g, 100000);
    struct arena_usage usage = usage_of(g);
    assert_int_equal(usage.free_chunks, 2);
    assert_int_equal(usage.free_bytes - 64,
                     2 * GRANULE - chunk_size_for(100000) + chunk_size_for(1000));
}

static void test_prepend_to_the_victim(void **state)
{
    struct growing_arena *g = *state;
    struct run before = growing_arena_hold(g, 2);
    void *first = allocate(g, 600);

    use_up_top(g, 64);
    release(g, first);
    void *low = allocate(g, 100); /* cut from the first chunk, whose rest is the victim */
    assert_ptr_equal(low, first);
    size_t dv = g->arena->dv_size;
    assert_int_not_equal(dv, 0);
    release(g, low); /* joins the victim, which now begins the segment */
    assert_ptr_equal(g->arena->dv, chunk_of_payload(first));
    growing_arena_unhold(g, before);
    allocate(g, 100000);
    assert_int_equal(g->arena->dv_size, chunk_size_for(600) + 2 * GRANULE - chunk_size_for(100000));
    assert_int_equal(usage_of(g).free_chunks, 2);
}

static void test_prepend_to_an_older_segment(void **state)
{
    struct growing_arena *g = *state;
    struct run before = growing_arena_hold(g, 2);

    allocate(g, 60000);
    growing_arena_hold(g, 1);
    allocate(g, 60000);
    growing_arena_unhold(g, before);
    size_t top = g->arena->top_size;
    char *low = allocate(g, 100000);
    assert_ptr_equal(low, g->granules + CHUNK_HEADER);
    assert_int_equal(usage_of(g).segments, 2);
    assert_int_equal(g->arena->top_size, top);
    assert_ptr_equal(g->arena->segment.next->base, g->granules);
    assert_int_equal(g->arena->segment.next->size, 3 * GRANULE);
}

/* The new segment is not next to the old one: the old segment's end gets a record, and what is
 * left of top is a free chunk if it is large enough. */
static void new_segment_after_top_of(struct growing_arena *g, size_t left)
{
    allocate(g, request_leaving(1, left));
    assert_int_equal(g->arena->top_size, left);
    growing_arena_hold(g, 1);
    char *block = allocate(g, 60000);
    assert_ptr_equal(block, g->granules + 2 * GRANULE + CHUNK_HEADER);

    struct arena_usage usage = usage_of(g);
    assert_int_equal(usage.segments, 2);
    assert_int_equal(usage.used_chunks, 3); /* the record among them */
    assert_int_equal(usage.free_chunks, left < CHUNK_MIN ? 1 : 2);
    const struct arena_segment *record = g->arena->segment.next;
    assert_ptr_equal(record->base, g->granules);
    assert_int_equal(record->size, GRANULE);
    size_t moved = left < CHUNK_MIN ? left : 0;
    assert_ptr_equal(record, g->granules + GRANULE - ARENA_FOOT - moved + CHUNK_HEADER);
    const struct chunk *fence = chunk_next(chunk_of_payload(record));
    assert_int_equal(fence->head, CHUNK_FIRST_FENCE);
    fence = chunk_at(fence, WORD);
    for (; (const char *)&fence->head < g->granules + GRANULE; fence = chunk_at(fence, WORD))
        assert_int_equal(fence->head, CHUNK_FENCE);
}

static void test_new_segment_bins_the_old_top(void **state)
{
    new_segment_after_top_of(*state, 3008);
}

static void test_new_segment_with_an_old_top_of_a_chunk(void **state)
{
    new_segment_after_top_of(*state, CHUNK_MIN);
}

static void test_new_segment_with_an_old_top_smaller_than_a_chunk(void **state)
{
    new_segment_after_top_of(*state, CHUNK_ALIGN);
}

static void test_limit(void **state)
{
    struct growing_arena *g = *state;

    assert_int_equal(arena_set_footprint_limit(g->arena, 2 * GRANULE - 10), 2 * GRANULE);
    assert_non_null(allocate(g, 60000));
    assert_non_null(allocate(g, 60000));
    assert_null(allocate(g, 60000));
    assert_null(allocate(g, 400000));
    assert_int_equal(g->arena->footprint, 2 * GRANULE);
    assert_int_equal(arena_set_footprint_limit(g->arena, SIZE_MAX), SIZE_MAX);
    assert_int_equal(arena_set_footprint_limit(g->arena, SIZE_MAX - 1), SIZE_MAX);
    assert_non_null(allocate(g, 60000));
    assert_int_equal(g->arena->footprint_most, 3 * GRANULE);
}

static void test_parameters(void **state)
{
    struct growing_arena *g = *state;

    assert_false(arena_set_parameter(g->arena, 0, 1));
    assert_false(arena_set_parameter(g->arena, -4, 1));
    assert_false(arena_set_parameter(g->arena, -2, 0));
    assert_false(arena_set_parameter(g->arena, -2, 2048));
    assert_false(arena_set_parameter(g->arena, -2, 3 * GRANULE));
    assert_true(arena_set_parameter(g->arena, -2, 4096));
    assert_true(arena_set_parameter(g->arena, -1, 100000));
    assert_true(arena_set_parameter(g->arena, -3, 100000));
    allocate(g, 10);
    allocate(g, 100000);
    assert_int_equal(g->arena->large_count, 1);
}

/* Sizes near SIZE_MAX. */
static void test_extreme_requests_are_refused(void **state)
{
    struct growing_arena *g = *state;
    void *small = allocate(g, 10), *large = allocate(g, 300000), *middle = allocate(g, 60000);
    size_t footprint = g->arena->footprint;
    size_t one = SIZE_MAX / 2 + 1;

    assert_int_equal(g->arena->large_count, 1);
    for (size_t less = 1; less < 600; less++) {
        struct arena_call call = growing_arena_call(g);
        size_t bytes = SIZE_MAX - less + 1;
        assert_null(arena_malloc(&call, bytes));
        assert_null(arena_calloc(&call, 1, bytes));
        assert_null(arena_calloc(&call, bytes / 16, 17));
        assert_null(arena_realloc(&call, small, bytes));
        assert_null(arena_realloc(&call, middle, bytes));
        assert_null(arena_realloc(&call, large, bytes));
        assert_null(arena_resize_in_place(&call, large, bytes));
        assert_null(arena_independent_calloc(&call, 2, bytes, NULL));
        assert_null(arena_independent_calloc(&call, bytes, 1, NULL));
        assert_null(arena_independent_calloc(&call, bytes / sizeof(void *), 1, NULL));
        assert_null(arena_independent_comalloc(&call, 2, (size_t[]){10, bytes}, NULL));
        assert_null(arena_independent_comalloc(&call, 2, (size_t[]){one, one - less}, NULL));
        for (size_t alignment = 1; alignment != 0; alignment *= 2) {
            assert_null(arena_memalign(&call, alignment, bytes));
            assert_null(arena_memalign(&call, alignment, bytes - alignment));
        }
        assert_null(arena_memalign(&call, bytes, 1));
        assert_null(arena_memalign(&call, one, less));
        assert_false(arena_trim(&call, bytes));
        assert_int_equal(call.fault.kind, FAULT_NONE);
    }
    for (size_t exponent = SIZE_BITS == 64 ? 40 : 29; exponent < SIZE_BITS; exponent++) {
        struct arena_call call = growing_arena_call(g);
        size_t bytes = (size_t)1 << exponent;
        assert_null(arena_malloc(&call, bytes));
        assert_null(arena_realloc(&call, large, bytes));
        assert_null(arena_memalign(&call, bytes, 10));
        assert_null(arena_memalign(&call, bytes, bytes));
    }
    assert_int_equal(g->arena->footprint, footprint);
    assert_int_equal(growing_arena_check(g), 0);
    assert_int_equal(chunk_usable(chunk_of_payload(large)) >= 300000, 1);
}

/* ---- giving back ----------------------------------------------------------------------------- */

static void test_trim_of_top(void **state)
{
    struct growing_arena *g = *state;
    void *block;

    assert_false(trim(g, 0)); /* nothing yet */
    g->arena->large_threshold = ARENA_NEVER;
    allocate(g, 100);
    block = allocate(g, 1000000);
    release(g, block);
    size_t footprint = g->arena->footprint;
    assert_true(trim(g, 300000));
    assert_true(g->arena->top_size > 300000);
    assert_true(g->arena->footprint < footprint);
    assert_true(trim(g, 0));
    assert_int_equal(g->arena->footprint, GRANULE);
    assert_false(trim(g, 0));
}

static void test_free_trims_above_the_threshold(void **state)
{
    struct growing_arena *g = *state;

    g->arena->large_threshold = ARENA_NEVER;
    void *low = allocate(g, 100), *block = allocate(g, POLICY_TRIM_THRESHOLD - 200000);
    release(g, block);
    assert_true(g->arena->footprint > GRANULE); /* not yet */
    block = allocate(g, POLICY_TRIM_THRESHOLD + GRANULE);
    release(g, block);
    assert_int_equal(g->arena->footprint, GRANULE);
    release(g, low);
}

/* After a trim that released nothing, none is tried until top changes. */
static void test_trim_in_vain_is_set_aside(void **state)
{
    struct growing_arena *g = *state;
    void *block = allocate(g, 30000);

    g->arena->trim_check = 10000;
    release(g, block);
    assert_int_equal(g->arena->trim_check, ARENA_NEVER);
    g->arena->large_threshold = ARENA_NEVER;
    allocate(g, 100000);
    assert_int_equal(g->arena->trim_check, POLICY_TRIM_THRESHOLD);
}

static void test_unused_segments_are_released(void **state)
{
    struct growing_arena *g = *state;
    void *block[4];

    for (size_t i = 0; i < 4; i++) {
        block[i] = allocate(g, 60000);
        growing_arena_hold(g, 1);
    }
    assert_int_equal(usage_of(g).segments, 4);
    release(g, block[1]);
    release(g, block[0]);
    release(g, block[3]); /* the newest is never released */
    assert_true(trim(g, 0));
    assert_int_equal(usage_of(g).segments, 2);
    assert_int_equal(g->arena->footprint, 2 * GRANULE);
    release(g, block[2]);
    assert_true(trim(g, 0));
    assert_int_equal(usage_of(g).segments, 1);
}

/* Leaves a segment closed whose top was too small for a chunk, so that its record lies where top
 * was; then frees all its blocks. */
static void use_up_and_free_a_segment(struct growing_arena *g)
{
    void *block = allocate(g, 50000);
    void *last = allocate(g, g->arena->top_size - CHUNK_ALIGN - CHUNK_OVERHEAD);

    assert_int_equal(g->arena->top_size, CHUNK_ALIGN);
    growing_arena_hold(g, 1);
    allocate(g, 50000);
    release(g, block);
    release(g, last);
    assert_int_equal(usage_of(g).segments, 2);
}

static void test_the_reference_keeps_a_segment_whose_top_was_used_up(void **state)
{
    struct growing_arena *g = *state;

    use_up_and_free_a_segment(g);
    assert_false(trim(g, 0));
    assert_int_equal(usage_of(g).segments, 2);
}

static void test_an_arena_that_grows_ahead_releases_it(void **state)
{
    struct growing_arena *g = *state;

    g->arena->growth_most = GRANULE;
    use_up_and_free_a_segment(g);
    assert_true(trim(g, 0));
    assert_int_equal(usage_of(g).segments, 1);
}

static void test_a_segment_that_is_the_victim_is_released(void **state)
{
    struct growing_arena *g = *state;
    void *block = allocate(g, 60000);

    growing_arena_hold(g, 1);
    allocate(g, 65000);
    release(g, block);
    void *small = allocate(g, 100);
    assert_ptr_equal(small, block);
    release(g, small);
    assert_ptr_equal(g->arena->dv, chunk_of_payload(block));
    assert_true(trim(g, 0));
    assert_int_equal(g->arena->dv_size, 0);
    assert_int_equal(usage_of(g).segments, 1);
}

static void test_frees_into_trees_release_now_and_then(void **state)
{
    struct growing_arena *g = *state;
    void *block = allocate(g, 60000);

    growing_arena_hold(g, 1);
    void *other = allocate(g, 6000);
    allocate(g, 6000);
    release(g, block);
    assert_int_equal(g->arena->release_countdown, POLICY_RELEASE_INTERVAL - 1);
    g->arena->release_countdown = 1;
    assert_int_equal(usage_of(g).segments, 2);
    release(g, other);
    assert_int_equal(usage_of(g).segments, 1);
    assert_int_equal(g->arena->release_countdown, POLICY_RELEASE_INTERVAL);
}

static void test_without_a_source_nothing_is_given_back(void **state)
{
    struct growing_arena *g = *state;
    void *block = allocate(g, 60000);

    growing_arena_hold(g, 1);
    allocate(g, 60000);
    struct arena_call call = {.arena = g->arena};
    g->arena->release_countdown = 1;
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_false(arena_trim(&call, 0));
    assert_null(arena_malloc(&call, 100000));
    assert_int_equal(usage_of(g).segments, 2);
}

/* ---- large blocks ---------------------------------------------------------------------------- */

static void test_large_block(void **state)
{
    struct growing_arena *g = *state;

    void *early = allocate(g, 300000); /* an unused arena makes no large blocks */
    assert_int_equal(g->arena->large_count, 0);
    release(g, early);
    assert_true(trim(g, 0));
    size_t footprint = g->arena->footprint;
    unsigned char *block = allocate(g, 300000);
    assert_int_equal(g->arena->large_count, 1);
    assert_int_equal(g->arena->large_bytes, 5 * GRANULE);
    assert_int_equal(g->arena->footprint, footprint + 5 * GRANULE);
    size_t usable = chunk_usable(chunk_of_payload(block));
    assert_int_equal(usable, 5 * GRANULE - CHUNK_HEADER);
    memset(block, 1, usable);
    release(g, block);
    assert_int_equal(g->arena->large_count, 0);
    assert_int_equal(g->arena->footprint, footprint);
    block = allocate(g, 300000);
    struct arena_call call = growing_arena_call(g);
    void *array[2] = {block, NULL};
    assert_int_equal(arena_bulk_free(&call, array, 2), 0);
    assert_int_equal(g->arena->large_count, 0);
}

static void test_exact_fit_of_a_large_block(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 10);
    for (size_t less = 0; less < 64; less++) {
        size_t bytes = 5 * GRANULE - less;
        unsigned char *block = allocate(g, bytes);
        assert_int_equal(g->arena->large_bytes, less < LARGE_OVERHEAD ? 6 * GRANULE : 5 * GRANULE);
        memset(block, 7, bytes);
        release(g, block);
    }
}

static void test_large_block_kept_shrunk_and_grown_in_place(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 10);
    unsigned char *block = allocate(g, 10 * GRANULE - LARGE_OVERHEAD);
    for (size_t i = 0; i < 10 * GRANULE - LARGE_OVERHEAD; i += 1000)
        block[i] = (unsigned char)(i / 1000);
    /* Less than a granule too much: nothing changes. */
    assert_ptr_equal(resize(g, block, 9 * GRANULE), block);
    assert_int_equal(g->arena->large_bytes, 10 * GRANULE);
    assert_ptr_equal(resize(g, block, 6 * GRANULE - LARGE_OVERHEAD), block);
    assert_int_equal(g->arena->large_bytes, 6 * GRANULE);
    assert_ptr_equal(resize(g, block, 20 * GRANULE - LARGE_OVERHEAD), block);
    assert_int_equal(g->arena->large_bytes, 20 * GRANULE);
    for (size_t i = 0; i < 6 * GRANULE - LARGE_OVERHEAD; i += 1000)
        assert_int_equal(block[i], (unsigned char)(i / 1000));
    /* The granule behind the block is taken, so that the block has to be copied. */
    growing_arena_hold(g, 1);
    struct arena_call call = growing_arena_call(g);
    assert_null(arena_resize_in_place(&call, block, 30 * GRANULE));
    unsigned char *copy = resize(g, block, 30 * GRANULE);
    assert_ptr_not_equal(copy, block);
    for (size_t i = 0; i < 6 * GRANULE - LARGE_OVERHEAD; i += 1000)
        assert_int_equal(copy[i], (unsigned char)(i / 1000));
    assert_int_equal(g->arena->large_count, 1);
    release(g, resize(g, copy, 0));
    assert_int_equal(g->arena->large_count, 0);
}

static void test_growing_a_large_block_keeps_to_the_limit(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 10);
    void *block = allocate(g, 5 * GRANULE);
    arena_set_footprint_limit(g->arena, g->arena->footprint + GRANULE);
    assert_null(resize(g, block, 10 * GRANULE));
    assert_ptr_equal(resize(g, block, 7 * GRANULE - LARGE_OVERHEAD), block);
    assert_null(allocate(g, 5 * GRANULE));
}

static void test_aligned_large_blocks(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 10);
    for (size_t alignment = 32; alignment <= (size_t)64 << 20; alignment *= 2)
        for (size_t bytes = 300000; bytes < 500000; bytes += 65521) {
            struct arena_call call = growing_arena_call(g);
            unsigned char *block = arena_memalign(&call, alignment, bytes);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % alignment, 0);
            assert_int_equal(g->arena->large_count, 1);
            /* Granules that were taken only for the alignment were given back. */
            assert_true(g->arena->large_bytes <= bytes + 3 * GRANULE);
            assert_int_equal(growing_arena_check(g), 0);
            memset(block, 3, bytes);
            size_t usable = chunk_usable(chunk_of_payload(block));
            block[usable - 1] = 1;
            assert_true(usable >= bytes);
            unsigned char *same = resize(g, block, bytes + 5 * GRANULE);
            assert_ptr_equal(same, block);
            assert_ptr_equal(resize(g, block, bytes / 4), block);
            release(g, block);
            assert_int_equal(g->arena->large_count, 0);
        }
}

/* Sizes for which the block and the room for its alignment just fill granules. */
static void test_aligned_large_blocks_that_just_fit(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 10);
    for (size_t less = 0; less < 200; less += CHUNK_ALIGN) {
        struct arena_call call = growing_arena_call(g);
        void *block = arena_memalign(&call, 4096, 8 * GRANULE - 4096 - less);
        assert_non_null(block);
        assert_int_equal(g->arena->large_count, 1);
        release(g, block);
    }
}

static void test_independent_blocks_are_never_large(void **state)
{
    struct growing_arena *g = *state;
    struct arena_call call = growing_arena_call(g);

    allocate(g, 10);
    void **blocks = arena_independent_calloc(&call, 4, 200000, NULL);
    assert_non_null(blocks);
    assert_int_equal(g->arena->large_count, 0);
    assert_int_equal(growing_arena_check(g), 0);
    void *one = blocks[2];
    release(g, one);
}

/* ---- a source that fails --------------------------------------------------------------------- */

/* Makes calls that use every function of the source; returns how many requests failed. */
static size_t scripted_run(struct growing_arena *g)
{
    void *block[12] = {0};
    size_t failed = 0, n = 0;
    struct arena_call call = growing_arena_call(g);

    block[n++] = allocate(g, 60000);
    struct run hold = growing_arena_hold(g, 1);
    block[n++] = allocate(g, 60000);
    block[n++] = arena_memalign(&call, 4 * GRANULE, 300000);
    block[n++] = allocate(g, 100);
    block[n++] = arena_independent_calloc(&call, 3, 50000, NULL);
    if (block[n - 1] != NULL) {
        block[n] = ((void **)block[n - 1])[1];
        block[n + 1] = ((void **)block[n - 1])[2];
        arena_free(&call, ((void **)block[n - 1])[0]);
        n += 2;
    } else {
        failed++;
    }
    block[n++] = arena_calloc(&call, 10, 10000);
    void **large = &block[n++];
    *large = allocate(g, 300000);
    if (*large != NULL) {
        struct chunk *c = chunk_of_payload(*large);
        size_t size = chunk_size(c);
        memset(*large, 0x33, 1000);
        void *larger = arena_resize_in_place(&call, *large, 900000);
        if (larger == NULL) {
            failed++;
            assert_int_equal(chunk_size(c), size);
        }
        larger = arena_realloc(&call, *large, 2000000);
        if (larger == NULL)
            failed++;
        else
            *large = larger;
        assert_int_equal(*(unsigned char *)*large, 0x33);
    }
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(growing_arena_check(g), 0);
    for (size_t i = 0; i < n; i++) {
        failed += block[i] == NULL;
        release(g, block[i]);
    }
    growing_arena_unhold(g, hold);
    return failed;
}

static void test_each_call_of_the_source_fails_once(void **state)
{
    (void)state;
    for (int kind = 0; kind <= SOURCE_COMMIT; kind++) {
        struct growing_arena *whole = growing_arena_new(GRANULES);
        assert_int_equal(scripted_run(whole), 0);
        unsigned long calls = whole->calls[kind];
        growing_arena_delete(whole);
        assert_true(calls > 0);
        for (unsigned long k = 1; k <= calls; k++) {
            struct growing_arena *g = growing_arena_new(GRANULES);
            growing_arena_fail(g, (enum source_call)kind, k);
            scripted_run(g);
            assert_int_equal(g->fail_at[kind], 0); /* it did come to that */
            trim(g, 0);
            struct arena_usage usage = usage_of(g);
            assert_int_equal(usage.large_count, 0);
            assert_int_equal(usage.used_chunks, usage.segments > 0 ? usage.segments - 1 : 0);
            assert_int_equal(scripted_run(g), 0); /* works again */
            growing_arena_delete(g);
        }
    }
}

static void test_a_source_that_always_fails(void **state)
{
    (void)state;
    for (int kind = 0; kind <= SOURCE_COMMIT; kind++) {
        struct growing_arena *g = growing_arena_new(GRANULES);
        void *block = allocate(g, 1000);
        for (int i = 0; i < 50; i++) {
            growing_arena_fail(g, SOURCE_TAKE, kind == SOURCE_TAKE);
            growing_arena_fail(g, SOURCE_COMMIT, kind == SOURCE_COMMIT);
            growing_arena_fail(g, SOURCE_EXTEND, 1);
            void *more = allocate(g, 100000);
            assert_true((more == NULL) == (kind != SOURCE_EXTEND));
            release(g, more);
        }
        release(g, block);
        growing_arena_delete(g);
    }
}

static void test_a_large_block_that_fails_becomes_an_ordinary_one(void **state)
{
    struct growing_arena *g = *state;

    allocate(g, 10);
    growing_arena_fail(g, SOURCE_TAKE, 1);
    assert_non_null(allocate(g, 300000));
    assert_int_equal(g->arena->large_count, 0);
    growing_arena_fail(g, SOURCE_COMMIT, 1);
    assert_non_null(allocate(g, 300000));
    assert_int_equal(g->arena->large_count, 0);
}

/* ---- the journal ----------------------------------------------------------------------------- */

#ifndef NDEBUG
/* A new segment is made, the old top goes into a tree's ring, the new chunk is cut in two: no
 * change needs more entries. */
static void test_the_change_with_most_journal_entries(void **state)
{
    struct growing_arena *g = *state;
    size_t sizes[2] = {CHUNK_ALIGN, 60000};
    void *array[2];

    void *freed = allocate(g, 4000 - CHUNK_OVERHEAD);
    allocate(g, 10);
    use_up_top(g, 4000);
    release(g, freed);
    growing_arena_hold(g, 1);
    journal_most_entries = 0;
    struct arena_call call = growing_arena_call(g);
    assert_non_null(arena_independent_comalloc(&call, 2, sizes, array));
    assert_int_equal(usage_of(g).segments, 2);
    assert_int_equal(journal_most_entries, JOURNAL_MOST_SEEN);
}
#endif

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        TEST(test_first_request_makes_a_segment),
        TEST(test_granularity_sets_the_step),
        TEST(test_append_lets_top_grow),
        TEST(test_prepend_to_top),
        TEST(test_prepend_to_a_chunk_in_use),
        TEST(test_prepend_to_a_free_chunk),
        TEST(test_prepend_to_the_victim),
        TEST(test_prepend_to_an_older_segment),
        TEST(test_new_segment_bins_the_old_top),
        TEST(test_new_segment_with_an_old_top_of_a_chunk),
        TEST(test_new_segment_with_an_old_top_smaller_than_a_chunk),
        TEST(test_limit),
        TEST(test_parameters),
        TEST(test_extreme_requests_are_refused),
        TEST(test_trim_of_top),
        TEST(test_free_trims_above_the_threshold),
        TEST(test_trim_in_vain_is_set_aside),
        TEST(test_unused_segments_are_released),
        TEST(test_the_reference_keeps_a_segment_whose_top_was_used_up),
        TEST(test_an_arena_that_grows_ahead_releases_it),
        TEST(test_a_segment_that_is_the_victim_is_released),
        TEST(test_frees_into_trees_release_now_and_then),
        TEST(test_without_a_source_nothing_is_given_back),
        TEST(test_large_block),
        TEST(test_exact_fit_of_a_large_block),
        TEST(test_large_block_kept_shrunk_and_grown_in_place),
        TEST(test_growing_a_large_block_keeps_to_the_limit),
        TEST(test_aligned_large_blocks),
        TEST(test_aligned_large_blocks_that_just_fit),
        TEST(test_independent_blocks_are_never_large),
        cmocka_unit_test(test_each_call_of_the_source_fails_once),
        cmocka_unit_test(test_a_source_that_always_fails),
        TEST(test_a_large_block_that_fails_becomes_an_ordinary_one),
#ifndef NDEBUG
        TEST(test_the_change_with_most_journal_entries),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
