/* test_arena.c - the engine over a caller's buffer: where blocks go, how they are merged, resized,
 * aligned, batched.
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

enum { BUFFER_BYTES = 1 << 20 };

/* Bytes of a request for a chunk of that many words. */
#define WORDS(n) ((n)*WORD - CHUNK_OVERHEAD)

struct scene {
    char *memory;
    struct arena *arena;
    struct arena_call call;
};

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    s->memory = aligned_alloc(4096, BUFFER_BYTES);
    assert_non_null(s->memory);
    memset(s->memory, 0xee, BUFFER_BYTES);
    s->arena = arena_init_in(s->memory, BUFFER_BYTES);
    assert_non_null(s->arena);
    s->call.arena = s->arena;
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    free(s->memory);
    free(s);
    return 0;
}

static void assert_sound(struct scene *s)
{
    struct check check = {.report = stderr};

    assert_int_equal(s->call.fault.kind, FAULT_NONE);
    arena_check(s->arena, &check);
    assert_int_equal(check.violations, 0);
}

static char *allocate(struct scene *s, size_t bytes)
{
    char *block = arena_malloc(&s->call, bytes);

    assert_non_null(block);
    assert_true(chunk_usable(chunk_of_payload(block)) >= bytes);
    assert_sound(s);
    return block;
}

static void release(struct scene *s, void *block)
{
    arena_free(&s->call, block);
    assert_sound(s);
}

static char *resize_in_place(struct scene *s, void *block, size_t bytes)
{
    char *result = arena_resize_in_place(&s->call, block, bytes);

    assert_sound(s);
    return result;
}

static char *resize(struct scene *s, void *block, size_t bytes)
{
    char *result = arena_realloc(&s->call, block, bytes);

    assert_sound(s);
    return result;
}

static struct arena_usage usage_of(const struct scene *s)
{
    struct arena_usage usage;

    arena_usage(s->arena, &usage);
    return usage;
}

/* ---- the buffer ------------------------------------------------------------------------------ */

static void test_buffers_too_small_are_refused(void **state)
{
    size_t least = bits_round_up(sizeof(struct arena), CHUNK_ALIGN) + CHUNK_MIN + ARENA_FOOT;
    char *memory = aligned_alloc(4096, 8192);

    (void)state;
    assert_non_null(memory);
    for (size_t bytes = 0; bytes < least; bytes += 7)
        assert_null(arena_init_in(memory, bytes));
    assert_null(arena_init_in(memory, least - 1));
    assert_non_null(arena_init_in(memory, least));
    assert_null(arena_init_in(memory + 1, least));
    for (size_t skew = 0; skew < 40; skew++) {
        struct arena *a = arena_init_in(memory + skew, 5000 + skew);
        struct arena_call call = {.arena = a};
        struct check check = {.report = stderr};
        void *block;
        assert_non_null(a);
        while ((block = arena_malloc(&call, 30)) != NULL)
            memset(block, 0xff, 30);
        arena_check(a, &check);
        assert_int_equal(check.violations, 0);
    }
    free(memory);
}

static void test_a_full_buffer_fails_and_works_again(void **state)
{
    struct scene *s = *state;
    size_t all = s->arena->top_size;
    char *block = allocate(s, all - CHUNK_ALIGN - CHUNK_OVERHEAD);

    assert_int_equal(s->arena->top_size, CHUNK_ALIGN); /* never allocated whole */
    assert_null(arena_malloc(&s->call, 0));
    assert_null(arena_memalign(&s->call, 64, 1));
    assert_null(arena_independent_calloc(&s->call, 1, 1, NULL));
    assert_sound(s);
    release(s, block);
    assert_int_equal(s->arena->top_size, all);
    assert_null(arena_malloc(&s->call, all - CHUNK_OVERHEAD));
    assert_sound(s);
}

