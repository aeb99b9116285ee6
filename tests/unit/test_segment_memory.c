/* test_segment_memory.c - the granule map's memory: what is committed, retained and released, and
 * within which bounds; what happens when the system fails, or when a process dies in a call.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>

#include "support/child.h"
#include "support/granule_calls.h"

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
    segment_give(&b->segments, pending, run_of(b, 5, 3)); /* gives back a lead and a tail */
    assert_ptr_equal(pending->start, granule_address(b, 5));
    assert_int_equal(pending->bytes, 3 * GRANULE);
    assert_sound(b);
    assert_int_equal(owner_of(b, 4), 0);
    assert_int_equal(owner_of(b, 5), 1);
    assert_int_equal(owner_of(b, 7), 1);
    assert_int_equal(owner_of(b, 8), 0);

    segment_give(&b->segments, pending, run_of(b, 5, 2)); /* gives back a tail */
    assert_ptr_equal(pending->start, granule_address(b, 5));
    assert_int_equal(pending->bytes, 2 * GRANULE);
    segment_give(&b->segments, pending, run_of(b, 6, 1)); /* gives back a lead */
    assert_ptr_equal(pending->start, granule_address(b, 6));
    assert_int_equal(pending->bytes, GRANULE);
    segment_give(&b->segments, pending, run_of(b, 6, 1)); /* gives back nothing */
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
    assert_int_equal(take(b, 4), 10); /* a run that has memory: nothing is released */
    assert_int_equal(b->releases, 0);
    assert_int_equal(usage_of(b).retained, 4 * GRANULE);
    assert_int_equal(take(b, 5), NO_GRANULE);
    assert_int_equal(b->releases, 0);
    assert_int_equal(take(b, 4), 20); /* the retained granules pay for it */
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
    /* Granules 2, 3, 10, 14 and 30 have memory. 10 to 14 need three more: 30 is released for
     * them, then 3 and 2. */
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
    give(b, 8, 4); /* they lie beyond `used` now */
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

/* ---- signals and deaths ---------------------------------------------------------------------- */

static void visit_never(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    (void)context, (void)run, (void)owner, (void)kind;
    fail();
}

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
    segment_walk(&b->segments, visit_never, NULL);
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
        give(b, 5, 40); /* released in two slices */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        test_with_map(test_a_signal_handler_inside_the_lock_does_without),
        test_with_map(test_a_death_in_commit_loses_no_memory),
        test_with_map(test_a_death_in_give_loses_no_memory),
        test_with_map(test_a_death_in_release_is_finished_by_the_next),
        test_with_map(test_a_release_that_fails_twice_after_a_death_is_not_trusted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
