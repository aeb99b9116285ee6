/* test_arena_random.c - random requests to the engine, on buffers and on growing arenas.
 *
 * A shadow of the memory says which block has each CHUNK_ALIGN bytes, so that an overlap is seen at
 * once. Each block is filled with a pattern of its own to the last usable byte, and checked before
 * it is freed or resized, and now and then. The whole arena is checked after each request if it is
 * small, and now and then if it is large. Sources fail at random. Memory inside free chunks is
 * given back now and then, and cannot be touched until it is there again. In the end all blocks are
 * freed and nothing is left.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/arena_internal.h"
#include "support/growing_arena.h"
#include "support/guarded_backend.h"
#include "support/random.h"

enum { BLOCKS_MOST = 1024, CELL = CHUNK_ALIGN, BATCH_MOST = 40, EDGE_BYTES = 64 };

struct block {
    unsigned char *start; /* NULL: none */
    size_t usable;
    unsigned char pattern;
};

struct world {
    struct arena *arena;
    struct growing_arena *growing; /* NULL: a buffer */
    char *memory;                  /* all that blocks may lie in */
    size_t cells;
    unsigned short *owner; /* each cell's block, by number from 1 */
    struct block block[BLOCKS_MOST];
    size_t blocks; /* how many of BLOCKS_MOST are used here */
    size_t size_most;
    size_t check_each;
    bool failures;
    struct random_source random;
};

static struct random_run arguments;

static struct arena_call new_call(struct world *w)
{
    return w->growing != NULL ? growing_arena_call(w->growing)
                              : (struct arena_call){.arena = w->arena};
}

/* ---- the shadow ------------------------------------------------------------------------------ */

static void set_cells(struct world *w, const struct block *b, size_t from, size_t to)
{
    size_t first = (size_t)((char *)b->start - w->memory) / CELL;
    /* The last usable word is the next chunk's prev_foot, which lies in that chunk's cell: it is
     * not counted. */
    size_t count = b->usable / CELL;

    assert_true((char *)b->start >= w->memory && first + count <= w->cells);
    for (size_t i = first; i < first + count; i++) {
        assert_int_equal(w->owner[i], from);
        w->owner[i] = (unsigned short)to;
    }
}

/* Fills small blocks whole, and large ones at their edges. */
static void fill(struct block *b)
{
    if (b->usable <= 4096) {
        memset(b->start, b->pattern, b->usable);
        return;
    }
    memset(b->start, b->pattern, EDGE_BYTES);
    memset(b->start + b->usable / 2, b->pattern, EDGE_BYTES);
    memset(b->start + b->usable - EDGE_BYTES, b->pattern, EDGE_BYTES);
}

static void assert_pattern(const unsigned char *bytes, size_t count, unsigned char pattern)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != pattern)
            fail_msg("byte %zu at %p is %d, not %d", i, (const void *)bytes, bytes[i], pattern);
}

static void assert_contents(const struct block *b)
{
    if (b->usable <= 4096) {
        assert_pattern(b->start, b->usable, b->pattern);
        return;
    }
    assert_pattern(b->start, EDGE_BYTES, b->pattern);
    assert_pattern(b->start + b->usable / 2, EDGE_BYTES, b->pattern);
    assert_pattern(b->start + b->usable - EDGE_BYTES, EDGE_BYTES, b->pattern);
}

static size_t number_of(const struct world *w, const struct block *b)
{
    return (size_t)(b - w->block) + 1;
}

static void enter(struct world *w, struct block *b, void *start, size_t bytes, size_t alignment)
{
    struct arena_call call = new_call(w);

    assert_int_equal((uintptr_t)start % alignment, 0);
    b->start = start;
    b->usable = arena_usable(&call, start);
    b->pattern = (unsigned char)random_next(&w->random);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_true(b->usable >= bytes);
    set_cells(w, b, 0, number_of(w, b));
    fill(b);
}

static void leave(struct world *w, struct block *b)
{
    assert_contents(b);
    set_cells(w, b, number_of(w, b), 0);
    b->start = NULL;
}

/* ---- requests -------------------------------------------------------------------------------- */

static struct block *any(struct world *w)
{
    return &w->block[random_below(&w->random, w->blocks)];
}

static size_t any_size(struct world *w)
{
    if (random_once_in(&w->random, 400))
        return SIZE_MAX - random_size(&w->random, SIZE_MAX) + 1;
    if (random_once_in(&w->random, 8))
        return random_below(&w->random, 300);
    return random_size(&w->random, w->size_most) - 1;
}

static size_t any_alignment(struct world *w)
{
    if (random_once_in(&w->random, 100))
        return (size_t)1 << random_below(&w->random, SIZE_BITS);
    return (size_t)1 << random_below(&w->random, 13);
}

static void free_block(struct world *w, struct block *b)
{
    struct arena_call call = new_call(w);
    void *start = b->start;

    leave(w, b);
    arena_free(&call, start);
    assert_int_equal(call.fault.kind, FAULT_NONE);
}