static void test_a_buffer_is_never_trimmed(void **state)
{
    struct scene *s = *state;

    assert_false(arena_trim(&s->call, 0));
    arena_set_parameter(s->arena, -1, 1000);
    release(s, allocate(s, 100));
    assert_int_equal(s->arena->trim_check, ARENA_NEVER);
    assert_int_equal(s->arena->footprint, s->arena->segment.size);
}

/* ---- malloc ---------------------------------------------------------------------------------- */

static void test_sizes_of_chunks(void **state)
{
    struct scene *s = *state;

    for (size_t bytes = 0; bytes < 3000; bytes++) {
        char *block = allocate(s, bytes);
        size_t usable = chunk_usable(chunk_of_payload(block));
        assert_true(usable < bytes + CHUNK_ALIGN || usable == CHUNK_MIN - CHUNK_OVERHEAD);
        assert_int_equal((uintptr_t)block % CHUNK_ALIGN, 0);
        memset(block, 0xff, usable);
        release(s, block);
    }
    assert_ptr_not_equal(allocate(s, 0), allocate(s, 0));
}

static void test_small_request_takes_the_exact_bin_first(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, WORDS(8)), *gap = allocate(s, 10), *b = allocate(s, WORDS(8));

    allocate(s, 10);
    (void)gap;
    release(s, a);
    release(s, b);
    assert_ptr_equal(allocate(s, WORDS(8)), b); /* the newest */
    assert_ptr_equal(allocate(s, WORDS(8)), a);
}

/* A small chunk that is larger than needed is split. Its rest becomes the victim, and the next
 * small request is cut from that. */
static void test_victim(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, WORDS(24));

    allocate(s, 10);
    release(s, a);
    assert_ptr_equal(allocate(s, WORDS(8)), a);
    assert_int_equal(s->arena->dv_size, 16 * WORD);
    assert_ptr_equal(allocate(s, WORDS(8)), a + 8 * WORD);
    assert_int_equal(s->arena->dv_size, 8 * WORD);
    /* The rest is too small for a chunk: the request gets all of it. */
    assert_ptr_equal(allocate(s, WORDS(6)), a + 16 * WORD);
    assert_int_equal(s->arena->dv_size, 0);
}

static void test_a_victim_that_just_fits_goes_before_larger_chunks(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, WORDS(24)), *gap = allocate(s, 10), *b = allocate(s, WORDS(30));

    allocate(s, 10);
    (void)gap;
    release(s, a);
    allocate(s, WORDS(8));
    assert_int_equal(s->arena->dv_size, 16 * WORD);
    release(s, b);
    assert_ptr_equal(allocate(s, WORDS(16)), a + 8 * WORD);
    assert_int_equal(s->arena->dv_size, 0);
}

static void test_a_rest_too_small_is_not_split_off(void **state)
{
    struct scene *s = *state;
    char *tree = allocate(s, 1000);

    allocate(s, 10);
    size_t size = chunk_size(chunk_of_payload(tree));
    release(s, tree);
    assert_ptr_equal(allocate(s, size - CHUNK_ALIGN - CHUNK_OVERHEAD), tree);
    assert_int_equal(chunk_size(chunk_of_payload(tree)), size);
    release(s, tree);
    assert_ptr_equal(allocate(s, size - CHUNK_MIN - CHUNK_OVERHEAD), tree);
    assert_int_equal(chunk_size(chunk_of_payload(tree)), size - CHUNK_MIN);
    assert_int_equal(s->arena->dv_size, 0); /* a large request's rest goes to a bin */
    assert_int_not_equal(s->arena->bins.small_map, 0);
}

static void test_the_old_victim_goes_to_its_bin(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, WORDS(16)), *gap = allocate(s, 10), *b = allocate(s, WORDS(30));

    allocate(s, 10);
    (void)gap;
    release(s, a);
    allocate(s, WORDS(10)); /* the victim is the last 6 words of a */
    assert_int_equal(s->arena->dv_size, 6 * WORD);
    release(s, b);
    assert_ptr_equal(allocate(s, WORDS(8)), b); /* too much for the victim */
    assert_int_equal(s->arena->dv_size, 22 * WORD);
    assert_ptr_equal(bins_small_first(&s->arena->bins, bins_small_index(6 * WORD)),
                     chunk_of_payload(a + 10 * WORD));
}

