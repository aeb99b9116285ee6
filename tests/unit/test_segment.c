/* test_segment.c - the granule map: placement, who owns a granule, what the check sees.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "support/granule_calls.h"

/* ---- placement ------------------------------------------------------------------------------- */

static void test_a_new_map_is_sound_and_has_nothing(void **state)
{
    struct granule_backend *b = *state;

    assert_sound(b);
    struct segment_usage usage = usage_of(b);
    assert_int_equal(usage.committed, 0);
    assert_int_equal(usage.committed_most, 0);
    assert_int_equal(usage.retained, 0);
    assert_int_equal(usage.used, 0);
    assert_true(usage.limit == SIZE_MAX);
    assert_int_equal(owner_of(b, 0), 0);
}

static void test_runs_are_taken_one_after_the_other(void **state)
{
    struct granule_backend *b = *state;

    assert_int_equal(take(b, 3), 0);
    assert_int_equal(take(b, 1), 3);
    assert_int_equal(take(b, 96), 4);
    assert_int_equal(take(b, 1), NO_GRANULE);
    assert_int_equal(usage_of(b).used, 100 * GRANULE);
}

static void test_nothing_and_too_much_are_not_taken(void **state)
{
    struct granule_backend *b = *state;

    assert_int_equal(take(b, 0), NO_GRANULE);
    assert_int_equal(take(b, 101), NO_GRANULE);
    assert_int_equal(take(b, SIZE_MAX / GRANULE), NO_GRANULE);
    assert_int_equal(take(b, 100), 0);
    assert_int_equal(take_at(b, RUN_SEGMENT, 100, 1), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 50, 0), NO_GRANULE);
}

static void test_the_lowest_run_that_is_long_enough_is_taken(void **state)
{
    struct granule_backend *b = *state;

    take(b, 40);
    give(b, 2, 2);
    give(b, 10, 5);
    give(b, 20, 3);
    assert_int_equal(take(b, 3), 10); /* the lowest run, although another one has just three */
    assert_int_equal(take(b, 3), 20);
    assert_int_equal(take(b, 3), 40);
    assert_int_equal(take(b, 1), 2);
    assert_int_equal(take(b, 2), 13);
    assert_int_equal(take(b, 1), 3);
    assert_int_equal(take(b, 1), 43);
}

static void test_give_joins_with_both_neighbours(void **state)
{
    struct granule_backend *b = *state;

    take(b, 20);
    give(b, 3, 2);
    give(b, 8, 4);
    assert_int_equal(take(b, 9), 20);
    give(b, 5, 3);
    assert_int_equal(take(b, 9), 3);
    give(b, 3, 1);
    give(b, 5, 1);
    give(b, 4, 1); /* joins the granules on both sides */
    assert_int_equal(take(b, 3), 3);
}

static void test_give_at_the_end_lowers_used(void **state)
{
    struct granule_backend *b = *state;

    take(b, 10);
    give(b, 8, 2);
    assert_int_equal(usage_of(b).used, 8 * GRANULE);
    give(b, 5, 2);
    give(b, 7, 1); /* the free run before it is left out, too */
    assert_int_equal(usage_of(b).used, 5 * GRANULE);
    give(b, 0, 5);
    assert_int_equal(usage_of(b).used, 0);
    assert_int_equal(take(b, 100), 0);
}

static void test_take_at_takes_just_what_it_was_told(void **state)
{
    struct granule_backend *b = *state;

    take(b, 20);
    give(b, 5, 5);
    assert_int_equal(take_at(b, RUN_SEGMENT, 5, 6), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 6, 1), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 4, 1), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 5, 2), 5);
    assert_int_equal(take_at(b, RUN_SEGMENT, 7, 3), 7);
    assert_int_equal(take_at(b, RUN_SEGMENT, 21, 1), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 20, 81), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 20, 80), 20);
}

static void test_addresses_outside_the_region_are_not_taken(void **state)
{
    struct granule_backend *b = *state;
    char *base = granule_address(b, 0);

    take(b, 1);
    assert_false(segment_take_at(&b->segments, 1, RUN_SEGMENT, (void *)((uintptr_t)base - GRANULE),
                                 GRANULE, &b->pending[1]));
    assert_false(segment_take_at(&b->segments, 1, RUN_SEGMENT, granule_address(b, 101), GRANULE,
                                 &b->pending[1]));
    assert_sound(b);
}

