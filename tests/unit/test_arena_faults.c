/* test_arena_faults.c - wrong pointers and overwritten metadata, one by one, in one segment.
 *
 * Each causes the right fault, and changes nothing in the arena but `damaged`. An arena with
 * damaged metadata refuses everything from then on.
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

/* The journal's entries are not compared: once its count is 0 they mean nothing. */
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

/* Every call that takes a block reports the same fault. */
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

/* A wrong pointer in a batch does no harm to a right one beside it, whichever comes first. */
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
        skip(); /* with 32 bits every flag has a meaning */
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

/* A free chunk of a given size, in its bin, between two blocks in use: a before it, b behind it. */
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