/* A tree chunk serves a large request only if it leaves a smaller rest than the victim would. */
static void test_large_request_weighs_tree_and_victim(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 4000), *gap = allocate(s, 10), *b = allocate(s, 3000);

    allocate(s, 10);
    (void)gap;
    release(s, a);
    assert_ptr_equal(allocate(s, 10), a); /* the rest, most of a, is the victim */
    release(s, b);
    size_t dv = s->arena->dv_size, tree = chunk_size(chunk_of_payload(b));
    char *from_tree = allocate(s, 2000);
    assert_ptr_equal(from_tree, b);
    assert_int_equal(s->arena->dv_size, dv);
    release(s, from_tree);
    assert_int_equal(chunk_size(chunk_of_payload(b)), tree);
    char *exact = allocate(s, dv - CHUNK_OVERHEAD);
    assert_int_equal(s->arena->dv_size, 0);
    release(s, exact);
}

static void test_equal_surplus_goes_to_the_victim(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 3000 + CHUNK_MIN), *gap = allocate(s, 10), *b = allocate(s, 3000);

    allocate(s, 10);
    (void)gap;
    size_t size = chunk_size(chunk_of_payload(b));
    release(s, a);
    allocate(s, 0);
    assert_int_equal(s->arena->dv_size, size);
    release(s, b);
    assert_ptr_equal(allocate(s, 2000), a + CHUNK_MIN);
}

static void test_zeroed_memory(void **state)
{
    struct scene *s = *state;
    char *dirty = allocate(s, 5000);

    memset(dirty, 0xff, 5000);
    allocate(s, 10);
    release(s, dirty);
    char *clean = arena_calloc(&s->call, 50, 100);
    assert_ptr_equal(clean, dirty);
    for (size_t i = 0; i < 5000; i++)
        assert_int_equal(clean[i], 0);
    assert_null(arena_calloc(&s->call, SIZE_MAX / 2, 3));
    assert_null(arena_calloc(&s->call, SIZE_MAX, SIZE_MAX));
    assert_non_null(arena_calloc(&s->call, 0, SIZE_MAX));
    assert_sound(s);
}

/* ---- free ------------------------------------------------------------------------------------ */

/* Three neighbours freed in each order become one chunk, whichever bins they were in. */
static void test_merging(void **state)
{
    static const size_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                        {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const size_t sizes[] = {40, 120, 700, 3000};
    struct scene *s = *state;

    for (size_t o = 0; o < 6; o++)
        for (size_t i = 0; i < 64; i++) {
            char *low = allocate(s, 10), *b[3];
            for (size_t k = 0; k < 3; k++)
                b[k] = allocate(s, sizes[i >> (2 * k) & 3]);
            char *high = allocate(s, 10);
            size_t sum = (size_t)(high - b[0]);
            for (size_t k = 0; k < 3; k++)
                release(s, b[orders[o][k]]);
            assert_int_equal(chunk_of_payload(b[0])->head, sum | PINUSE);
            assert_int_equal(usage_of(s).free_chunks, 2);
            release(s, low);
            release(s, high);
            assert_int_equal(usage_of(s).free_chunks, 1);
        }
}

static void test_merging_with_the_victim(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 400), *b = allocate(s, 100), *c = allocate(s, 100);

    allocate(s, 10);
    release(s, a);
    char *low = allocate(s, 100); /* then come the victim, b and c */
    size_t dv = s->arena->dv_size;
    release(s, c);
    release(s, b); /* between victim and a free chunk */
    assert_int_equal(s->arena->dv_size, dv + 2 * chunk_size_for(100));
    release(s, low); /* next is the victim */
    assert_ptr_equal(s->arena->dv, chunk_of_payload(a));
    assert_int_equal(s->arena->bins.small_map | s->arena->bins.tree_map, 0);
    char *low_again = allocate(s, 100);
    assert_ptr_equal(low_again, a);
    char *rest = allocate(s, s->arena->dv_size - CHUNK_OVERHEAD);
    release(s, low_again);
    release(s, rest);
    assert_int_equal(s->arena->dv_size, 0);
}