static void test_maps_of_every_height_are_filled_and_emptied(void **state)
{
    static const size_t sizes[] = {1, 15, 16, 17, 255, 256, 257, 511, 512, 513, 4095, 4097};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = sizes[i];
        struct granule_backend *b = granule_backend_new(n);

        for (size_t j = 0; j < n; j++) {
            b->pending[0] = nothing;
            assert_true(segment_take(&b->segments, 1, RUN_SEGMENT, GRANULE, &b->pending[0]));
            assert_int_equal(granule_number(b, b->pending[0].start), j);
        }
        assert_int_equal(take(b, 1), NO_GRANULE);
        for (size_t j = 0; j < n; j += 2)
            give(b, j, 1);
        assert_int_equal(take(b, 2), NO_GRANULE);
        for (size_t j = 1; j < n; j += 2)
            give(b, j, 1);
        assert_int_equal(usage_of(b).used, 0);
        assert_int_equal(take(b, n), 0);
        granule_backend_delete(b);
    }
}

static void test_maps_that_a_word_cannot_count_are_refused(void **state)
{
    char *place = aligned_alloc(4096, 65536);

    (void)state;
    assert_int_equal(segment_init(place, NULL, 0, SIZE_MAX), EINVAL);
    assert_int_equal(segment_init(place, NULL, GRANULES_MOST + 1, SIZE_MAX), EINVAL);
    free(place);
}

/* ---- whose is it ----------------------------------------------------------------------------- */

static void test_every_address_has_its_owner(void **state)
{
    struct granule_backend *b = *state;
    const struct segment_map *map = b->segments.map;
    enum run_kind kind = RUN_LARGE_TAIL;

    take_kind(b, 7, RUN_SEGMENT, 2);
    take_kind(b, SEGMENT_OWNER_MOST, RUN_LARGE, 3);
    assert_int_equal(segment_owner(map, granule_address(b, 1) + GRANULE - 1, &kind), 7);
    assert_int_equal(kind, RUN_SEGMENT);
    assert_int_equal(segment_owner(map, granule_address(b, 2), &kind), SEGMENT_OWNER_MOST);
    assert_int_equal(kind, RUN_LARGE);
    assert_int_equal(segment_owner(map, granule_address(b, 4) + 1, &kind), SEGMENT_OWNER_MOST);
    assert_int_equal(kind, RUN_LARGE_TAIL);
    assert_int_equal(segment_owner(map, granule_address(b, 5), &kind), 0);
    assert_int_equal(kind, RUN_SEGMENT);
    give(b, 0, 2);
    assert_int_equal(owner_of(b, 0), 0);
    assert_int_equal(owner_of(b, 1), 0);
}

static bool may_have_chunks(struct granule_backend *b, size_t granule)
{
    return (granule_load(b->segments.map, granule) & CHUNKS) != 0;
}

static void test_granules_of_segments_and_no_others_have_the_flag_of_chunks(void **state)
{
    struct granule_backend *b = *state;
    struct run *pending = &b->pending[0];

    take_kind(b, 7, RUN_SEGMENT, 3);
    take_kind(b, 7, RUN_LARGE, 3);
    take_at(b, RUN_SEGMENT, 6, 2);
    *pending = nothing;
    assert_true(segment_take(&b->segments, 7, RUN_SEGMENT, 2 * GRANULE, pending));
    for (size_t i = 0; i < 12; i++) /* the last two that were taken have no memory yet */
        assert_int_equal(may_have_chunks(b, i), i < 3 || (i >= 6 && i < 10));
    segment_give(&b->segments, pending, nothing);
    give(b, 0, 2);
    for (size_t i = 0; i < 12; i++)
        assert_int_equal(may_have_chunks(b, i), i == 2 || i == 6 || i == 7);
    assert_int_equal(take_at(b, RUN_LARGE, 0, 2), 0);
    for (size_t i = 0; i < 12; i++)
        assert_int_equal(may_have_chunks(b, i), i == 2 || i == 6 || i == 7);
}

static void test_addresses_outside_the_region_have_no_owner(void **state)
{
    struct granule_backend *b = *state;
    const struct segment_map *map = b->segments.map;

    assert_int_equal(segment_owner(map, granule_address(b, 0), NULL), 0);
    take(b, 100);
    assert_int_equal(owner_of(b, 0), 1);
    assert_int_equal(owner_of(b, 99), 1);
    assert_int_equal(owner_of(b, 100), 0);
    assert_int_equal(segment_owner(map, NULL, NULL), 0);
    assert_int_equal(segment_owner(map, (void *)((uintptr_t)map->base - 1), NULL), 0);
    assert_int_equal(segment_owner(map, (void *)UINTPTR_MAX, NULL), 0);
}

static bool is_block(struct granule_backend *b, segment_owner_id owner, size_t first, size_t end)
{
    return segment_is_large_block(b->segments.map, owner, granule_address(b, first) + 100,
                                  granule_address(b, end));
}

