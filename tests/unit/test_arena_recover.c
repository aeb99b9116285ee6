/* test_arena_recover.c - a survivor can undo what a process that died in the engine had begun.
 *
 * Each call is made within one change that is not committed. The change is cut at its end or after
 * any of its stores, and undone. Then everything that is ever read is as before: every byte of a
 * block in use, and the fields of a free chunk, but not its inside.
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
#include "support/random.h"

enum { BUFFER_BYTES = 256 << 10, BLOCKS = 200 };

struct scene {
    char *memory, *image;
    struct arena *arena;
    void *block[BLOCKS];
    struct random_source random;
};

static int violations(const struct arena *a)
{
    struct check check = {.report = stderr};

    arena_check(a, &check);
    return check.violations;
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    s->random.state = 20260101;
    s->memory = aligned_alloc(4096, BUFFER_BYTES);
    s->image = malloc(BUFFER_BYTES);
    assert_non_null(s->memory);
    assert_non_null(s->image);
    memset(s->memory, 0, BUFFER_BYTES);
    s->arena = arena_init_in(s->memory, BUFFER_BYTES);
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

static void shuffle(struct scene *s, int requests)
{
    struct arena_call call = {.arena = s->arena};

    for (int i = 0; i < requests; i++) {
        void **block = &s->block[random_below(&s->random, BLOCKS)];
        if (*block == NULL) {
            *block = arena_malloc(&call, random_size(&s->random, 4000));
            if (*block != NULL)
                memset(*block, i + 1, arena_usable(&call, *block));
        } else {
            arena_free(&call, *block);
            *block = NULL;
        }
    }
    assert_int_equal(violations(s->arena), 0);
}

/* Clears what a free chunk holds between its fields and its last word: nobody reads it. */
static void forget_interior(void *context, const struct chunk *c, size_t bytes,
                            enum arena_chunk_state state)
{
    const struct scene *s = context;
    size_t kept = sizeof(struct chunk);

    if (state == ARENA_CHUNK_USED || state == ARENA_CHUNK_RECORD)
        return;
    if (state == ARENA_CHUNK_TOP || state == ARENA_CHUNK_DV)
        kept = CHUNK_HEADER;
    else if (bytes < BINS_LARGE_FROM)
        kept = offsetof(struct chunk, child);
    if (bytes <= kept)
        return;
    size_t offset = (size_t)((const char *)c - s->memory) + kept;
    memset(s->memory + offset, 0, bytes - kept);
    memset(s->image + offset, 0, bytes - kept);
}

static void take_image(struct scene *s)
{
    memcpy(s->image, s->memory, BUFFER_BYTES);
}

static void assert_as_in_image(struct scene *s)
{
    struct arena *before = (struct arena *)(void *)s->image;

    assert_int_equal(violations(s->arena), 0);
    arena_walk(s->arena, forget_interior, s);
    memset(&before->journal, 0, sizeof before->journal);
    memset(&s->arena->journal, 0, sizeof s->arena->journal);
    assert_memory_equal(s->image, s->memory, BUFFER_BYTES);
}

/* Undoes the change, after survivors who died while they undid it, each one entry later than the
 * one before. */
static void recover_step_by_step(struct scene *s)
{
    struct journal *j = &s->arena->journal;
    size_t count = j->count;

    for (size_t done = 0; done <= count; done++) {
        for (size_t n = count; n > count - done; n--)
            *j->entry[n - 1].address = j->entry[n - 1].old;
    }
    arena_recover(s->arena, NULL);
    assert_int_equal(j->count, 0);
    assert_as_in_image(s);
}

static void *any_block(struct scene *s)
{
    void *block;

    do
        block = s->block[random_below(&s->random, BLOCKS)];
    while (block == NULL);
    return block;
}

static void test_allocating(void **state)
{
    struct scene *s = *state;

    for (int round = 0; round < 1000; round++) {
        struct arena_call call = {.arena = s->arena};
        shuffle(s, 30);
        take_image(s);
        arena_allocate(&call, chunk_size_for(random_size(&s->random, 5000)));
        recover_step_by_step(s);
    }
}

static void test_freeing(void **state)
{
    struct scene *s = *state;

    for (int round = 0; round < 1000; round++) {
        struct arena_call call = {.arena = s->arena};
        shuffle(s, 31);
        take_image(s);
        struct chunk *c = chunk_of_payload(any_block(s));
        assert_int_not_equal(arena_dispose(&call, c, chunk_size(c)), FREED_FAULT);
        recover_step_by_step(s);
    }
}