static void test_the_victim_becomes_top(void **state)
{
    struct scene *s = *state;
    size_t top = s->arena->top_size;
    char *a = allocate(s, 400), *last = allocate(s, 100);

    release(s, a);
    char *low = allocate(s, 100);
    assert_int_not_equal(s->arena->dv_size, 0);
    release(s, last);
    assert_int_equal(s->arena->dv_size, 0);
    assert_null(s->arena->dv);
    release(s, low);
    assert_int_equal(s->arena->top_size, top);
}

static void test_only_free_counts_down(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 3000);

    allocate(s, 10);
    size_t count = s->arena->release_countdown;
    assert_ptr_equal(resize(s, a, 1000), a); /* disposes of a tree chunk */
    assert_int_equal(s->arena->release_countdown, count);
    release(s, a);
    assert_int_equal(s->arena->release_countdown, count - 1);
}

/* ---- realloc --------------------------------------------------------------------------------- */

static void test_shrinking(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 1000);

    allocate(s, 10);
    size_t size = chunk_size(chunk_of_payload(a));
    assert_ptr_equal(resize_in_place(s, a, 1000 - CHUNK_ALIGN), a); /* not worth it */
    assert_int_equal(chunk_size(chunk_of_payload(a)), size);
    assert_ptr_equal(resize_in_place(s, a, 1000 - CHUNK_MIN), a);
    assert_int_equal(chunk_size(chunk_of_payload(a)), size - CHUNK_MIN);
    assert_ptr_equal(resize(s, a, 0), a);
    assert_int_equal(chunk_size(chunk_of_payload(a)), CHUNK_MIN);
    assert_int_equal(usage_of(s).free_chunks, 2);
}

static void test_growing_into_top(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 100);
    size_t together = chunk_size(chunk_of_payload(a)) + s->arena->top_size;

    assert_null(resize_in_place(s, a, together - CHUNK_OVERHEAD)); /* top is never used up */
    assert_ptr_equal(resize_in_place(s, a, together - CHUNK_ALIGN - CHUNK_OVERHEAD), a);
    assert_int_equal(s->arena->top_size, CHUNK_ALIGN);
    assert_ptr_equal(resize_in_place(s, a, 100), a);
    assert_int_equal(chunk_size(chunk_of_payload(a)) + s->arena->top_size, together);
}

static void test_growing_into_the_victim(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 1000);

    allocate(s, 10);
    release(s, a);
    a = allocate(s, 100);
    size_t together = chunk_size(chunk_of_payload(a)) + s->arena->dv_size;
    assert_null(resize_in_place(s, a, together - CHUNK_OVERHEAD + 1));
    assert_ptr_equal(resize_in_place(s, a, 300), a);
    assert_int_equal(s->arena->dv_size, together - chunk_size_for(300));
    assert_ptr_equal(resize_in_place(s, a, together - CHUNK_ALIGN - CHUNK_OVERHEAD), a);
    assert_int_equal(s->arena->dv_size, 0); /* what was left was no chunk */
    assert_int_equal(chunk_size(chunk_of_payload(a)), together);
}

static void test_growing_into_a_free_chunk(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 100), *b = allocate(s, 1000);

    allocate(s, 10);
    release(s, b);
    size_t together = chunk_size_for(100) + chunk_size_for(1000);
    assert_null(resize_in_place(s, a, together - CHUNK_OVERHEAD + 1));
    assert_ptr_equal(resize_in_place(s, a, 500), a);
    assert_int_equal(usage_of(s).free_chunks, 2);
    assert_ptr_equal(resize_in_place(s, a, together - CHUNK_OVERHEAD), a);
    assert_int_equal(usage_of(s).free_chunks, 1);
    assert_null(resize_in_place(s, a, together)); /* next is in use */
}

