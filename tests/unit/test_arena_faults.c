/* test_arena_faults.c - wrong pointers and overwritten metadata, one by one.
 *
 * Each gives the right fault, and leaves the arena as it was but for `damaged`. Where metadata is
 * damaged the arena refuses everything from then on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arena/arena_internal.h"
#include "support/growing_arena.h"
#include "support/random.h"

enum { BUFFER_BYTES = 64 << 10 };

struct scene {
    char *memory; /* the arena and all its chunks */
    char *image;  /* as `memory` was before the call */
    struct arena *arena;
};

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    s->memory = aligned_alloc(4096, BUFFER_BYTES);
    s->image = malloc(BUFFER_BYTES);
    assert_non_null(s->memory);
    assert_non_null(s->image);
    memset(s->memory, 0, BUFFER_BYTES);
    s->arena = arena_init_in(s->memory, BUFFER_BYTES);
    assert_non_null(s->arena);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    free(s->memory);
    free(s->image);
    free(s);
    return 0;
}

static int violations(const struct arena *a)
{
    struct check check = {0};

    arena_check(a, &check);
    return check.violations;
}

static void *allocate(struct scene *s, size_t bytes)
{
    struct arena_call call = {.arena = s->arena};
    void *block = arena_malloc(&call, bytes);

    assert_non_null(block);
    assert_int_equal(violations(s->arena), 0);
    return block;
}

static void release(struct scene *s, void *block)
{
    struct arena_call call = {.arena = s->arena};

    arena_free(&call, block);
    assert_int_equal(call.fault.kind, FAULT_NONE);
    assert_int_equal(violations(s->arena), 0);
}

static void take_image(struct scene *s)
{
    memcpy(s->image, s->memory, BUFFER_BYTES);
}

/* What the journal's entries hold is of no meaning once its count is 0. */
static void assert_as_before(struct scene *s, bool damaged)
{
    struct arena *before = (struct arena *)(void *)s->image;

    assert_int_equal(s->arena->damaged, damaged);
    assert_int_equal(s->arena->journal.count, 0);
    before->damaged = damaged;
    memcpy(&before->journal, &s->arena->journal, sizeof before->journal);
    assert_memory_equal(s->image, s->memory, BUFFER_BYTES);
}

static void assert_refuses_everything(struct scene *s, void *block)
{
    struct arena_call call = {.arena = s->arena};
    void *array[1] = {block};
    size_t size = 8;

    take_image(s);
    assert_null(arena_malloc(&call, 1));
    assert_null(arena_calloc(&call, 1, 1));
    assert_null(arena_realloc(&call, block, 1000));
    assert_null(arena_resize_in_place(&call, block, 1));
    assert_null(arena_memalign(&call, 64, 1));
    assert_null(arena_independent_calloc(&call, 1, 1, NULL));
    assert_null(arena_independent_comalloc(&call, 1, &size, NULL));
    arena_free(&call, block);
    assert_int_equal(arena_bulk_free(&call, array, 1), block != NULL);
    assert_false(arena_trim(&call, 0));
    assert_memory_equal(s->image, s->memory, BUFFER_BYTES);
}

static void assert_fault(struct scene *s, const struct arena_call *call, enum fault_kind kind,
                         const char *what)
{
    assert_int_equal(call->fault.kind, kind);
    assert_string_equal(call->fault.what, what);
    assert_as_before(s, kind == FAULT_DAMAGE);
}

