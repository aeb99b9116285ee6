/* test_arena_growth_faults.c - wrong pointers and overwritten metadata in arenas that have grown:
 * records of segments, large blocks, places without memory; and anything anywhere.
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
#include <sys/mman.h>

#include "engine/arena_internal.h"
#include "support/growing_arena.h"
#include "support/random.h"

/* ---- segments -------------------------------------------------------------------------------- */

/* Makes `count` segments, each with a granule behind it that is not the arena's; returns the
 * first of these granules. */
static struct run fill_segments(struct growing_arena *g, size_t count)
{
    struct run first = {0};

    for (size_t i = 0; i < count; i++) {
        struct arena_call call = growing_arena_call(g);
        assert_non_null(arena_malloc(&call, 60000));
        struct run held = growing_arena_hold(g, 1);
        first = i == 0 ? held : first;
    }
    assert_int_equal(growing_arena_check(g), 0);
    return first;
}

static void count_chunk(void *context, const struct chunk *c, size_t bytes,
                        enum arena_chunk_state state)
{
    (void)c;
    (void)bytes;
    (void)state;
    ++*(size_t *)context;
}

/* A wrong record ends walks and fails the check; a call that needs the list of segments reports
 * a fault. */
static void damaged_record(size_t field, uintptr_t value)
{
    struct growing_arena *g = growing_arena_new(64);
    struct check check = {0};
    size_t before = 0, chunks = 0;

    struct run gap = fill_segments(g, 5);
    struct arena_segment *record = g->arena->segment.next->next;
    assert_non_null(record->next);
    arena_walk(g->arena, count_chunk, &before);
    *(word *)((uintptr_t)record + field) = value;

    arena_check(g->arena, &check);
    assert_true(check.violations > 0);
    arena_walk(g->arena, count_chunk, &chunks);
    assert_true(chunks > 0 && chunks < before);
    struct arena_call call = growing_arena_call(g);
    char on_stack[64] = {0};
    arena_free(&call, on_stack + 32);
    assert_int_equal(call.fault.kind, FAULT_ARGUMENT);

    size_t used = g->arena->footprint;
    growing_arena_unhold(g, gap);
    call = growing_arena_call(g);
    /* A new segment in the gap: the arena looks for the one behind it. */
    assert_null(arena_malloc(&call, 60000));
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_string_equal(call.fault.what, "damaged record of a segment");
    assert_int_equal(g->arena->damaged, 1);
    assert_int_equal(g->arena->footprint, used);
    assert_int_equal(g->arena->pending.bytes, 0);

    g->arena->damaged = 0;
    call = growing_arena_call(g);
    assert_false(arena_trim(&call, 0));
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_int_equal(g->arena->damaged, 1);
    growing_arena_delete(g);
}

static void test_record_that_leads_nowhere(void **state)
{
    (void)state;
    damaged_record(offsetof(struct arena_segment, next), UINTPTR_MAX);
    damaged_record(offsetof(struct arena_segment, next), 16);
}

static void test_record_of_a_wrong_base(void **state)
{
    (void)state;
    damaged_record(offsetof(struct arena_segment, base), 0);
    damaged_record(offsetof(struct arena_segment, base), UINTPTR_MAX);
}

static void test_record_of_a_wrong_size(void **state)
{
    (void)state;
    damaged_record(offsetof(struct arena_segment, size), 0);
    damaged_record(offsetof(struct arena_segment, size), UINTPTR_MAX);
    damaged_record(offsetof(struct arena_segment, size), GRANULE / 2);
}

static void test_records_in_a_circle(void **state)
{
    struct growing_arena *g = growing_arena_new(64);
    struct arena_usage usage;
    struct check check = {0};

    (void)state;
    fill_segments(g, 5);
    struct arena_segment *newest = g->arena->segment.next;
    newest->next->next = newest;
    arena_check(g->arena, &check);
    assert_true(check.violations > 0);
    arena_usage(g->arena, &usage);
    assert_true(usage.segments <= 5);
    growing_arena_delete(g);
}

