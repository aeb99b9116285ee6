/* test_segment_killed.c - a process killed between any two instructions of the granule map.
 *
 * A child does one thing, single-stepped. At each boundary where shared memory has changed, the
 * parent makes the map's lock look as the kernel would leave it, does what a survivor would (give
 * back what is pending), and checks: the map is sound, each granule has the right owner, the
 * account of memory is exact. Then it puts everything back, and the child goes on.
 *
 * At some boundaries the child is really killed, and the result must be the same; in a last round
 * the survivor is killed, too, and a third process takes over. The number of operations (random.h)
 * says how often.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segment/segment_map.h"
#include "support/granule_backend.h"
#include "support/random.h"

enum { GRANULES = 300, PAGES_MOST = GRANULES * 16, MAP_MOST = 1 << 16 };

struct scenario {
    void (*prepare)(struct granule_backend *b);
    void (*act)(struct granule_backend *b);
    bool stays; /* the finished act stays; otherwise the survivor undoes it by giving back */
};

static const struct run nothing;

/* ---- scenarios ------------------------------------------------------------------------------- */

static void take(struct granule_backend *b, segment_owner_id owner, size_t n)
{
    b->pending[0] = nothing;
    assert_true(segment_take(&b->segments, owner, RUN_SEGMENT, n * GRANULE, &b->pending[0]));
    assert_true(segment_commit(&b->segments, RUN_SEGMENT, b->pending[0]));
    b->pending[0] = nothing;
}

static void give(struct granule_backend *b, size_t first, size_t n)
{
    b->pending[0] = (struct run){granule_address(b, first), n * GRANULE};
    segment_give(&b->segments, &b->pending[0], nothing);
}

/* Free runs with and without memory. */
static void prepare_holes(struct granule_backend *b)
{
    take(b, 1, 200);
    give(b, 100, 20);
    segment_set_retain(&b->segments, 0);
    give(b, 150, 10);
    segment_set_retain(&b->segments, GRANULES * GRANULE);
    give(b, 20, 3);
    give(b, 160, 2);
}

static void take_from_a_hole(struct granule_backend *b)
{
    if (segment_take(&b->segments, 2, RUN_SEGMENT, 6 * GRANULE, &b->pending[0]))
        segment_commit(&b->segments, RUN_SEGMENT, b->pending[0]);
}

static void take_at_the_end(struct granule_backend *b)
{
    if (segment_take(&b->segments, 3, RUN_LARGE, 30 * GRANULE, &b->pending[0]))
        segment_commit(&b->segments, RUN_LARGE, b->pending[0]);
}

static void take_at_150(struct granule_backend *b)
{
    if (segment_take_at(&b->segments, 2, RUN_LARGE_TAIL, granule_address(b, 150), 12 * GRANULE,
                        &b->pending[0]))
        segment_commit(&b->segments, RUN_LARGE_TAIL, b->pending[0]);
}

static void prepare_limit(struct granule_backend *b)
{
    prepare_holes(b);
    segment_set_limit(&b->segments, granules_with_memory(b) * GRANULE);
}

static void prepare_to_give(struct granule_backend *b)
{
    prepare_holes(b);
    b->pending[0] = (struct run){granule_address(b, 120), 30 * GRANULE}; /* between two free runs */
}

static void prepare_to_release_and_give(struct granule_backend *b)
{
    prepare_to_give(b);
    segment_set_retain(&b->segments, 0);
}

static void prepare_to_give_the_end(struct granule_backend *b)
{
    prepare_holes(b);
    b->pending[0] = (struct run){granule_address(b, 162), 38 * GRANULE};
}

static void give_pending(struct granule_backend *b)
{
    segment_give_holed(&b->segments, &b->pending[0], nothing, &b->holes);
}

/* The address of a page of a granule. */
static char *page_in(const struct granule_backend *b, size_t granule, size_t page)
{
    return granule_address(b, granule) + page % b->pages * b->segments.map->page;
}

static void punch(struct granule_backend *b)
{
    segment_punch(&b->segments, page_in(b, 30, 3) + 1, page_in(b, 75, 5) - 1, &b->holes);
}

static void prepare_holed(struct granule_backend *b)
{
    prepare_holes(b);
    punch(b);
    segment_punch(&b->segments, page_in(b, 120, 1), page_in(b, 125, 0), &b->holes);
    segment_punch(&b->segments, page_in(b, 140, 1), page_in(b, 140, 2), &b->holes);
}