/* Every call that takes a block says the same of it. */
static void assert_wrong_pointer(struct scene *s, void *block, const char *what)
{
    void *array[1] = {block};

    take_image(s);
    for (int function = 0; function < 5; function++) {
        struct arena_call call = {.arena = s->arena};
        switch (function) {
        case 0:
            arena_free(&call, block);
            break;
        case 1:
            assert_null(arena_realloc(&call, block, 100));
            break;
        case 2:
            assert_null(arena_resize_in_place(&call, block, 100));
            break;
        case 3:
            assert_int_equal(arena_usable(&call, block), 0);
            break;
        default:
            assert_int_equal(arena_bulk_free(&call, array, 1), 1);
            assert_ptr_equal(array[0], block);
            if (call.fault.kind == FAULT_NONE) {
                /* a foreign block: bulk_free leaves it alone */
                assert_string_equal(what, "not a block of this heap");
                assert_as_before(s, false);
                continue;
            }
        }
        assert_fault(s, &call, FAULT_ARGUMENT, what);
        assert_ptr_equal(call.fault.address, block);
        take_image(s);
    }
    assert_int_equal(violations(s->arena), 0);
}

static void assert_damage(struct scene *s, void *block, const char *what)
{
    struct arena_call call = {.arena = s->arena};

    take_image(s);
    arena_free(&call, block);
    assert_fault(s, &call, FAULT_DAMAGE, what);
    assert_true(violations(s->arena) > 0);
    assert_refuses_everything(s, block);
}

static void assert_malloc_finds_damage(struct scene *s, size_t bytes, const char *what)
{
    struct arena_call call = {.arena = s->arena};

    take_image(s);
    assert_null(arena_malloc(&call, bytes));
    assert_fault(s, &call, FAULT_DAMAGE, what);
    assert_refuses_everything(s, NULL);
}

/* ---- double free ----------------------------------------------------------------------------- */

static void test_double_free_at_once(void **state)
{
    struct scene *s = *state;
    void *block = allocate(s, 100), *large = allocate(s, 1000);

    allocate(s, 10);
    release(s, block);
    assert_wrong_pointer(s, block, "double free");
    release(s, large); /* merged with what is before it */
    assert_wrong_pointer(s, large, "pointer into free memory");
}

static void test_double_free_after_merging_forward(void **state)
{
    struct scene *s = *state;
    void *a = allocate(s, 100), *b = allocate(s, 100);

    allocate(s, 10);
    release(s, b);
    release(s, a);
    assert_wrong_pointer(s, a, "double free");
    assert_wrong_pointer(s, b, "pointer into free memory");
}

static void test_double_free_after_merging_into_top(void **state)
{
    struct scene *s = *state;
    void *a = allocate(s, 100), *b = allocate(s, 100);

    release(s, b);
    assert_wrong_pointer(s, b, "double free, or never allocated");
    release(s, a);
    assert_wrong_pointer(s, a, "double free, or never allocated");
    assert_wrong_pointer(s, b, "double free, or never allocated");
}

static void test_double_free_after_merging_into_the_victim(void **state)
{
    struct scene *s = *state;
    void *a = allocate(s, 100), *b = allocate(s, 400), *c = allocate(s, 100);

    allocate(s, 10);
    release(s, b);
    void *low = allocate(s, 100); /* the rest of b is the victim */
    assert_int_equal(s->arena->dv_size, chunk_size_for(400) - chunk_size_for(100));
    assert_ptr_equal(low, b);
    release(s, c);
    assert_wrong_pointer(s, c, "pointer into free memory");
    release(s, low);
    assert_wrong_pointer(s, low, "double free");
    release(s, a);
    assert_wrong_pointer(s, a, "double free");
    assert_wrong_pointer(s, low, "pointer into free memory");
}

static void test_double_free_after_reuse(void **state)
{
    struct scene *s = *state;
    void *a = allocate(s, 100), *b = allocate(s, 100);

    allocate(s, 10);
    release(s, a);
    release(s, b);
    void *both = allocate(s, 200);
    assert_ptr_equal(both, a);
    assert_wrong_pointer(s, b, "pointer into a block");
}

