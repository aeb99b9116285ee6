/* test_segment.c - the granule map: placement, memory, bounds, who has what, what survivors
 * find. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/fault.h"
#include "segment/segment_map.h"
#include "support/child.h"
#include "support/granule_backend.h"

static const struct run nothing;

/* A map of 100 granules is what most tests need. */
static int make_map(void **state)
{
    *state = granule_backend_new(100);
    return 0;
}

static int drop_map(void **state)
{
    granule_backend_delete(*state);
    return 0;
}

static void assert_sound(struct granule_backend *b)
{
    assert_int_equal(granule_backend_check(b), 0);
}

static struct segment_usage usage_of(struct granule_backend *b)
{
    struct segment_usage usage;

    segment_usage(&b->segments, &usage);
    return usage;
}

/* A granule number stands for a run in these tests; NO_GRANULE: the take failed. */
static size_t take_kind(struct granule_backend *b, segment_owner_id owner, enum run_kind kind,
                        size_t n)
{
    struct run *pending = &b->pending[0];

    *pending = nothing;
    if (!segment_take(&b->segments, owner, kind, n * GRANULE, pending)) {
        assert_int_equal(pending->bytes, 0);
        assert_sound(b);
        return NO_GRANULE;
    }
    assert_int_equal(pending->bytes, n * GRANULE);
    assert_true(segment_commit(&b->segments, kind, *pending));
    assert_sound(b);
    return granule_number(b, pending->start);
}

static size_t take(struct granule_backend *b, size_t n)
{
    return take_kind(b, 1, RUN_SEGMENT, n);
}

static size_t take_at(struct granule_backend *b, enum run_kind kind, size_t first, size_t n)
{
    struct run *pending = &b->pending[0];

    *pending = nothing;
    if (!segment_take_at(&b->segments, 1, kind, granule_address(b, first), n * GRANULE, pending)) {
        assert_int_equal(pending->bytes, 0);
        assert_sound(b);
        return NO_GRANULE;
    }
    assert_true(segment_commit(&b->segments, kind, *pending));
    assert_sound(b);
    return granule_number(b, pending->start);
}

static struct run run_of(struct granule_backend *b, size_t first, size_t n)
{
    return (struct run){granule_address(b, first), n * GRANULE};
}

static void give(struct granule_backend *b, size_t first, size_t n)
{
    b->pending[0] = run_of(b, first, n);
    segment_give(&b->segments, &b->pending[0], nothing);
    assert_null(b->pending[0].start);
    assert_int_equal(b->pending[0].bytes, 0);
    assert_sound(b);
}

static segment_owner_id owner_of(struct granule_backend *b, size_t granule)
{
    return segment_owner(b->segments.map, granule_address(b, granule), NULL);
}

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
    assert_int_equal(take(b, 3), 10); /* not the one of just three */
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
    give(b, 4, 1); /* one granule between two */
    assert_int_equal(take(b, 3), 3);
}