static void test_moving(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 1000);

    allocate(s, 10);
    for (int i = 0; i < 1000; i++)
        a[i] = (char)i;
    char *b = resize(s, a, 20000);
    assert_ptr_not_equal(a, b);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b[i], (char)i);
    assert_null(resize(s, b, BUFFER_BYTES)); /* no room: the block stays */
    assert_null(resize(s, b, SIZE_MAX));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b[i], (char)i);
    assert_non_null(resize(s, NULL, 10));
}

/* ---- memalign -------------------------------------------------------------------------------- */

static void test_every_alignment(void **state)
{
    struct scene *s = *state;

    for (size_t alignment = 0; alignment < 70; alignment++)
        for (size_t bytes = 0; bytes < 300; bytes += 13) {
            char *block = arena_memalign(&s->call, alignment, bytes);
            size_t power = bits_power_of_two_above(alignment);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % power, 0);
            assert_sound(s);
            memset(block, 0xff, bytes);
            if (bytes % 3 != 0)
                release(s, block);
        }
    for (size_t alignment = 64; alignment <= 65536; alignment *= 2) {
        char *block = arena_memalign(&s->call, alignment, 100);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % alignment, 0);
        assert_true(chunk_size(chunk_of_payload(block)) <= chunk_size_for(100) + CHUNK_MIN);
        assert_sound(s);
        release(s, block);
    }
}

/* The rest behind an aligned block is freed only if it is larger than the smallest chunk. Here
 * it is exactly that large: the first aligned place leaves too little before it for a chunk, so
 * that the block goes to the second. */
static void test_the_rest_of_an_aligned_block(void **state)
{
    struct scene *s = *state;
    size_t alignment = 64, need = chunk_size_for(100);

    while ((uintptr_t)chunk_payload(s->arena->top) % alignment != alignment - CHUNK_ALIGN)
        allocate(s, WORDS(6));
    char *room = allocate(s, need + alignment + CHUNK_MIN + CHUNK_ALIGN - CHUNK_OVERHEAD);
    allocate(s, 0);
    release(s, room);
    char *block = arena_memalign(&s->call, alignment, 100);
    assert_sound(s);
    assert_ptr_equal(block, room + alignment + CHUNK_ALIGN);
    assert_int_equal(chunk_size(chunk_of_payload(block)), need + CHUNK_MIN);
}

static void test_alignments_that_no_address_has(void **state)
{
    struct scene *s = *state;
    size_t top = s->arena->top_size;

    for (size_t alignment = (size_t)1 << 21; alignment != 0; alignment *= 2) {
        assert_null(arena_memalign(&s->call, alignment, 1));
        assert_null(arena_memalign(&s->call, alignment + 1, 1));
        assert_null(arena_memalign(&s->call, alignment, SIZE_MAX - alignment));
    }
    assert_null(arena_memalign(&s->call, SIZE_MAX, 1));
    assert_sound(s);
    assert_int_equal(s->arena->top_size, top);
}

/* ---- batches --------------------------------------------------------------------------------- */

static void test_independent_calloc(void **state)
{
    struct scene *s = *state;
    void *own[10];

    char *dirty = allocate(s, 10000);
    memset(dirty, 0xff, 10000);
    release(s, dirty);
    for (size_t count = 1; count <= 10; count++) {
        assert_ptr_equal(arena_independent_calloc(&s->call, count, 50, own), own);
        assert_sound(s);
        for (size_t i = 0; i < count; i++) {
            const char *element = own[i];
            for (size_t k = 0; k < 50; k++)
                assert_int_equal(element[k], 0);
            if (i > 0)
                assert_int_equal((char *)own[i] - (char *)own[i - 1], chunk_size_for(50));
        }
        for (size_t i = 0; i < count; i++)
            release(s, own[i]);
    }
    assert_int_equal(usage_of(s).used_chunks, 0);
}