static void test_a_large_block_is_known_by_its_granules(void **state)
{
    struct granule_backend *b = *state;

    take_kind(b, 3, RUN_LARGE, 4);
    take_kind(b, 3, RUN_LARGE, 1);
    take_kind(b, 4, RUN_LARGE, 2);
    take_kind(b, 3, RUN_SEGMENT, 2);
    assert_true(is_block(b, 3, 0, 4));
    assert_true(is_block(b, 3, 4, 5));
    assert_true(is_block(b, 4, 5, 7));
    assert_false(is_block(b, 4, 0, 4));
    assert_false(is_block(b, 3, 0, 3)); /* too short */
    assert_false(is_block(b, 3, 0, 5)); /* two blocks */
    assert_false(is_block(b, 3, 1, 4)); /* not its first granule */
    assert_false(is_block(b, 3, 4, 4));
    assert_false(is_block(b, 3, 4, 0));
    assert_false(is_block(b, 4, 5, 8));
    assert_false(is_block(b, 3, 7, 9));
    assert_false(is_block(b, 3, 99, 101));
    assert_false(segment_is_large_block(b->segments.map, 3, granule_address(b, 0),
                                        granule_address(b, 4) - 16));
}

static void test_a_large_block_grows_and_shrinks_in_place(void **state)
{
    struct granule_backend *b = *state;

    take_kind(b, 1, RUN_LARGE, 4);
    assert_int_equal(take_at(b, RUN_LARGE_TAIL, 4, 3), 4);
    assert_true(is_block(b, 1, 0, 7));
    assert_false(is_block(b, 1, 0, 4));
    give(b, 5, 2);
    assert_true(is_block(b, 1, 0, 5));
    give(b, 0, 5);
    assert_false(is_block(b, 1, 0, 5));
}

struct visited {
    size_t count;
    struct granule_backend *b;
    struct {
        size_t first, n;
        segment_owner_id owner;
        enum run_kind kind;
    } run[16];
};

static void visit(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    struct visited *v = context;
    size_t i = v->count++;

    assert_true(i < 16);
    v->run[i].first = granule_number(v->b, run.start);
    v->run[i].n = run.bytes / GRANULE;
    v->run[i].owner = owner;
    v->run[i].kind = kind;
}

static void test_walk_visits_every_run(void **state)
{
    struct granule_backend *b = *state;
    struct visited v = {.b = b};

    take_kind(b, 3, RUN_SEGMENT, 2);
    take_kind(b, 3, RUN_SEGMENT, 1); /* joined with the one before */
    take_kind(b, 3, RUN_LARGE, 4);
    take_kind(b, 3, RUN_LARGE, 1);
    take_kind(b, 4, RUN_SEGMENT, 5);
    take_kind(b, 5, RUN_SEGMENT, 1);
    give(b, 9, 2);
    assert_true(segment_take(&b->segments, 6, RUN_LARGE, 3 * GRANULE, &b->pending[1]));
    segment_walk(&b->segments, visit, &v);

    static const struct {
        size_t first, n;
        segment_owner_id owner;
        enum run_kind kind;
    } expected[] = {
        {0, 3, 3, RUN_SEGMENT},  {3, 4, 3, RUN_LARGE},       {7, 1, 3, RUN_LARGE},
        {8, 1, 4, RUN_SEGMENT},  {9, 2, 0, RUN_SEGMENT},     {11, 2, 4, RUN_SEGMENT},
        {13, 1, 5, RUN_SEGMENT}, {14, 3, 6, RUN_LARGE_TAIL},
    };
    assert_int_equal(v.count, sizeof expected / sizeof *expected);
    for (size_t i = 0; i < v.count; i++) {
        assert_int_equal(v.run[i].first, expected[i].first);
        assert_int_equal(v.run[i].n, expected[i].n);
        assert_int_equal(v.run[i].owner, expected[i].owner);
        assert_int_equal(v.run[i].kind, expected[i].kind);
    }
}

/* ---- what the check sees --------------------------------------------------------------------- */

/* Both check and walk survive any damage; the check sees each of these. */
static void assert_check_sees(struct granule_backend *b, word *field, word damaged)
{
    word right = *field;
    struct check check = {0};
    struct visited v = {.b = b};

    *field = damaged;
    segment_check(&b->segments, &check);
    assert_true(check.violations > 0);
    if (field >= b->segments.map->level[0])
        segment_walk(&b->segments, visit, &v);
    *field = right;
    assert_sound(b);
}