static void test_an_unused_segment_with_a_damaged_chunk(void **state)
{
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);
    void *block = arena_malloc(&call, 60000);

    (void)state;
    growing_arena_hold(g, 1);
    fill_segments(g, 1);
    arena_free(&call, block);
    assert_int_equal(growing_arena_check(g), 0);
    struct chunk *c = chunk_of_payload(block);
    c->head = (c->head & ~PINUSE) + CHUNK_ALIGN + PINUSE;
    assert_false(arena_trim(&call, 0));
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_string_equal(call.fault.what, "damaged header of a free chunk");
    growing_arena_delete(g);
}

static void test_damage_met_in_growing_gives_back_what_was_taken(void **state)
{
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    struct run before = growing_arena_hold(g, 2);
    void *first = arena_malloc(&call, 3000), *second = arena_malloc(&call, 56000);
    assert_non_null(second);
    arena_free(&call, first); /* the segment's first chunk is free, in a tree */
    struct chunk *c = chunk_of_payload(first);
    c->fd = NULL;
    growing_arena_unhold(g, before);
    assert_null(arena_malloc(&call, 100000)); /* to be prepended */
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_string_equal(call.fault.what, "damaged free-list link");
    c->fd = c;
    g->arena->damaged = 0;
    assert_int_equal(growing_arena_check(g), 0);
    growing_arena_delete(g);
}

static void test_wrong_pointers_to_large_blocks(void **state)
{
    static const char what[] = "not the start of a large block, or its header is damaged";
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    arena_malloc(&call, 10);
    char *block = arena_malloc(&call, 300000);
    assert_int_equal(g->arena->large_count, 1);
    size_t offset[] = {1, WORD, CHUNK_ALIGN, 4096, GRANULE - CHUNK_HEADER, GRANULE, 2 * GRANULE};
    for (size_t i = 0; i < sizeof offset / sizeof *offset; i++) {
        call = growing_arena_call(g);
        arena_free(&call, block + offset[i]);
        assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
        assert_string_equal(call.fault.what, what);
        assert_int_equal(growing_arena_check(g), 0);
    }
    struct chunk *c = chunk_of_payload(block);
    size_t head = c->head;
    size_t wrong[] = {0, SIZE_MAX, head + GRANULE, head - GRANULE, head | 4, head | 3, head + 8};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        call = growing_arena_call(g);
        c->head = wrong[i];
        arena_free(&call, block);
        assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
        assert_string_equal(call.fault.what, what);
        assert_int_equal(g->arena->large_count, 1);
    }
    c->head = head;
    call = growing_arena_call(g);
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
    assert_string_equal(call.fault.what, "not a block of this heap");
    assert_int_equal(growing_arena_check(g), 0);
    growing_arena_delete(g);
}

/* The content of a large block is never taken for a chunk. */
static void test_false_headers_in_a_large_block(void **state)
{
    enum { BYTES = 300000 };
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    arena_malloc(&call, 10);
    word *block = arena_malloc(&call, BYTES), *image = malloc(BYTES);
    /* Chunks on both sides, so that bins_in_range() holds for the block. */
    char *behind = arena_malloc(&call, 100000);
    assert_int_equal(g->arena->large_count, 1);
    assert_true((char *)block < behind);
    assert_true(bins_in_range(&g->arena->bins, block));
    for (size_t i = 0; i < BYTES / WORD; i++) /* the second half leads to the block behind */
        block[i] =
            (i < BYTES / WORD / 2 ? CHUNK_ALIGN * 4 : (size_t)(behind - (char *)&block[i + 1])) |
            PINUSE | CINUSE;
    memcpy(image, block, BYTES);
    for (size_t i = 2; i < BYTES / WORD; i += 2) {
        void *array[] = {&block[i], &block[i + 4 * CHUNK_ALIGN / WORD]};

        for (int function = 0; function < 4; function++) {
            call = growing_arena_call(g);
            if (function == 0)
                arena_free(&call, &block[i]);
            else if (function == 1)
                assert_null(arena_realloc(&call, &block[i], 100));
            else if (function == 2)
                assert_int_equal(arena_usable(&call, &block[i]), 0);
            else
                assert_int_equal(arena_bulk_free(&call, array, 2), 2);
            assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
        }
    }
    assert_memory_equal(image, block, BYTES);
    assert_int_equal(growing_arena_check(g), 0);

    struct chunk *c = chunk_of_payload(block);
    c->head |= PINUSE | CINUSE; /* as if it ended where the segment behind it begins */
    call = growing_arena_call(g);
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
    assert_int_equal(growing_arena_check(g), 0);
    c->head &= ~(PINUSE | CINUSE);
    call = growing_arena_call(g);
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    free(image);
    growing_arena_delete(g);
}