static void test_independent_comalloc_makes_its_array_last(void **state)
{
    struct scene *s = *state;
    size_t sizes[] = {10, 0, 500, 24};
    void **array = arena_independent_comalloc(&s->call, 4, sizes, NULL);

    assert_non_null(array);
    assert_sound(s);
    assert_ptr_equal(chunk_next(chunk_of_payload(array[3])), chunk_of_payload(array));
    assert_int_equal(usage_of(s).used_chunks, 5);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(chunk_size(chunk_of_payload(array[i])), chunk_size_for(sizes[i]));
        release(s, array[i]);
    }
    release(s, array);
    array = arena_independent_comalloc(&s->call, 1, sizes, NULL);
    assert_int_equal(usage_of(s).used_chunks, 2);
    release(s, array[0]);
    release(s, array);
    assert_int_equal(usage_of(s).used_chunks, 0);
}

static void test_the_last_element_takes_the_slack(void **state)
{
    struct scene *s = *state;
    size_t sizes[] = {WORDS(100), WORDS(100)};
    void *array[2];
    char *a = allocate(s, WORDS(200) + CHUNK_ALIGN);

    allocate(s, 10);
    release(s, a);
    arena_independent_comalloc(&s->call, 2, sizes, array);
    assert_ptr_equal(array[0], a);
    assert_int_equal(chunk_size(chunk_of_payload(array[1])), 100 * WORD + CHUNK_ALIGN);
    assert_sound(s);
}

static void test_no_elements(void **state)
{
    struct scene *s = *state;
    void *own[1], *block;

    assert_ptr_equal(arena_independent_calloc(&s->call, 0, 10, own), own);
    block = arena_independent_comalloc(&s->call, 0, NULL, NULL);
    assert_int_equal(chunk_size(chunk_of_payload(block)), CHUNK_MIN);
    assert_sound(s);
}

static void test_bulk_free_joins_neighbours(void **state)
{
    struct scene *s = *state;
    void *array[6];

    for (size_t i = 0; i < 5; i++)
        array[i] = allocate(s, 100);
    allocate(s, 10);
    array[5] = NULL;
    void *first = array[0];
    array[0] = NULL; /* stays */
    assert_int_equal(arena_bulk_free(&s->call, array, 6), 0);
    assert_sound(s);
    for (size_t i = 0; i < 6; i++)
        assert_null(array[i]);
    assert_int_equal(usage_of(s).free_chunks, 2);
    assert_int_equal(s->arena->bins.tree_map != 0, 1);
    release(s, first);
}

static void test_bulk_free_leaves_what_is_foreign(void **state)
{
    struct scene *s = *state;
    size_t on_stack[8] = {0};
    void *array[] = {allocate(s, 10), &on_stack[4], allocate(s, 10)};

    assert_int_equal(arena_bulk_free(&s->call, array, 3), 1);
    assert_null(array[0]);
    assert_ptr_equal(array[1], &on_stack[4]);
    assert_null(array[2]);
    assert_sound(s);
    assert_int_equal(usage_of(s).used_chunks, 0);
}

/* ---- looking --------------------------------------------------------------------------------- */

struct seen {
    size_t count[ARENA_CHUNK_RECORD + 1];
    size_t bytes;
    const char *end;
};

static void see(void *context, const struct chunk *c, size_t bytes, enum arena_chunk_state state)
{
    struct seen *seen = context;

    if (seen->end != NULL)
        assert_ptr_equal(c, seen->end);
    seen->end = (const char *)c + bytes;
    seen->count[state]++;
    seen->bytes += bytes;
}

static void test_walk_sees_every_chunk(void **state)
{
    struct scene *s = *state;
    struct seen seen = {0};
    char *a = allocate(s, 400), *b = allocate(s, 100), *c = allocate(s, 3000);

    allocate(s, 10);
    release(s, a);
    allocate(s, 100);
    release(s, c);
    arena_walk(s->arena, see, &seen);
    assert_int_equal(seen.count[ARENA_CHUNK_USED], 3);
    assert_int_equal(seen.count[ARENA_CHUNK_DV], 1);
    assert_int_equal(seen.count[ARENA_CHUNK_FREE], 1);
    assert_int_equal(seen.count[ARENA_CHUNK_TOP], 1);
    assert_int_equal(seen.bytes + ARENA_FOOT, s->arena->footprint);
    release(s, b);
}