static void test_give_at_the_end_lowers_used(void **state)
{
    struct granule_backend *b = *state;

    take(b, 10);
    give(b, 8, 2);
    assert_int_equal(usage_of(b).used, 8 * GRANULE);
    give(b, 5, 2);
    give(b, 7, 1); /* the free run before goes, too */
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

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t memory_in(const struct granule_backend *b, size_t first, size_t n)
{
    size_t has = 0;

    for (size_t i = first; i < first + n; i++)
        has += granule_has_memory(b, i);
    return has;
}

static void test_commit_puts_memory_behind_the_run_and_nothing_else(void **state)
{
    struct granule_backend *b = *state;
    struct run *pending = &b->pending[0];

    assert_true(segment_take(&b->segments, 1, RUN_SEGMENT, 7 * GRANULE, pending));
    assert_int_equal(granules_with_memory(b), 0);
    assert_true(segment_commit(&b->segments, RUN_SEGMENT, *pending));
    assert_int_equal(memory_in(b, 0, 7), 7);
    assert_int_equal(granules_with_memory(b), 7);
    assert_int_equal(usage_of(b).committed, 7 * GRANULE);
    assert_sound(b);
}

static void test_commit_fills_the_gaps_of_what_is_retained(void **state)
{
    struct granule_backend *b = *state;

    take(b, 10);
    give(b, 2, 2);
    segment_set_retain(&b->segments, 2 * GRANULE);
    give(b, 4, 2); /* two more than may be retained: released */
    give(b, 6, 4);
    assert_int_equal(memory_in(b, 0, 10), 4);
    segment_set_retain(&b->segments, SIZE_MAX);
    give(b, 0, 2);

    unsigned long before = b->commits;
    assert_int_equal(take(b, 10), 0);
    assert_int_equal(b->commits, before + 1);
    assert_int_equal(memory_in(b, 0, 10), 10);
}

static void test_given_memory_is_retained_up_to_the_limit(void **state)
{
    struct granule_backend *b = *state;

    segment_set_retain(&b->segments, 4 * GRANULE + 1);
    take(b, 20);
    give(b, 0, 3);
    assert_int_equal(usage_of(b).retained, 3 * GRANULE);
    assert_int_equal(b->releases, 0);
    give(b, 5, 2);
    assert_int_equal(usage_of(b).retained, 3 * GRANULE);
    assert_int_equal(memory_in(b, 5, 2), 0);
    give(b, 10, 1);
    assert_int_equal(usage_of(b).retained, 4 * GRANULE);
    assert_int_equal(usage_of(b).committed, 18 * GRANULE);
    assert_int_equal(usage_of(b).committed_most, 20 * GRANULE);
}

static void test_release_begins_with_the_highest_granules(void **state)
{
    struct granule_backend *b = *state;

    take(b, 90);
    give(b, 10, 5);
    give(b, 20, 3);
    give(b, 85, 5);
    assert_int_equal(segment_release(&b->segments, 7 * GRANULE + 5), 6 * GRANULE);
    assert_int_equal(memory_in(b, 85, 5), 0);
    assert_int_equal(memory_in(b, 20, 3), 2);
    assert_int_equal(memory_in(b, 10, 5), 5);
    assert_sound(b);
    assert_int_equal(segment_release(&b->segments, 7 * GRANULE), 0);
    assert_int_equal(segment_release(&b->segments, 0), 7 * GRANULE);
    assert_sound(b);
    assert_int_equal(usage_of(b).retained, 0);
    assert_int_equal(usage_of(b).committed, 77 * GRANULE);
    assert_int_equal(segment_release(&b->segments, 0), 0);
}

static void test_release_of_more_than_a_slice(void **state)
{
    struct granule_backend *b = granule_backend_new(300);

    (void)state;
    take(b, 300);
    give(b, 0, 250);
    assert_int_equal(segment_release(&b->segments, GRANULE), 249 * GRANULE);
    assert_int_equal(memory_in(b, 0, 250), 1);
    assert_int_equal(granule_has_memory(b, 0), 1);
    assert_sound(b);
    granule_backend_delete(b);
}

static void test_give_keeps_what_it_is_told(void **state)
{
    struct granule_backend *b = *state;
    struct run *pending = &b->pending[0];

    take(b, 20);
    *pending = run_of(b, 2, 10);
    segment_give(&b->segments, pending, run_of(b, 5, 3)); /* a lead and a tail go */
    assert_ptr_equal(pending->start, granule_address(b, 5));
    assert_int_equal(pending->bytes, 3 * GRANULE);
    assert_sound(b);
    assert_int_equal(owner_of(b, 4), 0);
    assert_int_equal(owner_of(b, 5), 1);
    assert_int_equal(owner_of(b, 7), 1);
    assert_int_equal(owner_of(b, 8), 0);

    segment_give(&b->segments, pending, run_of(b, 5, 2)); /* a tail */
    assert_ptr_equal(pending->start, granule_address(b, 5));
    assert_int_equal(pending->bytes, 2 * GRANULE);
    segment_give(&b->segments, pending, run_of(b, 6, 1)); /* a lead */
    assert_ptr_equal(pending->start, granule_address(b, 6));
    assert_int_equal(pending->bytes, GRANULE);
    segment_give(&b->segments, pending, run_of(b, 6, 1)); /* nothing */
    assert_ptr_equal(pending->start, granule_address(b, 6));
    assert_int_equal(pending->bytes, GRANULE);
    assert_sound(b);
    segment_give(&b->segments, pending, nothing);
    assert_null(pending->start);
    assert_int_equal(pending->bytes, 0);
    assert_sound(b);
    assert_int_equal(take(b, 10), 2);
}

static void test_give_releases_only_what_goes(void **state)
{
    struct granule_backend *b = *state;

    segment_set_retain(&b->segments, 0);
    take(b, 20);
    b->pending[0] = run_of(b, 2, 10);
    segment_give(&b->segments, &b->pending[0], run_of(b, 5, 3));
    assert_int_equal(memory_in(b, 2, 10), 3);
    assert_int_equal(memory_in(b, 5, 3), 3);
    assert_int_equal(b->releases, 2);
    assert_sound(b);
}

static void test_give_of_nothing_does_nothing(void **state)
{
    struct granule_backend *b = *state;

    b->pending[0] = nothing;
    segment_give(&b->segments, &b->pending[0], nothing);
    assert_int_equal(usage_of(b).used, 0);
    assert_sound(b);
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static void test_the_limit_bounds_what_is_taken(void **state)
{
    struct granule_backend *b = *state;

    assert_int_equal(segment_set_limit(&b->segments, 5 * GRANULE - 1), 5 * GRANULE);
    assert_int_equal(usage_of(b).limit, 5 * GRANULE);
    assert_int_equal(take(b, 6), NO_GRANULE);
    assert_int_equal(take(b, 4), 0);
    assert_int_equal(take_at(b, RUN_SEGMENT, 4, 2), NO_GRANULE);
    assert_int_equal(take(b, 1), 4);
    assert_int_equal(take(b, 1), NO_GRANULE);
    assert_true(segment_set_limit(&b->segments, SIZE_MAX) == SIZE_MAX);
    assert_true(segment_set_limit(&b->segments, SIZE_MAX - 1) == SIZE_MAX);
    assert_int_equal(take(b, 1), 5);
    assert_int_equal(segment_set_limit(&b->segments, 0), 0);
    assert_int_equal(take(b, 1), NO_GRANULE);
}

static void test_what_is_retained_makes_way_under_the_limit(void **state)
{
    struct granule_backend *b = *state;

    segment_set_limit(&b->segments, 20 * GRANULE);
    take(b, 20);
    give(b, 2, 3);
    give(b, 10, 5);
    assert_int_equal(take(b, 4), 10); /* in the run itself: nothing is released */
    assert_int_equal(b->releases, 0);
    assert_int_equal(usage_of(b).retained, 4 * GRANULE);
    assert_int_equal(take(b, 5), NO_GRANULE);
    assert_int_equal(b->releases, 0);
    assert_int_equal(take(b, 4), 20); /* from elsewhere */
    assert_int_equal(usage_of(b).retained, 0);
    assert_int_equal(granules_with_memory(b), 20);
}

static void test_retained_granules_on_both_sides_of_a_run_make_way(void **state)
{
    struct granule_backend *b = *state;

    take(b, 40);
    segment_set_retain(&b->segments, 0);
    give(b, 11, 3); /* without memory */
    segment_set_retain(&b->segments, SIZE_MAX);
    give(b, 2, 2);
    give(b, 10, 1);
    give(b, 14, 1);
    give(b, 30, 1);
    /* 2 and 3, 10 and 14, and 30 have memory. 10 to 14 need three more: 30, then 3 and 2. */
    segment_set_limit(&b->segments, usage_of(b).committed);
    assert_int_equal(take(b, 5), 10);
    assert_int_equal(usage_of(b).retained, 0);
    assert_int_equal(memory_in(b, 2, 2), 0);
    assert_int_equal(memory_in(b, 30, 1), 0);
}

static void test_retained_granules_at_the_end_make_way(void **state)
{
    struct granule_backend *b = *state;

    take(b, 12);
    give(b, 2, 4);
    segment_release(&b->segments, 0);
    give(b, 8, 4); /* beyond `used` now */
    segment_set_limit(&b->segments, usage_of(b).committed);
    assert_int_equal(take(b, 3), 2);
    assert_int_equal(memory_in(b, 8, 4), 1);
    assert_int_equal(granule_has_memory(b, 8), 1);
    assert_int_equal(take(b, 3), NO_GRANULE);
    assert_int_equal(take_at(b, RUN_SEGMENT, 8, 1), 8);
}

static void test_a_limit_that_release_cannot_help_changes_nothing(void **state)
{
    struct granule_backend *b = *state;

    take(b, 10);
    give(b, 2, 2);
    segment_set_limit(&b->segments, 5 * GRANULE); /* below what is committed */
    assert_int_equal(take(b, 3), NO_GRANULE);
    assert_int_equal(take(b, 1), NO_GRANULE);
    assert_int_equal(usage_of(b).retained, 2 * GRANULE);
}

/* ---- faults of the system -------------------------------------------------------------------- */

static void test_every_commit_may_fail(void **state)
{
    (void)state;
    for (unsigned long k = 1;; k++) {
        struct granule_backend *b = granule_backend_new(100);

        take(b, 30);
        segment_set_retain(&b->segments, 0);
        for (size_t i = 0; i < 9; i += 2)
            give(b, i, 1); /* gaps without memory */
        segment_set_retain(&b->segments, SIZE_MAX);
        for (size_t i = 1; i < 9; i += 2)
            give(b, i, 1);

        unsigned long before = b->commits;
        b->commit_plan.at = k;
        b->pending[0] = nothing;
        assert_true(segment_take(&b->segments, 1, RUN_LARGE, 9 * GRANULE, &b->pending[0]));
        bool done = segment_commit(&b->segments, RUN_LARGE, b->pending[0]);
        assert_sound(b);
        assert_int_equal(done, k > b->commits - before);
        assert_int_equal(memory_in(b, 0, 9), done ? 9 : 4 + k - 1);
        assert_int_equal(usage_of(b).committed, 30 * GRANULE);
        segment_give(&b->segments, &b->pending[0], nothing);
        assert_sound(b);
        assert_int_equal(usage_of(b).retained, memory_in(b, 0, 9) * GRANULE);
        assert_int_equal(take(b, 9), 0);
        granule_backend_delete(b);
        if (done)
            break;
        assert_true(k < 6);
    }
}

static void test_every_commit_of_the_maps_own_pages_may_fail(void **state)
{
    (void)state;
    for (unsigned long k = 1;; k++) {
        struct granule_backend *b = granule_backend_new(60000);
        struct run *pending = &b->pending[0];

        b->commit_plan = (struct granule_plan){.at = k, .for_good = true};
        bool taken = segment_take(&b->segments, 1, RUN_SEGMENT, 9000 * GRANULE, pending);
        assert_int_equal(taken, k > b->commits);
        assert_int_equal(pending->bytes, taken ? 9000 * GRANULE : 0);
        assert_sound(b);
        b->commit_plan.at = 0;
        assert_int_equal(take(b, 9000), taken ? 9000 : 0);
        granule_backend_delete(b);
        if (taken)
            break;
        assert_true(k < 8);
    }
}

static void test_a_map_that_cannot_grow_ahead_grows_by_what_is_needed(void **state)
{
    struct granule_backend *b = granule_backend_new(60000);

    (void)state;
    assert_int_equal(take(b, 1), 0);
    b->commit_plan.at = 1;
    assert_int_equal(take(b, 600), 1);
    granule_backend_delete(b);
}

static void test_every_release_may_fail(void **state)
{
    struct granule_backend *b = *state;

    segment_set_retain(&b->segments, 0);
    take(b, 40);
    b->release_plan.at = 1;
    give(b, 10, 5);
    assert_int_equal(usage_of(b).retained, 5 * GRANULE);
    b->release_plan.at = 1;
    assert_int_equal(segment_release(&b->segments, 0), 0);
    assert_sound(b);
    assert_int_equal(usage_of(b).retained, 5 * GRANULE);
    segment_set_retain(&b->segments, SIZE_MAX);
    give(b, 20, 2);
    b->release_plan.at = 1;
    segment_set_limit(&b->segments, usage_of(b).committed);
    assert_int_equal(take(b, 6), NO_GRANULE);
    assert_int_equal(b->release_plan.at, 0);
    assert_int_equal(usage_of(b).retained, 7 * GRANULE);
    assert_int_equal(take(b, 6), 40);
    assert_int_equal(memory_in(b, 10, 5), 1);
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
    for (size_t i = 0; i < 12; i++) /* the last two of those taken have no memory yet */
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
    take_kind(b, 3, RUN_SEGMENT, 1); /* together one */
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

/* ---- signals and deaths ---------------------------------------------------------------------- */

static void test_a_signal_handler_inside_the_lock_does_without(void **state)
{
    struct granule_backend *b = *state;
    struct segment_map *map = b->segments.map;

    take(b, 4);
    b->pending[0] = run_of(b, 0, 2);
    assert_int_equal(lock_acquire(&map->lock), LOCK_ACQUIRED);
    assert_false(segment_take(&b->segments, 1, RUN_SEGMENT, GRANULE, &b->pending[1]));
    assert_false(segment_take_at(&b->segments, 1, RUN_SEGMENT, granule_address(b, 4), GRANULE,
                                 &b->pending[1]));
    segment_give(&b->segments, &b->pending[0], nothing);
    assert_int_equal(b->pending[0].bytes, 2 * GRANULE);
    assert_false(segment_settle(&b->segments));
    assert_int_equal(segment_release(&b->segments, 0), 0);
    segment_walk(&b->segments, visit, NULL);
    segment_check(&b->segments, &(struct check){0});
    assert_int_equal(usage_of(b).committed, 4 * GRANULE);
    assert_int_equal(segment_set_limit(&b->segments, 100 * GRANULE), 100 * GRANULE);
    lock_release(&map->lock);
    assert_int_equal(usage_of(b).limit, 100 * GRANULE);
    assert_true(segment_set_limit(&b->segments, SIZE_MAX) == SIZE_MAX);
    assert_int_equal(usage_of(b).committed, 4 * GRANULE);
    assert_sound(b);
}

static int take_and_commit(void *context)
{
    struct granule_backend *b = context;

    CHILD_CHECK(segment_take(&b->segments, 2, RUN_SEGMENT, 10 * GRANULE, &b->pending[0]));
    CHILD_CHECK(segment_commit(&b->segments, RUN_SEGMENT, b->pending[0]));
    return 0;
}

static int give_pending(void *context)
{
    struct granule_backend *b = context;

    segment_give(&b->segments, &b->pending[0], nothing);
    return 0;
}

static int release_all(void *context)
{
    struct granule_backend *b = context;

    segment_release(&b->segments, 0);
    return 0;
}

/* The child is killed in the backend's call; the parent then gives back what is pending. */
static void assert_survived(struct granule_backend *b, child_work work)
{
    b->forgiving = true;
    int status = run_in_child(work, b);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    b->commit_plan = b->release_plan = (struct granule_plan){0};
    segment_give(&b->segments, &b->pending[0], nothing);
    assert_int_equal(b->pending[0].bytes, 0);
    assert_sound(b);
}

static void test_a_death_in_commit_loses_no_memory(void **state)
{
    struct granule_backend *b = *state;

    take(b, 1);
    for (int after = 0; after < 2; after++) {
        b->pending[0] = nothing;
        b->commit_plan = (struct granule_plan){.at = 1, .kill_before = !after, .kill_after = after};
        assert_survived(b, take_and_commit);
        assert_int_equal(granules_with_memory(b), 1);
        assert_int_equal(usage_of(b).committed, GRANULE);
        assert_int_equal(usage_of(b).used, GRANULE);
    }
}

static void test_a_death_in_give_loses_no_memory(void **state)
{
    struct granule_backend *b = *state;

    segment_set_retain(&b->segments, 0);
    for (int after = 0; after < 2; after++) {
        take(b, 10);
        b->pending[0] = run_of(b, 3, 4);
        b->release_plan =
            (struct granule_plan){.at = 1, .kill_before = !after, .kill_after = after};
        assert_survived(b, give_pending);
        assert_int_equal(granules_with_memory(b), 6);
        assert_int_equal(usage_of(b).committed, 6 * GRANULE);
        give(b, 0, 3);
        give(b, 7, 3);
    }
}

static void test_a_death_in_release_is_finished_by_the_next(void **state)
{
    struct granule_backend *b = *state;

    for (int after = 0; after < 2; after++) {
        take(b, 50);
        give(b, 5, 40); /* two slices */
        b->pending[0] = nothing;
        b->release_plan =
            (struct granule_plan){.at = 2, .kill_before = !after, .kill_after = after};
        assert_survived(b, release_all);
        assert_int_equal(granules_with_memory(b), 10);
        assert_int_equal(usage_of(b).retained, 0);
        give(b, 0, 5);
        give(b, 45, 5);
    }
}

static void test_a_release_that_fails_twice_after_a_death_is_not_trusted(void **state)
{
    struct granule_backend *b = *state;
    struct run *pending = &b->pending[0];

    take(b, 20);
    give(b, 5, 10);
    *pending = nothing;
    b->forgiving = true;
    b->release_plan = (struct granule_plan){.at = 1, .kill_after = true};
    run_in_child(release_all, b);
    b->release_plan = (struct granule_plan){.at = 1};
    assert_int_equal(usage_of(b).retained, 0);
    assert_sound(b);

    *pending = run_of(b, 0, 5);
    segment_set_retain(&b->segments, 0);
    b->release_plan = (struct granule_plan){.at = 1, .kill_after = true};
    run_in_child(give_pending, b);
    b->release_plan = (struct granule_plan){.at = 1};
    segment_give(&b->segments, pending, nothing);
    assert_int_equal(pending->bytes, 0);
    assert_sound(b);
    assert_int_equal(usage_of(b).committed, 5 * GRANULE);
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

#define test_with_map(f) cmocka_unit_test_setup_teardown(f, make_map, drop_map)

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
        test_with_map(test_commit_puts_memory_behind_the_run_and_nothing_else),
        test_with_map(test_commit_fills_the_gaps_of_what_is_retained),
        test_with_map(test_given_memory_is_retained_up_to_the_limit),
        test_with_map(test_release_begins_with_the_highest_granules),
        cmocka_unit_test(test_release_of_more_than_a_slice),
        test_with_map(test_give_keeps_what_it_is_told),
        test_with_map(test_give_releases_only_what_goes),
        test_with_map(test_give_of_nothing_does_nothing),
        test_with_map(test_the_limit_bounds_what_is_taken),
        test_with_map(test_what_is_retained_makes_way_under_the_limit),
        test_with_map(test_retained_granules_on_both_sides_of_a_run_make_way),
        test_with_map(test_retained_granules_at_the_end_make_way),
        test_with_map(test_a_limit_that_release_cannot_help_changes_nothing),
        cmocka_unit_test(test_every_commit_may_fail),
        cmocka_unit_test(test_every_commit_of_the_maps_own_pages_may_fail),
        cmocka_unit_test(test_a_map_that_cannot_grow_ahead_grows_by_what_is_needed),
        test_with_map(test_every_release_may_fail),
        test_with_map(test_every_address_has_its_owner),
        test_with_map(test_granules_of_segments_and_no_others_have_the_flag_of_chunks),
        test_with_map(test_addresses_outside_the_region_have_no_owner),
        test_with_map(test_a_large_block_is_known_by_its_granules),
        test_with_map(test_a_large_block_grows_and_shrinks_in_place),
        test_with_map(test_walk_visits_every_run),
        test_with_map(test_check_sees_every_kind_of_damage),
        test_with_map(test_a_signal_handler_inside_the_lock_does_without),
        test_with_map(test_a_death_in_commit_loses_no_memory),
        test_with_map(test_a_death_in_give_loses_no_memory),
        test_with_map(test_a_death_in_release_is_finished_by_the_next),
        test_with_map(test_a_release_that_fails_twice_after_a_death_is_not_trusted),
        cmocka_unit_test(test_a_region_of_16_TiB_costs_only_what_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