static void fill(struct granule_backend *b)
{
    segment_fill(&b->segments, page_in(b, 31, 7) + 1, page_in(b, 33, 2) + 1, &b->holes);
}

static void fill_at_the_limit(struct granule_backend *b)
{
    fill(b);
    segment_fill(&b->segments, page_in(b, 34, 0), page_in(b, 76, 0), &b->holes);
}

static void prepare_holed_limit(struct granule_backend *b)
{
    prepare_holed(b);
    segment_set_limit(&b->segments, granules_with_memory(b) * GRANULE);
}

static void prepare_to_give_holes(struct granule_backend *b)
{
    prepare_holed(b);
    b->pending[0] = (struct run){granule_address(b, 120), 30 * GRANULE};
}

static void give_around(struct granule_backend *b)
{
    segment_give(&b->segments, &b->pending[0], (struct run){granule_address(b, 130), 5 * GRANULE});
}

static void give_around_holes(struct granule_backend *b)
{
    struct run keep = {granule_address(b, 122), 5 * GRANULE};

    segment_give_holed(&b->segments, &b->pending[0], keep, &b->holes);
}

static void release(struct granule_backend *b)
{
    segment_release(&b->segments, 4 * GRANULE);
}

static const struct scenario scenarios[] = {
    {prepare_holes, take_from_a_hole, false},
    {prepare_holes, take_at_the_end, false},
    {prepare_holes, take_at_150, false},
    {prepare_limit, take_at_the_end, false},
    {prepare_to_give, give_pending, true},
    {prepare_to_release_and_give, give_pending, true},
    {prepare_to_give_the_end, give_pending, true},
    {prepare_to_give, give_around, true},
    {prepare_holes, release, true},
    {prepare_holes, punch, true},
    {prepare_holed, punch, true},
    {prepare_holed, fill, true},
    {prepare_holed_limit, fill_at_the_limit, true},
    {prepare_to_give_holes, give_pending, true},
    {prepare_to_give_holes, give_around_holes, true},
};

enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

static size_t boundaries[SCENARIOS]; /* of each scenario, found by the first test; 0: no tracing */
static struct random_run arguments;

/* ---- killing --------------------------------------------------------------------------------- */

static pid_t start_stopped(void (*act)(struct granule_backend *b), struct granule_backend *b)
{
    pid_t child = fork();

    if (child != 0)
        return child;
    alarm(60);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(1);
    raise(SIGSTOP);
    act(b);
    _exit(0);
}

/* Starts a child that is stopped before its first step; -1: the system allows no tracing. */
static pid_t start_traced(void (*act)(struct granule_backend *b), struct granule_backend *b)
{
    pid_t child = start_stopped(act, b);
    int status;

    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSTOPPED(status) ? child : -1;
}

/* One step; false: the child is done. */
static bool step(pid_t child)
{
    int status;

    assert_int_equal(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSTOPPED(status))
        return true;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return false;
}