static void allocate(struct world *w, struct block *b)
{
    struct arena_call call = new_call(w);
    size_t size = any_size(w), alignment = CHUNK_ALIGN;
    void *start;

    if (b->start != NULL) {
        free_block(w, b);
        return;
    }
    if (random_once_in(&w->random, 6)) {
        alignment = any_alignment(w);
        start = arena_memalign(&call, alignment, size);
    } else {
        start = arena_malloc(&call, size);
    }
    assert_int_equal(call.fault.kind, FAULT_NONE);
    if (start != NULL)
        enter(w, b, start, size, alignment < CHUNK_ALIGN ? CHUNK_ALIGN : alignment);
}

static void allocate_zeroed(struct world *w, struct block *b)
{
    struct arena_call call = new_call(w);
    size_t count = random_size(&w->random, 64), size = any_size(w) / 16;

    if (b->start != NULL)
        return;
    unsigned char *start = arena_calloc(&call, count, size);
    if (start == NULL)
        return;
    assert_pattern(start, count * size, 0);
    enter(w, b, start, count * size, CHUNK_ALIGN);
}

static void resize(struct world *w, struct block *b, bool in_place)
{
    struct arena_call call = new_call(w);
    struct block old = *b;
    size_t size = any_size(w);

    if (old.start == NULL)
        return;
    leave(w, b);
    unsigned char *start = in_place ? arena_resize_in_place(&call, old.start, size)
                                    : arena_realloc(&call, old.start, size);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    if (start == NULL) {
        *b = old;
        assert_contents(b);
        set_cells(w, b, 0, number_of(w, b));
        return;
    }
    if (in_place)
        assert_ptr_equal(start, old.start);
    size_t kept = size < old.usable ? size : old.usable;
    size_t looked_at = old.usable <= 4096 || kept < EDGE_BYTES ? kept : EDGE_BYTES;
    assert_pattern(start, looked_at, old.pattern);
    enter(w, b, start, size, CHUNK_ALIGN);
}

/* The first of n successive unused places for blocks; NULL if there are none. */
static struct block *row_of_free(struct world *w, size_t n)
{
    struct block *first = any(w);

    if ((size_t)(&w->block[w->blocks] - first) < n)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (first[i].start != NULL)
            free_block(w, &first[i]);
    return first;
}

static void allocate_many(struct world *w)
{
    struct arena_call call = new_call(w);
    size_t n = random_size(&w->random, BATCH_MOST), sizes[BATCH_MOST];
    void *own[BATCH_MOST], **array = random_once_in(&w->random, 3) ? own : NULL;
    bool same = random_once_in(&w->random, 2);
    struct block *first = row_of_free(w, n + 1);

    if (first == NULL)
        return;
    for (size_t i = 0; i < n; i++)
        sizes[i] = same && i > 0 ? sizes[0] : random_size(&w->random, 600) - 1;
    void **blocks = same ? arena_independent_calloc(&call, n, sizes[0], array)
                         : arena_independent_comalloc(&call, n, sizes, array);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    if (blocks == NULL)
        return;
    memcpy(own, blocks, n * sizeof *own);
    for (size_t i = 0; i < n; i++) {
        if (same)
            assert_pattern(own[i], sizes[i], 0);
        enter(w, &first[i], own[i], sizes[i], CHUNK_ALIGN);
    }
    if (array == NULL)
        enter(w, &first[n], blocks, n * sizeof *blocks, CHUNK_ALIGN);
}

static void free_many(struct world *w)
{
    struct arena_call call = new_call(w);
    size_t n = random_size(&w->random, BATCH_MOST), step = random_once_in(&w->random, 2) ? 1 : 7;
    void *blocks[BATCH_MOST];
    size_t at = random_below(&w->random, w->blocks);

    for (size_t i = 0; i < n; i++) {
        struct block *b = &w->block[(at + i * step) % w->blocks];
        blocks[i] = b->start;
        if (b->start != NULL)
            leave(w, b);
    }
    assert_int_equal(arena_bulk_free(&call, blocks, n), 0);
    assert_int_equal(call.fault.kind, FAULT_NONE);
}

static void trim(struct world *w)
{
    struct arena_call call = new_call(w);

    if (random_once_in(&w->random, 2))
        arena_trim(&call, random_size(&w->random, w->size_most) - 1);
    else
        arena_punch(&call, random_size(&w->random, w->size_most) - 1);
    assert_int_equal(call.fault.kind, FAULT_NONE);
}

static void plan_failure(struct world *w)
{
    growing_arena_fail(w->growing, (enum source_call)random_below(&w->random, SOURCE_CALLS),
                       random_size(&w->random, 8));
}