static void test_double_free_in_a_batch(void **state)
{
    struct scene *s = *state;
    void *a = allocate(s, 100), *b = allocate(s, 100), *c = allocate(s, 100);
    void *array[] = {a, b, a, c};
    struct arena_call call = {.arena = s->arena};

    assert_int_equal(arena_bulk_free(&call, array, 4), 2); /* stops at the second a */
    assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
    assert_null(array[0]);
    assert_null(array[1]);
    assert_int_equal(violations(s->arena), 0);
    assert_wrong_pointer(s, b, "pointer into free memory");
    release(s, c);
}

/* A wrong pointer in a batch costs nobody but itself, wherever it lies beside what is right. */
static void test_a_batch_with_a_neighbour_that_is_free(void **state)
{
    struct scene *s = *state;

    for (int order = 0; order < 2; order++) {
        void *low = allocate(s, 500), *high = allocate(s, 500);
        void *array[2];

        allocate(s, 10);
        release(s, high);
        array[order] = low;
        array[!order] = high;
        struct arena_call call = {.arena = s->arena};
        assert_int_equal(arena_bulk_free(&call, array, 2), order == 0 ? 1 : 2);
        assert_int_equal(call.fault.kind, FAULT_ARGUMENT);
        assert_ptr_equal(call.fault.address, high);
        assert_ptr_equal(array[!order], high);
        assert_int_equal(violations(s->arena), 0);
        if (order == 0)
            assert_null(array[0]);
        else
            release(s, low); /* the fault came first, and ended the call */
    }
}

/* ---- wrong pointers -------------------------------------------------------------------------- */

static void test_pointers_into_blocks_and_free_memory(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 200), *b = allocate(s, 200);

    allocate(s, 10);
    memset(a, 0x5a, 200);
    release(s, b);
    for (size_t i = 1; i < 200; i++)
        assert_wrong_pointer(s, a + i, "pointer into a block");
    for (size_t i = 1; i < 200; i++)
        assert_wrong_pointer(s, b + i, "pointer into free memory");
    memset(a, 0, 200);
    assert_wrong_pointer(s, a + CHUNK_ALIGN, "pointer into a block");
    memset(a, 0xff, 200);
    assert_wrong_pointer(s, a + CHUNK_ALIGN, "pointer into a block");
}

static void test_foreign_pointers(void **state)
{
    struct scene *s = *state;
    size_t on_stack[8] = {0};

    allocate(s, 10);
    assert_wrong_pointer(s, &on_stack[4], "not a block of this heap");
    assert_wrong_pointer(s, (void *)16, "not a block of this heap");
    assert_wrong_pointer(s, (void *)UINTPTR_MAX, "not a block of this heap");
    assert_wrong_pointer(s, s->arena, "not a block of this heap");
    assert_wrong_pointer(s, &s->arena->segment, "not a block of this heap");
    assert_wrong_pointer(s, s->memory + BUFFER_BYTES + CHUNK_HEADER, "not a block of this heap");
    /* The foot of the last segment. */
    assert_wrong_pointer(s, s->arena->segment.base + s->arena->segment.size - CHUNK_ALIGN,
                         "double free, or never allocated");
}

static void test_null(void **state)
{
    struct scene *s = *state;
    struct arena_call call = {.arena = s->arena};
    void *array[2] = {NULL, NULL};

    arena_free(&call, NULL);
    assert_null(arena_resize_in_place(&call, NULL, 10));
    assert_int_equal(arena_bulk_free(&call, array, 2), 0);
    assert_int_equal(call.fault.kind, FAULT_NONE);
}

/* ---- damage: blocks in use ------------------------------------------------------------------- */

static void damage_head(struct scene *s, size_t head)
{
    void *block = allocate(s, 100);

    memset(block, 0, 100);
    allocate(s, 10);
    chunk_of_payload(block)->head = head;
    assert_damage(s, block, "damaged header");
}

static void test_head_of_zeros(void **state)
{
    damage_head(*state, 0);
}

static void test_head_of_ones(void **state)
{
    damage_head(*state, SIZE_MAX);
}

static void test_head_of_a_smaller_size(void **state)
{
    damage_head(*state, 48 | PINUSE | CINUSE);
}