static void test_check_sees_damage(void **state)
{
    struct scene *s = *state;
    char *a = allocate(s, 400), *b = allocate(s, 1000);

    allocate(s, 10);
    release(s, a);
    char *low = allocate(s, 100);
    release(s, b);
    b = allocate(s, 500);
    struct arena *arena = s->arena;
    struct chunk *used = chunk_of_payload(low);
    struct {
        void *field;
        size_t value;
    } damage[] = {
        {&used->head, 0},
        {&used->head, used->head | (CHUNK_ALIGN / 2 > CHUNK_UNCACHED ? CHUNK_ALIGN / 2 : 0)},
        {&arena->dv->head, arena->dv->head | CHUNK_UNCACHED},
        {&used->head, used->head & ~PINUSE},
        {&used->head, used->head & ~CINUSE},
        {&used->head, CHUNK_FENCE},
        {&used->head, SIZE_MAX},
        {&arena->dv->head, arena->dv->head | CINUSE},
        {&arena->dv->head, arena->dv->head + CHUNK_ALIGN},
        {&chunk_next(arena->dv)->prev_foot, 0},
        {&arena->dv_size, 0},
        {&arena->dv_size, arena->dv_size + CHUNK_ALIGN},
        {&arena->top->head, arena->top->head | CINUSE},
        {&arena->top->head, 0},
        {&arena->top_size, arena->top_size - CHUNK_ALIGN},
        {&arena->footprint, 1},
        {&arena->footprint_most, 0},
        {&arena->large_bytes, 4096},
        {&arena->pending.bytes, 4096},
        {&arena->segment.size, arena->segment.size - CHUNK_ALIGN},
        {&arena->bins.small_map, 0},
        {&arena->bins.tree_map, 0},
    };

    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        struct check check = {0};
        word *field = damage[i].field, old = *field;
        if (old == damage[i].value)
            continue;
        *field = damage[i].value;
        arena_check(arena, &check);
        if (check.violations == 0)
            fail_msg("damage %zu is not seen", i);
        *field = old;
        assert_sound(s);
    }
    arena->journal.count = 1;
    struct check check = {0};
    arena_check(arena, &check);
    assert_int_equal(check.violations, 1);
    arena->journal.count = 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffers_too_small_are_refused),
        TEST(test_a_full_buffer_fails_and_works_again),
        TEST(test_a_buffer_is_never_trimmed),
        TEST(test_sizes_of_chunks),
        TEST(test_small_request_takes_the_exact_bin_first),
        TEST(test_victim),
        TEST(test_a_victim_that_just_fits_goes_before_larger_chunks),
        TEST(test_a_rest_too_small_is_not_split_off),
        TEST(test_the_old_victim_goes_to_its_bin),
        TEST(test_large_request_weighs_tree_and_victim),
        TEST(test_equal_surplus_goes_to_the_victim),
        TEST(test_zeroed_memory),
        TEST(test_merging),
        TEST(test_merging_with_the_victim),
        TEST(test_the_victim_becomes_top),
        TEST(test_only_free_counts_down),
        TEST(test_shrinking),
        TEST(test_growing_into_top),
        TEST(test_growing_into_the_victim),
        TEST(test_growing_into_a_free_chunk),
        TEST(test_moving),
        TEST(test_every_alignment),
        TEST(test_the_rest_of_an_aligned_block),
        TEST(test_alignments_that_no_address_has),
        TEST(test_independent_calloc),
        TEST(test_independent_comalloc_makes_its_array_last),
        TEST(test_the_last_element_takes_the_slack),
        TEST(test_no_elements),
        TEST(test_bulk_free_joins_neighbours),
        TEST(test_bulk_free_leaves_what_is_foreign),
        TEST(test_walk_sees_every_chunk),
        TEST(test_check_sees_damage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