static void one_request(struct world *w)
{
    if (w->failures && random_once_in(&w->random, 10))
        plan_failure(w);
    switch (random_below(&w->random, 20)) {
    case 0:
        allocate_zeroed(w, any(w));
        break;
    case 1:
    case 2:
        resize(w, any(w), false);
        break;
    case 3:
        resize(w, any(w), true);
        break;
    case 4:
        if (random_once_in(&w->random, 4))
            allocate_many(w);
        break;
    case 5:
        if (random_once_in(&w->random, 4))
            free_many(w);
        break;
    case 6:
        if (random_once_in(&w->random, 20))
            trim(w);
        break;
    default:
        allocate(w, any(w));
    }
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void assert_sound(struct world *w)
{
    struct check check = {.report = stderr};

    if (w->growing != NULL) {
        assert_int_equal(growing_arena_check(w->growing), 0);
        return;
    }
    arena_check(w->arena, &check);
    assert_int_equal(check.violations, 0);
}

static void run(struct world *w, unsigned long operations)
{
    w->owner = calloc(w->cells, sizeof *w->owner);
    assert_non_null(w->owner);
    for (unsigned long i = 0; i < operations; i++) {
        one_request(w);
        if (i % w->check_each == 0)
            assert_sound(w);
    }
    for (size_t i = 0; i < w->blocks; i++)
        if (w->block[i].start != NULL)
            free_block(w, &w->block[i]);
    assert_sound(w);
    free(w->owner);
}

/* Nothing but records is in use, and no segment has more than one free chunk. */
static void assert_empty(const struct world *w)
{
    struct arena_usage usage;

    arena_usage(w->arena, &usage);
    assert_int_equal(usage.large_count, 0);
    if (usage.segments == 0)
        return;
    assert_int_equal(usage.used_chunks, usage.segments - 1);
    assert_true(usage.free_chunks <= usage.segments);
}

static void run_on_buffer(size_t bytes, size_t blocks, size_t size_most, size_t check_each,
                          unsigned long operations)
{
    struct world w = {.blocks = blocks, .size_most = size_most, .check_each = check_each};

    w.random.state = arguments.seed ^ bytes;
    w.memory = aligned_alloc(4096, bytes);
    assert_non_null(w.memory);
    w.cells = bytes / CELL;
    w.arena = arena_init_in(w.memory, bytes);
    assert_non_null(w.arena);
    size_t top_size = w.arena->top_size;
    run(&w, operations);
    assert_int_equal(w.arena->top_size, top_size);
    assert_int_equal(w.arena->bins.small_map | w.arena->bins.tree_map | w.arena->dv_size, 0);
    free(w.memory);
}

static void run_on_growing(size_t granules, size_t blocks, size_t size_most, size_t check_each,
                           size_t large_threshold, unsigned long operations)
{
    struct world w = {.blocks = blocks,
                      .size_most = size_most,
                      .check_each = check_each,
                      .failures = true,
                      .growing = growing_arena_new_over(granules, &guarded_backend)};

    w.random.state = arguments.seed ^ granules ^ large_threshold;
    w.arena = w.growing->arena;
    w.memory = w.growing->granules;
    w.cells = granules * GRANULE / CELL;
    arena_set_parameter(w.arena, -3, large_threshold);
    struct run hole[3];
    for (size_t i = 0; i < 3; i++) { /* so that segments have gaps between them */
        struct run before = growing_arena_hold(w.growing, 2 + 3 * i);
        hole[i] = growing_arena_hold(w.growing, 1);
        growing_arena_unhold(w.growing, before);
    }
    run(&w, operations);
    for (size_t i = 0; i < 3; i++)
        growing_arena_unhold(w.growing, hole[i]);
    struct arena_call call = growing_arena_call(w.growing);
    arena_trim(&call, 0);
    assert_sound(&w);
    assert_empty(&w);
    growing_arena_fail(w.growing, SOURCE_PUNCH, 0);
    arena_punch(&call, 0);
    assert_false(arena_punch(&call, 0));
    assert_sound(&w);
    growing_arena_delete(w.growing);
}

static void test_small_buffer(void **state)
{
    (void)state;
    run_on_buffer(8192, 40, 600, 1, arguments.operations / 5);
}

static void test_buffer(void **state)
{
    (void)state;
    run_on_buffer((size_t)1 << 20, 400, 8000, 50, arguments.operations / 5);
}

static void test_large_buffer(void **state)
{
    (void)state;
    run_on_buffer((size_t)24 << 20, BLOCKS_MOST, (size_t)1 << 17, 200, arguments.operations / 5);
}

static void test_growing_small(void **state)
{
    (void)state;
    run_on_growing(24, 40, 50000, 4, ARENA_NEVER, arguments.operations / 20);
    run_on_growing(40, 40, 100000, 4, 3 * GRANULE / 2, arguments.operations / 20);
}

static void test_growing(void **state)
{
    (void)state;
    run_on_growing(400, 400, 60000, 100, ARENA_NEVER, arguments.operations / 5);
}

static void test_growing_with_large_blocks(void **state)
{
    (void)state;
    run_on_growing(2000, 200, (size_t)4 << 20, 100, POLICY_LARGE_THRESHOLD,
                   arguments.operations / 10);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_buffer), cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_large_buffer), cmocka_unit_test(test_growing_small),
        cmocka_unit_test(test_growing),      cmocka_unit_test(test_growing_with_large_blocks),
    };

    arguments = random_run_from(argc, argv, 1250000);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
#ifndef NDEBUG
    printf("the most entries of the journal that one change had: %zu\n", journal_most_entries);
#endif
    return failed;
}