static void test_head_of_a_larger_size(void **state)
{
    damage_head(*state, 4096 | PINUSE | CINUSE);
}

static void test_head_that_leads_out_of_the_arena(void **state)
{
    damage_head(*state, (BUFFER_BYTES << 4) | PINUSE | CINUSE);
}

static void test_head_that_wraps(void **state)
{
    damage_head(*state, ((size_t)0 - 64) | PINUSE | CINUSE);
}

static void test_head_with_a_flag_that_nobody_sets(void **state)
{
    struct scene *s = *state;
    size_t size = chunk_size_for(100);

    if (CHUNK_ALIGN / 2 == CHUNK_UNCACHED)
        skip(); /* 32 bit: each has a meaning */
    damage_head(s, size | CHUNK_ALIGN / 2 | PINUSE | CINUSE);
}

static void test_head_of_a_free_chunk(void **state)
{
    damage_head(*state, 64 | PINUSE);
}

static void test_head_of_a_fence(void **state)
{
    damage_head(*state, CHUNK_FENCE);
}

static void test_head_of_the_next_block(void **state)
{
    struct scene *s = *state;
    void *a = allocate(s, 100), *b = allocate(s, 100);

    allocate(s, 10);
    chunk_of_payload(b)->head = 0;
    assert_damage(s, a, "damaged header");
}

static void test_usable_size_sets_a_damaged_arena_aside(void **state)
{
    struct scene *s = *state;
    void *block = allocate(s, 100);
    struct arena_call call = {.arena = s->arena};

    chunk_of_payload(block)->head = 0;
    take_image(s);
    assert_int_equal(arena_usable(&call, block), 0);
    assert_fault(s, &call, FAULT_DAMAGE, "damaged header");
}

/* ---- damage: free neighbours ----------------------------------------------------------------- */

/* a (in use), free, b (in use): the free one is binned, of that size. */
struct gap {
    void *a, *b;
    struct chunk *free;
};

static struct gap make_gap(struct scene *s, size_t bytes)
{
    struct gap gap = {.a = allocate(s, 64)};
    void *middle = allocate(s, bytes);

    gap.b = allocate(s, 64);
    allocate(s, 10);
    release(s, middle);
    gap.free = chunk_of_payload(middle);
    return gap;
}

static void test_prev_foot(void **state)
{
    struct scene *s = *state;
    struct chunk *b = chunk_of_payload(make_gap(s, 200).b);

    b->prev_foot += CHUNK_ALIGN;
    assert_damage(s, chunk_payload(b), "damaged header before a block");
}

static void prev_foot_of(struct scene *s, size_t value)
{
    struct chunk *b = chunk_of_payload(make_gap(s, 200).b);

    b->prev_foot = value;
    assert_damage(s, chunk_payload(b), "damaged header before a block");
}

static void test_prev_foot_of_zero(void **state)
{
    prev_foot_of(*state, 0);
}

static void test_prev_foot_of_ones(void **state)
{
    prev_foot_of(*state, SIZE_MAX);
}

static void test_prev_foot_that_leads_out(void **state)
{
    prev_foot_of(*state, BUFFER_BYTES << 4);
}

static void test_prev_foot_that_wraps(void **state)
{
    prev_foot_of(*state, (size_t)0 - 256);
}

static void test_size_of_the_free_chunk_before(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_gap(s, 200);

    gap.free->head += CHUNK_ALIGN;
    assert_damage(s, gap.b, "damaged header before a block");
}

static void next_free_head(struct scene *s, size_t bytes, size_t change)
{
    struct gap gap = make_gap(s, bytes);

    gap.free->head += change;
    assert_damage(s, gap.a, "damaged header of a free chunk");
}

static void test_size_of_the_free_chunk_after(void **state)
{
    next_free_head(*state, 200, CHUNK_ALIGN);
}

static void test_wrapping_size_of_the_free_chunk_after(void **state)
{
    next_free_head(*state, 200, (size_t)0 - BUFFER_BYTES);
}