static void test_a_head_that_leads_into_a_large_block(void **state)
{
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    char *block = arena_malloc(&call, 1000);
    arena_malloc(&call, 1000);
    char *large = arena_malloc(&call, 300000);
    arena_malloc(&call, 100000);
    assert_int_equal(g->arena->large_count, 1);
    memset(large, 0xff, 300000);
    chunk_of_payload(block)->head = (size_t)(large + 1024 - block) | PINUSE | CINUSE;
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_string_equal(call.fault.what, "damaged header");
    for (size_t i = 0; i < 300000; i++)
        assert_int_equal(large[i], (char)0xff);
    growing_arena_delete(g);
}

/* A granule between two segments that can be neither read nor written. */
static char *make_forbidden_gap(struct growing_arena *g)
{
    struct arena_call call = growing_arena_call(g);
    char *gap = growing_arena_hold(g, 1).start;

    assert_non_null(gap);
    char *behind = arena_malloc(&call, 100000);
    assert_true(gap < behind);
    assert_int_equal(mprotect(gap, GRANULE, PROT_NONE), 0);
    return gap;
}

static void test_a_head_that_leads_where_there_is_no_memory(void **state)
{
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    char *block = arena_malloc(&call, 1000);
    arena_malloc(&call, 1000);
    char *gap = make_forbidden_gap(g);
    chunk_of_payload(block)->head = (size_t)(gap + 4096 + CHUNK_HEADER - block) | PINUSE | CINUSE;
    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_DAMAGE);
    assert_string_equal(call.fault.what, "damaged header");
    assert_int_equal(g->arena->damaged, 1);
    growing_arena_delete(g);
}

/* The search for the chunk that a wrong pointer points into stops at such a head. */
static void test_diagnosis_meets_a_head_that_leads_where_there_is_no_memory(void **state)
{
    static const size_t flags[] = {PINUSE | CINUSE, PINUSE};
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    char *damaged = arena_malloc(&call, 1000), *block = arena_malloc(&call, 1000);
    memset(block, 0, 1000);
    char *gap = make_forbidden_gap(g);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        chunk_of_payload(damaged)->head = (size_t)(gap + 4096 + CHUNK_HEADER - damaged) | flags[i];
        call = growing_arena_call(g);
        arena_free(&call, block + 160);
        assert_int_equal(call.fault.kind, FAULT_DAMAGE);
        assert_string_equal(call.fault.what, "damaged header");
        assert_ptr_equal(call.fault.address, damaged);
        g->arena->damaged = 0;
    }
    growing_arena_delete(g);
}

/* Overwrites one word of a free chunk of that many bytes, whose neighbours are in use: the check
 * must report it, and not touch the gap. */
static void check_meets(size_t bytes, size_t field, ptrdiff_t from_gap)
{
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);
    struct check check = {0};

    arena_malloc(&call, 100);
    char *block = arena_malloc(&call, bytes);
    arena_malloc(&call, 100);
    char *gap = make_forbidden_gap(g), *target = gap + from_gap;
    arena_free(&call, block);
    assert_int_equal(growing_arena_check(g), 0);
    struct chunk *c = chunk_of_payload(block);
    *(word *)((uintptr_t)c + field) = field == offsetof(struct chunk, head)
                                          ? (size_t)(target - (char *)c) | PINUSE
                                          : (uintptr_t)target;
    arena_check(g->arena, &check);
    assert_true(check.violations > 0);
    growing_arena_delete(g);
}