static void test_check_sees_every_kind_of_damage(void **state)
{
    struct granule_backend *b = *state;
    struct segment_map *map = b->segments.map;
    word *words = map->level[0];

    take_kind(b, 1, RUN_SEGMENT, 3);
    take_kind(b, 1, RUN_LARGE, 10);
    take_kind(b, 1, RUN_SEGMENT, 1);
    give(b, 5, 4);
    assert_check_sees(b, &words[0], 0);
    assert_check_sees(b, &words[0], words[0] | START);
    assert_check_sees(b, &words[0], words[0] | FREE);
    assert_check_sees(b, &words[0], words[0] | LARGE);
    assert_check_sees(b, &words[0], words[0] & ~CHUNKS);
    assert_check_sees(b, &words[3], words[3] | CHUNKS);
    assert_check_sees(b, &words[5], words[5] | CHUNKS);
    assert_check_sees(b, &words[6], CHUNKS | COMMITTED);
    assert_check_sees(b, &words[0], granule_word(TAKEN | CHUNKS | COMMITTED, 0));
    assert_check_sees(b, &words[0],
                      granule_word(TAKEN | CHUNKS | COMMITTED, SEGMENT_OWNER_MOST + 1));
    assert_check_sees(b, &words[13], granule_word(FREE | FIRST | COMMITTED, 1));
    assert_check_sees(b, &words[5], granule_word(FREE | FIRST | COMMITTED, 3));
    assert_check_sees(b, &words[5], granule_word(FREE | FIRST | COMMITTED, 5));
    assert_check_sees(b, &words[5], granule_word(FREE | FIRST | COMMITTED, 0));
    assert_check_sees(b, &words[5], granule_word(FREE | FIRST | COMMITTED, 99));
    assert_check_sees(b, &words[5], words[5] & ~COMMITTED);
    assert_check_sees(b, &words[5], words[5] | UNSETTLED);
    assert_check_sees(b, &words[6], granule_word(TAKEN | CHUNKS | COMMITTED, 1));
    assert_check_sees(b, &words[8], granule_word(FREE | COMMITTED, 3));
    assert_check_sees(b, &words[9], granule_word(FREE | FIRST | COMMITTED, 1));
    assert_check_sees(b, &words[20], granule_word(TAKEN | CHUNKS, 1));
    assert_check_sees(b, &words[99], COMMITTED);
    assert_check_sees(b, &map->level[1][0], 3);
    assert_check_sees(b, &map->level[1][6], 1);
    assert_check_sees(b, (word *)&map->used, 13);
    assert_check_sees(b, (word *)&map->used, 15);
    assert_check_sees(b, (word *)&map->used, 101);
    assert_check_sees(b, (word *)&map->ready, 101);
    assert_check_sees(b, (word *)&map->committed, 13);
    assert_check_sees(b, (word *)&map->committed_most, 13);
    assert_check_sees(b, (word *)&map->retained, 5);
    assert_check_sees(b, (word *)&map->retained_end, 8);
    assert_check_sees(b, (word *)&map->granules, 0);
    assert_check_sees(b, (word *)&map->granules, 5000);
    assert_check_sees(b, (word *)&map->base, (word)map->base + 1);
    assert_check_sees(b, (word *)&map->level[1], (word)map->level[0]);
    assert_check_sees(b, (word *)&map->rewriting.count, 1);
}

/* ---- large maps ------------------------------------------------------------------------------ */

static void test_a_region_of_16_TiB_costs_only_what_is_used(void **state)
{
    const size_t granules = (size_t)1 << (SIZE_BITS == 64 ? 28 : 15);
    struct granule_backend *b = granule_backend_new(granules);

    (void)state;
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(take(b, 3), 3 * i);
    assert_true(b->map_committed <= 256 << 10);
    b->pending[0] = nothing;
    assert_false(
        segment_take(&b->segments, 1, RUN_SEGMENT, (granules - 299) * GRANULE, &b->pending[0]));
    assert_true(b->map_committed <= 256 << 10);
    give(b, 30, 2);
    assert_int_equal(take(b, 2), 30);
    granule_backend_delete(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_with_map(test_a_new_map_is_sound_and_has_nothing),
        test_with_map(test_runs_are_taken_one_after_the_other),
        test_with_map(test_nothing_and_too_much_are_not_taken),
        test_with_map(test_the_lowest_run_that_is_long_enough_is_taken),
        test_with_map(test_give_joins_with_both_neighbours),
        test_with_map(test_give_at_the_end_lowers_used),
        test_with_map(test_take_at_takes_just_what_it_was_told),
        test_with_map(test_addresses_outside_the_region_are_not_taken),
        cmocka_unit_test(test_maps_of_every_height_are_filled_and_emptied),
        cmocka_unit_test(test_maps_that_a_word_cannot_count_are_refused),
        test_with_map(test_every_address_has_its_owner),
        test_with_map(test_granules_of_segments_and_no_others_have_the_flag_of_chunks),
        test_with_map(test_addresses_outside_the_region_have_no_owner),
        test_with_map(test_a_large_block_is_known_by_its_granules),
        test_with_map(test_a_large_block_grows_and_shrinks_in_place),
        test_with_map(test_walk_visits_every_run),
        test_with_map(test_check_sees_every_kind_of_damage),
        cmocka_unit_test(test_a_region_of_16_TiB_costs_only_what_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