static void test_size_of_the_tree_chunk_after(void **state)
{
    next_free_head(*state, 2000, (size_t)0 - CHUNK_ALIGN);
}

static void link_of(struct scene *s, size_t bytes, size_t field, uintptr_t value, bool after)
{
    struct gap gap = {.a = allocate(s, 64)};
    void *middle = allocate(s, bytes);

    gap.b = allocate(s, 64);
    void *more = allocate(s, bytes); /* so that the list is longer than one */
    allocate(s, 10);
    release(s, middle);
    release(s, more);
    gap.free = chunk_of_payload(middle);
    *(word *)((uintptr_t)gap.free + field) = value;
    assert_damage(s, after ? gap.a : gap.b, "damaged free-list link");
}

static void test_fd_of_a_small_chunk(void **state)
{
    link_of(*state, 100, offsetof(struct chunk, fd), 0x4141414141414141u & UINTPTR_MAX, true);
}

static void test_bk_of_a_small_chunk(void **state)
{
    link_of(*state, 100, offsetof(struct chunk, bk), 0, false);
}

static void test_fd_of_a_tree_chunk(void **state)
{
    link_of(*state, 2000, offsetof(struct chunk, fd), UINTPTR_MAX, false);
}

static void test_bk_of_a_tree_chunk(void **state)
{
    link_of(*state, 2000, offsetof(struct chunk, bk), 0, true);
}

static void test_parent_of_a_tree_chunk(void **state)
{
    link_of(*state, 2000, offsetof(struct chunk, parent), 16, true);
}

static void test_no_parent_and_no_ring(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_gap(s, 2000);

    gap.free->parent = NULL;
    assert_damage(s, gap.a, "damaged free-list link");
}

static void child_of(struct scene *s, unsigned side)
{
    struct gap gap = make_gap(s, 2000);

    gap.free->child[side] = (struct chunk *)(uintptr_t)(UINTPTR_MAX - 15);
    assert_damage(s, gap.b, "damaged free-list link");
}

static void test_children_of_a_tree_chunk(void **state)
{
    child_of(*state, 0);
}

static void test_right_child_of_a_tree_chunk(void **state)
{
    child_of(*state, 1);
}

/* ---- damage: met by malloc ------------------------------------------------------------------- */

static void test_malloc_from_a_damaged_small_chunk(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_gap(s, 100);

    gap.free->head = 4096 | PINUSE;
    assert_malloc_finds_damage(s, 100, "damaged header of a free chunk");
}

static void test_malloc_splits_no_damaged_small_chunk(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_gap(s, 200);

    gap.free->head = 32 | PINUSE;
    assert_malloc_finds_damage(s, 100, "damaged header of a free chunk");
}

static void test_malloc_meets_a_damaged_link(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_gap(s, 100);

    gap.free->bk = gap.free;
    assert_malloc_finds_damage(s, 100, "damaged free-list link");
}

static void test_malloc_from_a_damaged_tree(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_gap(s, 2000);

    gap.free->head = 8192 | PINUSE;
    assert_malloc_finds_damage(s, 2000, "damaged header of a free chunk");
}

/* ---- damage: victim and top ------------------------------------------------------------------ */

static struct gap make_victim(struct scene *s)
{
    struct gap gap = make_gap(s, 400);

    gap.a = allocate(s, 100); /* from the gap */
    assert_true(s->arena->dv_size > 0);
    gap.free = s->arena->dv;
    return gap;
}

static void test_header_of_the_victim(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_victim(s);

    gap.free->head = SIZE_MAX;
    assert_damage(s, gap.b, "damaged header before a block");
}

static void test_foot_of_the_victim(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_victim(s);

    chunk_of_payload(gap.b)->prev_foot = 32;
    assert_damage(s, gap.b, "damaged header before a block");
}