static void test_resizing(void **state)
{
    struct scene *s = *state;

    for (int round = 0; round < 2000; round++) {
        struct arena_call call = {.arena = s->arena};
        shuffle(s, 31);
        take_image(s);
        arena_resize_chunk(&call, chunk_of_payload(any_block(s)),
                           chunk_size_for(random_size(&s->random, 5000)));
        recover_step_by_step(s);
    }
}

/* Undoes the change after each number of stores: the later ones are taken back by hand. */
static void test_cut_after_each_store(void **state)
{
    struct scene *s = *state;
    char *after = malloc(BUFFER_BYTES);

    assert_non_null(after);
    shuffle(s, 300);
    for (int round = 0; round < 100; round++) {
        struct arena_call call = {.arena = s->arena};
        shuffle(s, 10);
        take_image(s);
        struct chunk *c = chunk_of_payload(any_block(s));
        if (round % 2 == 0)
            arena_dispose(&call, c, chunk_size(c));
        else
            arena_resize_chunk(&call, c, chunk_size_for(random_size(&s->random, 5000)));
        memcpy(after, s->memory, BUFFER_BYTES);
        size_t count = s->arena->journal.count;
        for (size_t cut = 0; cut <= count; cut++) {
            memcpy(s->memory, after, BUFFER_BYTES);
            struct journal *j = &s->arena->journal;
            for (size_t n = count; n > cut; n--)
                *j->entry[n - 1].address = j->entry[n - 1].old;
            j->count = cut;
            arena_recover(s->arena, NULL);
            assert_as_in_image(s);
        }
    }
    free(after);
}

/* ---- memory on its way ----------------------------------------------------------------------- */

static size_t taken(struct growing_arena *g)
{
    struct segment_usage usage;

    segment_usage(&g->segments, &usage);
    return usage.committed - usage.retained;
}

static void recover(struct growing_arena *g)
{
    arena_recover(g->arena, &g->source);
    assert_int_equal(growing_arena_check(g), 0);
    arena_recover(g->arena, &g->source); /* once more does no harm */
    assert_int_equal(growing_arena_check(g), 0);
}

static void test_a_run_on_its_way_is_given_back(void **state)
{
    struct growing_arena *g = growing_arena_new(256);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    arena_malloc(&call, 10);
    size_t before = taken(g);
    assert_true(g->source.take(&g->source, g->arena, RUN_SEGMENT, 3 * GRANULE));
    recover(g);
    assert_int_equal(taken(g), before);
    assert_true(g->source.take(&g->source, g->arena, RUN_LARGE, 3 * GRANULE));
    assert_true(g->source.commit(&g->source, g->arena, RUN_LARGE));
    recover(g);
    assert_int_equal(taken(g), before);
    growing_arena_delete(g);
}

static void test_growing_uncommitted_gives_the_memory_back(void **state)
{
    size_t sizes[] = {1000, 70000, 200000, 300000};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct growing_arena *g = growing_arena_new(256);
        struct arena_call call = growing_arena_call(g);
        void *block = arena_malloc(&call, 60000);
        growing_arena_hold(g, i % 2);
        size_t before = taken(g), footprint = g->arena->footprint;
        assert_non_null(arena_allocate(&call, chunk_size_for(sizes[i] + GRANULE)));
        assert_true(g->arena->journal.count > 0);
        recover(g);
        assert_int_equal(taken(g), before);
        assert_int_equal(g->arena->footprint, footprint);
        arena_free(&call, block);
        assert_int_equal(call.fault.kind, FAULT_NONE);
        assert_int_equal(growing_arena_check(g), 0);
        growing_arena_delete(g);
    }
}

/* A process may die after it told the arena that nothing is pending, and before it told the map:
 * then only the source knows. */
static void test_recovery_asks_the_source_even_where_nothing_seems_pending(void **state)
{
    struct growing_arena *g = growing_arena_new(256);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    arena_malloc(&call, 10);
    assert_int_equal(g->arena->pending.bytes, 0);
    size_t gives = g->gives;
    arena_recover(g->arena, &g->source);
    assert_int_equal(g->gives, gives + 1);
    assert_int_equal(growing_arena_check(g), 0);
    growing_arena_delete(g);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        TEST(test_allocating),
        TEST(test_freeing),
        TEST(test_resizing),
        TEST(test_cut_after_each_store),
        cmocka_unit_test(test_a_run_on_its_way_is_given_back),
        cmocka_unit_test(test_growing_uncommitted_gives_the_memory_back),
        cmocka_unit_test(test_recovery_asks_the_source_even_where_nothing_seems_pending),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
