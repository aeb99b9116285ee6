/* test_segment_faults.c - each of the backend's calls fails once, and then for good.
 *
 * A script goes through all that the granule map does. It is run with its first commit failing,
 * with its second, and so on until there are no more; then the same with release, and with all
 * calls from the k-th on failing. Whatever fails: the map stays sound, its account exact, nothing
 * is lost, and when the backend works again so does the map.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/granule_backend.h"

enum { GRANULES = 20000, BLOCKS = 8 };

static const struct run nothing;

/* What the script holds: pending runs that nobody merges into anything. */
static struct run *block(struct granule_backend *b, size_t i)
{
    assert_true(i < BLOCKS && BLOCKS <= sizeof b->pending / sizeof *b->pending);
    return &b->pending[i];
}

static void give(struct granule_backend *b, size_t i)
{
    segment_give(&b->segments, block(b, i), nothing);
    assert_int_equal(block(b, i)->bytes, 0);
    assert_int_equal(granule_backend_check(b), 0);
}

/* As an arena does it: what cannot be committed goes back. */
static void take(struct granule_backend *b, size_t i, enum run_kind kind, size_t n)
{
    give(b, i);
    if (!segment_take(&b->segments, 1, kind, n * GRANULE, block(b, i)))
        assert_int_equal(block(b, i)->bytes, 0);
    else if (!segment_commit(&b->segments, kind, *block(b, i)))
        give(b, i);
    assert_int_equal(granule_backend_check(b), 0);
}

/* More behind a block, in place; or not. */
static void extend(struct granule_backend *b, size_t i, size_t j, size_t n)
{
    char *end = block(b, i)->start + block(b, i)->bytes;

    give(b, j);
    if (block(b, i)->bytes == 0 ||
        !segment_take_at(&b->segments, 1, RUN_LARGE_TAIL, end, n * GRANULE, block(b, j)))
        return;
    if (!segment_commit(&b->segments, RUN_LARGE_TAIL, *block(b, j)))
        give(b, j);
    assert_int_equal(granule_backend_check(b), 0);
}

static void shrink(struct granule_backend *b, size_t i, size_t lead, size_t n)
{
    if (block(b, i)->bytes < (lead + n) * GRANULE)
        return;
    segment_give(&b->segments, block(b, i),
                 (struct run){block(b, i)->start + lead * GRANULE, n * GRANULE});
    assert_int_equal(block(b, i)->bytes, n * GRANULE);
    assert_int_equal(granule_backend_check(b), 0);
}

static void script(struct granule_backend *b)
{
    take(b, 0, RUN_SEGMENT, 20);
    take(b, 1, RUN_LARGE, 70);
    take(b, 2, RUN_SEGMENT, 5);
    segment_set_retain(&b->segments, 30 * GRANULE);
    shrink(b, 0, 3, 10);
    shrink(b, 1, 0, 40);
    extend(b, 1, 3, 6);
    take(b, 4, RUN_SEGMENT, 4);
    give(b, 2);
    take(b, 5, RUN_LARGE, 33);
    give(b, 1);
    segment_set_retain(&b->segments, SIZE_MAX);
    give(b, 5);
    segment_set_limit(&b->segments, 100 * GRANULE);
    take(b, 6, RUN_SEGMENT, 60);
    take(b, 7, RUN_SEGMENT, 25);
    segment_release(&b->segments, 3 * GRANULE);
    segment_set_limit(&b->segments, SIZE_MAX);
    take(b, 5, RUN_SEGMENT, 9000); /* more words than are ready */
    segment_set_retain(&b->segments, 0);
    give(b, 5);
    take(b, 1, RUN_LARGE, 12);
    take(b, 2, RUN_SEGMENT, 3);
    shrink(b, 1, 2, 6); /* in two pieces */
    give(b, 2);
    give(b, 1);
    give(b, 0);
    assert_int_equal(granule_backend_check(b), 0);
}

static void assert_nothing_lost(struct granule_backend *b)
{
    struct segment_usage usage;

    b->commit_plan = b->release_plan = (struct granule_plan){.at = 0};
    for (size_t i = 0; i < BLOCKS; i++)
        give(b, i);
    segment_release(&b->segments, 0);
    assert_int_equal(granule_backend_check(b), 0);
    segment_usage(&b->segments, &usage);
    assert_int_equal(usage.committed, 0);
    assert_int_equal(usage.used, 0);
    assert_int_equal(granules_with_memory(b), 0);
    segment_set_limit(&b->segments, SIZE_MAX);
    take(b, 0, RUN_SEGMENT, GRANULES);
    assert_int_equal(granules_with_memory(b), GRANULES);
}

static unsigned long calls_without_failure(bool releases)
{
    struct granule_backend *b = granule_backend_new(GRANULES);

    script(b);

    unsigned long calls = releases ? b->releases : b->commits;

    assert_nothing_lost(b);
    granule_backend_delete(b);
    return calls;
}

static void fail_every_call(bool releases, bool for_good)
{
    unsigned long calls = calls_without_failure(releases);

    assert_in_range(calls, 8, 200);
    for (unsigned long k = 1; k <= calls; k++) {
        struct granule_backend *b = granule_backend_new(GRANULES);
        struct granule_plan *plan = releases ? &b->release_plan : &b->commit_plan;

        *plan = (struct granule_plan){.at = k, .for_good = for_good};
        script(b);
        assert_int_equal(plan->at, for_good ? 1 : 0); /* it did fail */
        assert_nothing_lost(b);
        granule_backend_delete(b);
    }
}

static void test_each_commit_fails_once(void **state)
{
    (void)state;
    fail_every_call(false, false);
}

static void test_all_commits_fail_from_one_on(void **state)
{
    (void)state;
    fail_every_call(false, true);
}

static void test_each_release_fails_once(void **state)
{
    (void)state;
    fail_every_call(true, false);
}

static void test_all_releases_fail_from_one_on(void **state)
{
    (void)state;
    fail_every_call(true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_commit_fails_once),
        cmocka_unit_test(test_all_commits_fail_from_one_on),
        cmocka_unit_test(test_each_release_fails_once),
        cmocka_unit_test(test_all_releases_fail_from_one_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