static void test_check_follows_nothing_to_where_there_is_no_memory(void **state)
{
    static const size_t small[] = {offsetof(struct chunk, fd), offsetof(struct chunk, bk),
                                   offsetof(struct chunk, head)};
    static const size_t large[] = {
        offsetof(struct chunk, fd),       offsetof(struct chunk, bk),
        offsetof(struct chunk, child[0]), offsetof(struct chunk, child[1]),
        offsetof(struct chunk, parent),   offsetof(struct chunk, head)};
    /* Places in the gap, the first and the last among them; and one before it, where a chunk
     * would reach into the gap. */
    const ptrdiff_t place[] = {0, GRANULE / 2, GRANULE - CHUNK_ALIGN, -(ptrdiff_t)CHUNK_ALIGN};

    (void)state;
    for (size_t i = 0; i < sizeof place / sizeof *place; i++) {
        for (size_t k = 0; k < sizeof small / sizeof *small; k++)
            check_meets(150, small[k], place[i]);
        for (size_t k = 0; k < sizeof large / sizeof *large; k++)
            check_meets(1500, large[k], place[i]);
    }
}

/* ---- anything anywhere ----------------------------------------------------------------------- */

/* Whatever is overwritten, nothing crashes or hangs; the calls that follow may fail or succeed. */
static void overwrite_anything(struct growing_arena *g, struct random_source *random)
{
    struct arena_call call = growing_arena_call(g);
    void *block[60];
    size_t n = sizeof block / sizeof *block, chunks = 0;
    struct arena_usage usage;
    struct check check = {0};

    for (size_t i = 0; i < n; i++) {
        block[i] = arena_malloc(&call, random_size(random, 30000));
        if (i % 16 == 15)
            growing_arena_hold(g, 1);
    }
    for (size_t i = 0; i < n; i += 2)
        arena_free(&call, block[i]);
    assert_int_equal(growing_arena_check(g), 0);

    struct chunk *near = chunk_of_payload(block[random_below(random, n)]);
    word *field = (word *)(void *)near + random_below(random, 8);
    word *record = (word *)(void *)g->arena->segment.next;
    if (record != NULL && random_once_in(random, 4))
        field = record + random_below(random, 4);
    uintptr_t other = (uintptr_t)chunk_of_payload(block[random_below(random, n)]);
    uintptr_t wrong[] = {0,
                         UINTPTR_MAX,
                         other,
                         *field ^ ((uintptr_t)1 << random_below(random, 20)),
                         (uintptr_t)random_next(random),
                         *field + CHUNK_ALIGN};
    *field = wrong[random_below(random, sizeof wrong / sizeof *wrong)];

    arena_check(g->arena, &check);
    arena_usage(g->arena, &usage);
    arena_walk(g->arena, count_chunk, &chunks);
    for (size_t i = 0; i < n; i++) {
        call = growing_arena_call(g);
        arena_usable(&call, block[i]);
        g->arena->damaged = 0;
    }
}

static void test_no_damage_crashes_check_walk_or_diagnosis(void **state)
{
    struct random_source random = {17};

    (void)state;
    for (int round = 0; round < 1000; round++) {
        struct growing_arena *g = growing_arena_new(64);
        overwrite_anything(g, &random);
        growing_arena_delete(g);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record_that_leads_nowhere),
        cmocka_unit_test(test_record_of_a_wrong_base),
        cmocka_unit_test(test_record_of_a_wrong_size),
        cmocka_unit_test(test_records_in_a_circle),
        cmocka_unit_test(test_an_unused_segment_with_a_damaged_chunk),
        cmocka_unit_test(test_damage_met_in_growing_gives_back_what_was_taken),
        cmocka_unit_test(test_wrong_pointers_to_large_blocks),
        cmocka_unit_test(test_false_headers_in_a_large_block),
        cmocka_unit_test(test_a_head_that_leads_into_a_large_block),
        cmocka_unit_test(test_a_head_that_leads_where_there_is_no_memory),
        cmocka_unit_test(test_diagnosis_meets_a_head_that_leads_where_there_is_no_memory),
        cmocka_unit_test(test_check_follows_nothing_to_where_there_is_no_memory),
        cmocka_unit_test(test_no_damage_crashes_check_walk_or_diagnosis),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