static void test_flag_before_the_victim(void **state)
{
    struct scene *s = *state;
    struct gap gap = make_victim(s);

    gap.free->head = 0; /* says that the block before is free, which it is not */
    assert_damage(s, gap.a, "damaged header");
}

static void test_header_of_top(void **state)
{
    struct scene *s = *state;
    void *block = allocate(s, 100);

    s->arena->top->head = 0;
    assert_damage(s, block, "damaged header");
}

/* ---- growing arenas -------------------------------------------------------------------------- */

/* A granule that is not the arena's after each; the first of these is returned. */
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

/* A wrong record ends walks, fails the check, and is a fault where the list matters. */
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
    assert_null(arena_malloc(&call, 60000)); /* in the gap: looks for the segment behind it */
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

/* What a large block holds is never taken for a chunk. */
static void test_false_headers_in_a_large_block(void **state)
{
    enum { BYTES = 300000 };
    struct growing_arena *g = growing_arena_new(64);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    arena_malloc(&call, 10);
    word *block = arena_malloc(&call, BYTES), *image = malloc(BYTES);
    char *behind = arena_malloc(&call, 100000); /* so that it lies within the range of chunks */
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

/* Memory between two segments that nobody may touch. */
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

/* The search for a wrong pointer's chunk stops there. */
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

/* A free chunk of that many bytes, whose neighbours are in use, with one of its words
 * overwritten. */
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
    /* The first and last places in the gap, and one before it, where a chunk would reach into
     * it. */
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

/* Whatever is overwritten, nothing crashes or hangs; calls after it may fail, or succeed. */
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
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        TEST(test_double_free_at_once),
        TEST(test_double_free_after_merging_forward),
        TEST(test_double_free_after_merging_into_top),
        TEST(test_double_free_after_merging_into_the_victim),
        TEST(test_double_free_after_reuse),
        TEST(test_double_free_in_a_batch),
        TEST(test_a_batch_with_a_neighbour_that_is_free),
        TEST(test_pointers_into_blocks_and_free_memory),
        TEST(test_foreign_pointers),
        TEST(test_null),
        TEST(test_head_of_zeros),
        TEST(test_head_of_ones),
        TEST(test_head_of_a_smaller_size),
        TEST(test_head_of_a_larger_size),
        TEST(test_head_that_leads_out_of_the_arena),
        TEST(test_head_that_wraps),
        TEST(test_head_with_a_flag_that_nobody_sets),
        TEST(test_head_of_a_free_chunk),
        TEST(test_head_of_a_fence),
        TEST(test_head_of_the_next_block),
        TEST(test_usable_size_sets_a_damaged_arena_aside),
        TEST(test_prev_foot),
        TEST(test_prev_foot_of_zero),
        TEST(test_prev_foot_of_ones),
        TEST(test_prev_foot_that_leads_out),
        TEST(test_prev_foot_that_wraps),
        TEST(test_size_of_the_free_chunk_before),
        TEST(test_size_of_the_free_chunk_after),
        TEST(test_wrapping_size_of_the_free_chunk_after),
        TEST(test_size_of_the_tree_chunk_after),
        TEST(test_fd_of_a_small_chunk),
        TEST(test_bk_of_a_small_chunk),
        TEST(test_fd_of_a_tree_chunk),
        TEST(test_bk_of_a_tree_chunk),
        TEST(test_parent_of_a_tree_chunk),
        TEST(test_no_parent_and_no_ring),
        TEST(test_children_of_a_tree_chunk),
        TEST(test_right_child_of_a_tree_chunk),
        TEST(test_malloc_from_a_damaged_small_chunk),
        TEST(test_malloc_splits_no_damaged_small_chunk),
        TEST(test_malloc_meets_a_damaged_link),
        TEST(test_malloc_from_a_damaged_tree),
        TEST(test_header_of_the_victim),
        TEST(test_foot_of_the_victim),
        TEST(test_flag_before_the_victim),
        TEST(test_header_of_top),
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