static void kill_for_real(pid_t child)
{
    int status;

    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void kill_after(size_t steps, void (*act)(struct granule_backend *b),
                       struct granule_backend *b)
{
    pid_t child = start_traced(act, b);

    for (size_t made = 0; made < steps; made++)
        if (!step(child))
            return;
    kill_for_real(child);
}

/* What the kernel does to a robust mutex when its owner dies. */
static void let_owner_die(struct lock *lock, pid_t owner)
{
    unsigned *futex = (unsigned *)&lock->mutex.__data.__lock;

    if ((*futex & FUTEX_TID_MASK) == (unsigned)owner)
        *futex = (*futex & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
}

/* ---- all that is shared, saved and put back -------------------------------------------------- */

struct image {
    struct granule_backend b;
    unsigned char memory[PAGES_MOST];
    char map[MAP_MOST];
};

static void save(const struct granule_backend *b, struct image *image)
{
    image->b = *b;
    memcpy(image->memory, b->memory, GRANULES * b->pages);
    memcpy(image->map, b->map, b->map_bytes);
}

static void put_back(struct granule_backend *b, const struct image *image)
{
    *b = image->b;
    memcpy(b->memory, image->memory, GRANULES * b->pages);
    memcpy(b->map, image->map, b->map_bytes);
}

static bool equals(const struct granule_backend *b, const struct image *image)
{
    return memcmp(b, &image->b, sizeof *b) == 0 &&
           memcmp(b->memory, image->memory, GRANULES * b->pages) == 0 &&
           memcmp(b->map, image->map, b->map_bytes) == 0;
}

/* ---- what must hold -------------------------------------------------------------------------- */

static struct granule_backend *prepared(const struct scenario *scenario)
{
    struct granule_backend *b = granule_backend_new(GRANULES);

    scenario->prepare(b);
    b->forgiving = true;
    return b;
}

static void owners(const struct granule_backend *b, segment_owner_id owner[GRANULES])
{
    for (size_t i = 0; i < GRANULES; i++)
        owner[i] = segment_owner(b->segments.map, granule_address(b, i), NULL);
}

/* Each granule's owner after a survivor has done its part. */
static void expected_owners(const struct scenario *scenario, segment_owner_id owner[GRANULES])
{
    struct granule_backend *b = prepared(scenario);

    if (scenario->stays)
        give_pending(b);
    owners(b, owner);
    granule_backend_delete(b);
}

/* The map is sound before the survivor gives back what is pending. */
static void assert_recovered(struct granule_backend *b)
{
    struct check check = {.report = stderr};

    segment_check(&b->segments, &check);
    assert_int_equal(check.violations, 0);
    for (size_t i = 0; i < b->pending[0].bytes; i += GRANULE)
        assert_true(segment_owner(b->segments.map, b->pending[0].start + i, NULL) != 0);
}

static void assert_survived(struct granule_backend *b, const segment_owner_id *expected)
{
    segment_owner_id owner[GRANULES];

    assert_recovered(b);
    give_pending(b);
    assert_int_equal(b->pending[0].bytes, 0);
    assert_int_equal(granule_backend_check(b), 0);
    owners(b, owner);
    assert_memory_equal(owner, expected, sizeof owner);
}

/* Returns the scenario's number of steps; 0: no tracing. */
static size_t die_at_every_boundary(const struct scenario *scenario)
{
    static struct image image;
    struct granule_backend *b = prepared(scenario);
    pid_t child = start_traced(scenario->act, b);
    segment_owner_id expected[GRANULES];
    size_t steps = 0;

    expected_owners(scenario, expected);
    assert_true(b->map_bytes <= sizeof image.map);
    for (bool alive = child > 0; alive; alive = step(child), steps++) {
        if (equals(b, &image))
            continue;
        save(b, &image);
        let_owner_die(&b->segments.map->lock, child);
        assert_survived(b, expected);
        put_back(b, &image);
    }
    if (child > 0)
        assert_survived(b, expected);
    granule_backend_delete(b);
    return steps;
}

static void test_every_boundary_may_be_the_last(void **state)
{
    size_t all = 0;

    (void)state;
    for (size_t i = 0; i < SCENARIOS; i++) {
        boundaries[i] = die_at_every_boundary(&scenarios[i]);
        if (boundaries[i] == 0)
            skip();
        all += boundaries[i];
    }
    printf("%zu boundaries\n", all);
}

static void test_killed_for_real(void **state)
{
    struct random_source random = {arguments.seed};
    segment_owner_id expected[GRANULES];

    (void)state;
    for (unsigned long i = 0; i < arguments.operations; i++) {
        size_t j = i % SCENARIOS;

        if (boundaries[j] == 0)
            skip();

        struct granule_backend *b = prepared(&scenarios[j]);

        expected_owners(&scenarios[j], expected);
        kill_after(random_below(&random, boundaries[j]), scenarios[j].act, b);
        assert_survived(b, expected);
        granule_backend_delete(b);
    }
}

static void test_a_survivor_killed_for_real(void **state)
{
    struct random_source random = {arguments.seed};
    segment_owner_id expected[GRANULES];

    (void)state;
    for (unsigned long i = 0; i < arguments.operations; i++) {
        size_t j = i % SCENARIOS;

        if (boundaries[j] == 0)
            skip();

        struct granule_backend *b = prepared(&scenarios[j]);

        expected_owners(&scenarios[j], expected);
        kill_after(random_below(&random, boundaries[j]), scenarios[j].act, b);
        kill_after(random_below(&random, boundaries[j] / 2), give_pending, b);
        assert_survived(b, expected);
        granule_backend_delete(b);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_boundary_may_be_the_last),
        cmocka_unit_test(test_killed_for_real),
        cmocka_unit_test(test_a_survivor_killed_for_real),
    };

    arguments = random_run_from(argc, argv, 40);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
