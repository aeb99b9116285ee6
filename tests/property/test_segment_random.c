/* test_segment_random.c - random operations on granule maps, compared with an array of granules.
 *
 * The array is the model: it knows each granule's owner and whether the granule has memory, finds
 * runs by a scan, and follows the rules of segment.h for what is retained and released. After each
 * operation the map must have done exactly what the model did, and be sound.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "segment/segment_map.h"
#include "support/clock.h"
#include "support/granule_backend.h"
#include "support/random.h"

enum { MODEL_MOST = 600, OPERATIONS_A_MAP = 5000 };

enum what { NOBODYS, BLOCK_START, BLOCK_TAIL, SEGMENTS };

struct granule {
    segment_owner_id owner;
    enum what what;
    unsigned char memory;
    unsigned holes; /* a bit a page */
};

struct model {
    struct granule_backend *b;
    size_t granules;
    struct granule granule[MODEL_MOST];
    size_t limit; /* in granules */
    size_t retain;
    size_t committed_most;
};

static struct random_run arguments;

/* ---- the model ------------------------------------------------------------------------------- */

static bool is_free(const struct model *m, size_t first, size_t n)
{
    for (size_t i = first; i < first + n; i++)
        if (i >= m->granules || m->granule[i].owner != 0)
            return false;
    return true;
}

static size_t lowest_free(const struct model *m, size_t n)
{
    size_t length = 0;

    for (size_t i = 0; i < m->granules; i++) {
        length = m->granule[i].owner == 0 ? length + 1 : 0;
        if (length == n)
            return i + 1 - n;
    }
    return NO_GRANULE;
}

static size_t memory_of(const struct model *m, size_t first, size_t n)
{
    size_t memory = 0;

    for (size_t i = first; i < first + n; i++)
        memory += m->granule[i].memory;
    return memory;
}

static size_t retained(const struct model *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->granules; i++)
        n += m->granule[i].owner == 0 && m->granule[i].memory;
    return n;
}

static size_t holes_of(const struct model *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->granules; i++)
        n += (size_t)__builtin_popcount(m->granule[i].holes);
    return n;
}

/* How many granules the limit does not count, for the holes that are left. */
static size_t missing(const struct model *m, size_t filled)
{
    return (holes_of(m) - filled) / m->b->pages;
}

static size_t committed(const struct model *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->granules; i++)
        n += m->granule[i].owner != 0 || m->granule[i].memory;
    return n;
}

/* Releases retained granules, the highest ones first, but none of those at `but`. */
static void model_release(struct model *m, size_t count, size_t but, size_t but_count)
{
    for (size_t i = m->granules; i-- > 0 && count > 0;) {
        if (m->granule[i].owner != 0 || !m->granule[i].memory || (i >= but && i - but < but_count))
            continue;
        m->granule[i].memory = 0;
        count--;
    }
}

/* The place for a run with `room` behind it; with as much before it, too, if a large block is
 * there. The granule after its first one begins at a multiple of the alignment. */
static size_t lowest_place(const struct model *m, size_t n, size_t room, size_t alignment)
{
    size_t slack = alignment > 1 ? alignment - 1 : 0;
    size_t first = room > 0 ? lowest_free(m, n + slack + 2 * room) : NO_GRANULE;

    if (first == NO_GRANULE)
        first = lowest_free(m, n + slack + room);
    else if (first > 0 && m->granule[first - 1].owner != 0 &&
             m->granule[first - 1].what != SEGMENTS)
        first += room;
    if (first == NO_GRANULE)
        return first;
    while (alignment > 1 &&
           (uintptr_t)granule_address(m->b, first + 1) % (alignment * GRANULE) != 0)
        first++;
    return first;
}

/* Takes the run, if the model can; `release_fails`: the backend's next release does. */
static bool model_take(struct model *m, size_t first, size_t n, segment_owner_id owner,
                       enum run_kind kind, bool release_fails)
{
    size_t had = memory_of(m, first, n);
    size_t wanted = committed(m) + n - had - missing(m, 0);
    size_t excess = wanted > m->limit ? wanted - m->limit : 0;

    if (excess > retained(m) - had || (excess > 0 && release_fails))
        return false;
    model_release(m, excess, first, n);
    for (size_t i = first; i < first + n; i++) {
        m->granule[i].owner = owner;
        m->granule[i].what = kind == RUN_SEGMENT ? SEGMENTS : BLOCK_TAIL;
    }
    if (committed(m) > m->committed_most)
        m->committed_most = committed(m);
    return true;
}

static void model_commit(struct model *m, size_t first, size_t n, enum run_kind kind)
{
    for (size_t i = first; i < first + n; i++)
        m->granule[i].memory = 1;
    if (kind == RUN_LARGE)
        m->granule[first].what = BLOCK_START;
}

/* The end of the row of granules that begins at `first`, all with memory or all without. */
static size_t row_end(const struct model *m, size_t first, size_t end)
{
    size_t i = first;

    while (i < end && m->granule[i].memory == m->granule[first].memory)
        i++;
    return i;
}

/* Commits until the backend's k-th call fails; each row of granules without memory is one call. */
static void model_commit_until(struct model *m, size_t first, size_t n, size_t k)
{
    for (size_t i = first, next; i < first + n; i = next) {
        next = row_end(m, i, first + n);
        if (m->granule[i].memory)
            continue;
        if (--k == 0)
            return;
        for (size_t j = i; j < next; j++)
            m->granule[j].memory = 1;
    }
}

static void model_give(struct model *m, size_t first, size_t n, bool release_fails)
{
    size_t has = memory_of(m, first, n);
    bool release = has > 0 && retained(m) + has > m->retain;

    for (size_t i = first; i < first + n; i++) {
        release |= m->granule[i].holes != 0;
        m->granule[i].holes = 0;
        m->granule[i].owner = 0;
        m->granule[i].what = NOBODYS;
    }
    if (!release)
        return;
    for (size_t i = first, next; i < first + n; i = next) {
        next = row_end(m, i, first + n);
        if (!m->granule[i].memory)
            continue;
        if (!release_fails)
            for (size_t j = i; j < next; j++)
                m->granule[j].memory = 0;
        release_fails = false; /* only the first row keeps its memory */
    }
}

/* ---- the comparison -------------------------------------------------------------------------- */

/* Gives a run back. A run of segments goes in pieces while there are holes, from its start or
 * from its end on. */
static void model_give_holed(struct model *m, size_t first, size_t n, bool from_end)
{
    while (n > HOLED_MOST && m->granule[first].what == SEGMENTS && holes_of(m) != 0) {
        model_give(m, from_end ? first + n - HOLED_MOST : first, HOLED_MOST, false);
        first += from_end ? 0 : HOLED_MOST;
        n -= HOLED_MOST;
    }
    model_give(m, first, n, false);
}

static enum what what_of(segment_owner_id owner, enum run_kind kind)
{
    if (owner == 0)
        return NOBODYS;
    return kind == RUN_SEGMENT ? SEGMENTS : kind == RUN_LARGE ? BLOCK_START : BLOCK_TAIL;
}

static void assert_equals_model(const struct model *m)
{
    struct granule_backend *b = m->b;
    struct segment_usage usage;
    size_t used = 0;

    for (size_t i = 0; i < m->granules; i++) {
        enum run_kind kind;
        segment_owner_id owner = segment_owner(b->segments.map, granule_address(b, i), &kind);

        if (owner != m->granule[i].owner || what_of(owner, kind) != m->granule[i].what ||
            granule_has_memory(b, i) != (m->granule[i].memory && m->granule[i].holes == 0))
            fail_msg("granule %zu: owner %u, what %d, memory %d; should be %u, %d, %d", i, owner,
                     (int)what_of(owner, kind), (int)granule_has_memory(b, i), m->granule[i].owner,
                     (int)m->granule[i].what, (int)m->granule[i].memory);
        if (owner != 0)
            used = i + 1;
    }
    segment_usage(&b->segments, &usage);
    assert_int_equal(usage.committed + usage.holes, committed(m) * GRANULE);
    assert_int_equal(usage.holes, holes_of(m) * b->segments.map->page);
    assert_int_equal(usage.committed_most, m->committed_most * GRANULE);
    assert_int_equal(usage.retained, retained(m) * GRANULE);
    assert_int_equal(usage.used, used * GRANULE);
    assert_int_equal(granule_backend_check(b), 0);
}

/* ---- operations ------------------------------------------------------------------------------ */

static struct run *pending_of(const struct model *m)
{
    return &m->b->pending[0];
}

static void set_pending(const struct model *m, size_t first, size_t n)
{
    *pending_of(m) = (struct run){n > 0 ? granule_address(m->b, first) : NULL, n * GRANULE};
}

static void give_pending(struct model *m, bool release_fails)
{
    struct run *pending = pending_of(m);
    size_t first = granule_number(m->b, pending->start);
    size_t n = pending->bytes / GRANULE;

    release_fails &= m->b->holes == 0;
    m->b->release_plan.at = release_fails ? 1 : 0;
    segment_give_holed(&m->b->segments, pending, (struct run){NULL, 0}, &m->b->holes);
    m->b->release_plan.at = 0;
    if (release_fails)
        model_give(m, first, n, true);
    else
        model_give_holed(m, first, n, false);
    assert_null(pending->start);
    assert_int_equal(pending->bytes, 0);
}

static void commit_taken(struct model *m, struct random_source *random, size_t first, size_t n,
                         enum run_kind kind)
{
    struct granule_backend *b = m->b;

    if (!random_once_in(random, 8)) {
        assert_true(segment_commit(&b->segments, kind, *pending_of(m)));
        model_commit(m, first, n, kind);
        return;
    }

    size_t k = 1 + random_below(random, 3);

    b->commit_plan.at = k;
    if (segment_commit(&b->segments, kind, *pending_of(m))) {
        b->commit_plan.at = 0;
        model_commit(m, first, n, kind);
        return;
    }
    assert_int_equal(b->commit_plan.at, 0);
    model_commit_until(m, first, n, k);
    give_pending(m, random_once_in(random, 4));
}

/* Takes a random run. One of kind RUN_LARGE_TAIL that continues no block is what a dead process
 * may leave. */
static void take_random(struct model *m, struct random_source *random)
{
    struct granule_backend *b = m->b;
    size_t n = random_size(random, random_once_in(random, 10) ? m->granules + 2 : 16);
    enum run_kind kind = (enum run_kind)random_below(random, 3);
    segment_owner_id owner = 1 + (segment_owner_id)random_below(random, 3);
    bool lowest = random_once_in(random, 2);
    size_t room = lowest && random_once_in(random, 3) ? random_below(random, 10) : 0;
    size_t alignment = random_once_in(random, 3) ? (size_t)1 << random_below(random, 6) : 0;
    size_t first = lowest ? lowest_place(m, n, room, alignment) : random_below(random, m->granules);
    bool possible = first != NO_GRANULE && is_free(m, first, n) &&
                    (first == 0 || lowest || m->granule[first - 1].owner != 0);
    bool release_fails = random_once_in(random, 10);
    bool taken;

    set_pending(m, 0, 0);
    b->release_plan.at = release_fails ? 1 : 0;
    if (lowest)
        taken = segment_take_placed(
            &b->segments, owner, kind, n * GRANULE,
            (struct run_place){.room = room * GRANULE, .alignment = alignment * GRANULE},
            pending_of(m));
    else
        taken = segment_take_at(&b->segments, owner, kind, granule_address(b, first), n * GRANULE,
                                pending_of(m));
    b->release_plan.at = 0;
    assert_int_equal(taken, possible && model_take(m, first, n, owner, kind, release_fails));
    if (!taken) {
        assert_int_equal(pending_of(m)->bytes, 0);
        return;
    }
    assert_int_equal(pending_of(m)->bytes, n * GRANULE);
    assert_int_equal(granule_number(b, pending_of(m)->start), first);
    commit_taken(m, random, first, n, kind);
}

/* Some granules around a random one that belong together: a block, or a part of one owner's
 * segments. */
static size_t random_taken(const struct model *m, struct random_source *random, size_t *n)
{
    size_t first = random_below(random, m->granules);
    const struct granule *g = m->granule;
    size_t end = first + 1;

    if (g[first].owner == 0)
        return NO_GRANULE;
    while (first > 0 && g[first].what != BLOCK_START && g[first - 1].owner == g[first].owner &&
           (g[first - 1].what == SEGMENTS) == (g[first].what == SEGMENTS))
        first--;
    while (end < m->granules && g[end].owner == g[first].owner && g[end].what != BLOCK_START &&
           (g[end].what == SEGMENTS) == (g[first].what == SEGMENTS))
        end++;
    *n = end - first;
    return first;
}

static void give_random(struct model *m, struct random_source *random)
{
    size_t n;
    size_t first = random_taken(m, random, &n);
    bool release_fails = random_once_in(random, 8);

    if (first == NO_GRANULE)
        return;
    if (random_once_in(random, 2)) {
        set_pending(m, first, n);
        give_pending(m, release_fails);
        return;
    }

    size_t lead = random_below(random, n);
    size_t keep = 1 + random_below(random, n - lead);

    if (m->granule[first].what == BLOCK_START) {
        keep += lead; /* blocks shrink only at their end */
        lead = 0;
    }

    struct run kept = {granule_address(m->b, first + lead), keep * GRANULE};

    set_pending(m, first, n);
    segment_give_holed(&m->b->segments, pending_of(m), kept, &m->b->holes);
    if (lead + keep < n)
        model_give_holed(m, first + lead + keep, n - lead - keep, true);
    if (lead > 0)
        model_give_holed(m, first, lead, false);
    assert_ptr_equal(pending_of(m)->start, kept.start);
    assert_int_equal(pending_of(m)->bytes, kept.bytes);
}

/* The first of some random pages that all lie in one segment; their number in `n`. */
static size_t random_pages(struct model *m, struct random_source *random, size_t *n)
{
    size_t granules, first = random_taken(m, random, &granules);

    if (first == NO_GRANULE || m->granule[first].what != SEGMENTS ||
        memory_of(m, first, granules) < granules)
        return NO_GRANULE;

    size_t pages = granules * m->b->pages, skipped = random_below(random, pages);

    *n = 1 + random_below(random, random_once_in(random, 3) ? pages - skipped : 1);
    return first * m->b->pages + skipped;
}

static char *page_address(const struct model *m, size_t page)
{
    return m->b->segments.map->base + page * m->b->segments.map->page;
}

static unsigned *holes_around(struct model *m, size_t page, unsigned *bit)
{
    *bit = 1u << page % m->b->pages;
    return &m->granule[page / m->b->pages].holes;
}

/* How many of the pages are holes; with `holes` false, how many are not. */
static size_t count_pages(struct model *m, size_t first, size_t n, bool holes)
{
    size_t count = 0;
    unsigned bit;

    for (size_t i = first; i < first + n; i++) {
        const unsigned *of_granule = holes_around(m, i, &bit);

        count += ((*of_granule & bit) != 0) == holes;
    }
    return count;
}

static void model_set_holes(struct model *m, size_t first, size_t n, bool are)
{
    unsigned bit;

    for (size_t i = first; i < first + n; i++) {
        unsigned *of_granule = holes_around(m, i, &bit);

        *of_granule = are ? *of_granule | bit : *of_granule & ~bit;
    }
}

static void punch_random(struct model *m, struct random_source *random)
{
    size_t n, first = random_pages(m, random, &n);
    size_t page = m->b->segments.map->page;
    bool fails = random_once_in(random, 8);

    if (first == NO_GRANULE)
        return;
    size_t expected = fails ? 0 : count_pages(m, first, n, false);
    /* Incomplete pages at both ends are not punched. */
    char *start = page_address(m, first) - (first > 0 ? random_below(random, page) : 0);
    char *end = page_address(m, first + n) + random_below(random, page);

    m->b->release_plan = (struct granule_plan){.at = fails ? 1 : 0, .for_good = true};
    assert_int_equal(segment_punch(&m->b->segments, start, end, &m->b->holes), expected * page);
    m->b->release_plan = (struct granule_plan){.at = 0};
    if (!fails)
        model_set_holes(m, first, n, true);
}

/* Fills all holes among the pages or, if there is no memory, none. */
static void fill_random(struct model *m, struct random_source *random)
{
    size_t n, first = random_pages(m, random, &n);
    bool fails = random_once_in(random, 8);

    if (first == NO_GRANULE)
        return;
    size_t wanted = count_pages(m, first, n, true);
    size_t held = committed(m) - missing(m, wanted);
    size_t excess = held > m->limit ? held - m->limit : 0;

    if (excess > 0) /* which granules are released depends on the order of steps */
        return;
    m->b->commit_plan = (struct granule_plan){.at = fails ? 1 : 0, .for_good = true};
    bool filled = segment_fill(&m->b->segments, page_address(m, first) + 1,
                               page_address(m, first + n) - 1, &m->b->holes);
    m->b->commit_plan = (struct granule_plan){.at = 0};
    assert_int_equal(filled, wanted == 0 || !fails);
    if (filled)
        model_set_holes(m, first, n, false);
}

static void release_random(struct model *m, struct random_source *random)
{
    size_t has = retained(m);
    size_t keep = random_below(random, has + 4);
    bool release_fails = random_once_in(random, 4);
    size_t expected = keep < has && !release_fails ? has - keep : 0;

    m->b->release_plan.at = release_fails ? 1 : 0;
    assert_int_equal(segment_release(&m->b->segments, keep * GRANULE + random_below(random, 2)),
                     expected * GRANULE);
    m->b->release_plan.at = 0;
    model_release(m, expected, 0, 0);
}

static void set_bounds(struct model *m, struct random_source *random)
{
    struct segments *s = &m->b->segments;

    m->limit = random_once_in(random, 2) ? SIZE_MAX : random_below(random, m->granules + 10);
    if (m->limit == SIZE_MAX)
        assert_true(segment_set_limit(s, SIZE_MAX) == SIZE_MAX);
    else
        assert_int_equal(segment_set_limit(s, m->limit * GRANULE), m->limit * GRANULE);
    m->retain = random_once_in(random, 4) ? 0 : random_below(random, m->granules);
    segment_set_retain(s, m->retain * GRANULE);
}

static void operate(struct model *m, struct random_source *random)
{
    size_t choice = random_below(random, 100);

    if (choice < 40)
        take_random(m, random);
    else if (choice < 78)
        give_random(m, random);
    else if (choice < 87)
        punch_random(m, random);
    else if (choice < 94)
        fill_random(m, random);
    else if (choice < 98)
        release_random(m, random);
    else
        set_bounds(m, random);
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void work_on_a_map(struct random_source *random, unsigned long operations)
{
    static struct model m;
    size_t granules = random_size(random, random_once_in(random, 8) ? MODEL_MOST : 250);

    m = (struct model){.b = granule_backend_new(granules), .granules = granules};
    m.limit = SIZE_MAX;
    m.retain = MODEL_MOST;
    segment_set_retain(&m.b->segments, m.retain * GRANULE);
    for (unsigned long i = 0; i < operations; i++) {
        operate(&m, random);
        assert_equals_model(&m);
    }
    granule_backend_delete(m.b);
}

static void test_random_operations_do_what_the_model_does(void **state)
{
    struct random_source random = {arguments.seed};

    (void)state;
    for (unsigned long done = 0; done < arguments.operations; done += OPERATIONS_A_MAP)
        work_on_a_map(&random, arguments.operations - done < OPERATIONS_A_MAP
                                   ? arguments.operations - done
                                   : OPERATIONS_A_MAP);
}

static void test_no_change_comes_near_the_journals_capacity(void **state)
{
    (void)state;
#ifndef NDEBUG
    printf("the most journal entries of one change: %zu\n", journal_most_entries);
    assert_in_range(journal_most_entries, 1, JOURNAL_MOST_SEEN);
#else
    skip();
#endif
}

static double seconds(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID) * 1e-9;
}

/* The time of a take and a give of the free run at `hole`, in seconds. */
static double time_of_a_pair(struct granule_backend *b, size_t hole)
{
    enum { PAIRS = 2000, TRIES = 5 };
    double best = 1e9;

    for (int i = 0; i < TRIES; i++) {
        double before = seconds();

        for (int j = 0; j < PAIRS; j++) {
            struct run *pending = &b->pending[0];

            *pending = (struct run){NULL, 0};
            assert_true(segment_take(&b->segments, 1, RUN_SEGMENT, 2 * GRANULE, pending));
            assert_int_equal(granule_number(b, pending->start), hole);
            segment_give(&b->segments, pending, (struct run){NULL, 0});
        }

        double passed = (seconds() - before) / PAIRS;

        if (passed < best)
            best = passed;
    }
    return best;
}

static void give(struct granule_backend *b, size_t first, size_t n)
{
    b->pending[0] = (struct run){granule_address(b, first), n * GRANULE};
    segment_give(&b->segments, &b->pending[0], (struct run){NULL, 0});
}

static void take_lowest(struct granule_backend *b, size_t n, size_t expected)
{
    b->pending[0] = (struct run){NULL, 0};
    assert_true(segment_take(&b->segments, 1, RUN_SEGMENT, n * GRANULE, &b->pending[0]));
    assert_int_equal(granule_number(b, b->pending[0].start), expected);
}

/* The time for a free run of 2 granules behind `distance` others, between which are free runs of
 * one granule. */
static double time_behind(size_t granules, size_t distance)
{
    struct granule_backend *b = granule_backend_new(granules);

    take_lowest(b, distance + 3, 0);
    for (size_t i = 0; i < distance - 1; i += distance / 128)
        give(b, i, 1);
    give(b, distance, 2);

    double time = time_of_a_pair(b, distance);

    assert_int_equal(granule_backend_check(b), 0);
    granule_backend_delete(b);
    return time;
}

/* A scan would take ten thousand times as long; the bound leaves room for a busy machine. */
static void test_the_time_of_a_take_does_not_grow_with_the_map(void **state)
{
    double small = time_behind(1 << 9, 256);
    double large = time_behind((size_t)1 << (SIZE_BITS == 64 ? 28 : 15),
                               (size_t)1 << (SIZE_BITS == 64 ? 21 : 14));

    (void)state;
    printf("take and give: %.0f ns in a map of 2^9 granules, %.0f ns in one of 2^28\n", small * 1e9,
           large * 1e9);
    assert_true(large < 20 * small);
}

/* Few runs all over a region of 2^44 bytes: the map has memory only for the part that was used. */
static void test_random_runs_in_a_sparse_map(void **state)
{
    const size_t granules = (size_t)1 << (SIZE_BITS == 64 ? 28 : 15);
    struct granule_backend *b = granule_backend_new(granules);
    struct random_source random = {arguments.seed};
    size_t first[64] = {0};
    size_t length[64] = {0};
    size_t end = 0;

    (void)state;
    for (int i = 0; i < 3000; i++) {
        size_t j = random_below(&random, 64);
        size_t n = random_size(&random, SIZE_BITS == 64 ? 3000 : 300);

        if (length[j] > 0)
            give(b, first[j], length[j]);
        b->pending[0] = (struct run){NULL, 0};
        assert_true(segment_take(&b->segments, 1, RUN_LARGE, n * GRANULE, &b->pending[0]));
        first[j] = granule_number(b, b->pending[0].start);
        length[j] = n;
        for (size_t k = 0; k < 64; k++)
            assert_true(k == j || length[k] == 0 || first[k] + length[k] <= first[j] ||
                        first[j] + n <= first[k]);
        if (first[j] + n > end)
            end = first[j] + n;
        if (i % 300 == 0)
            assert_int_equal(granule_backend_check(b), 0);
    }
    assert_true(b->map_committed < 3 * end * WORD + (256 << 10));
    assert_int_equal(granules_with_memory(b), 0); /* none was committed */
    granule_backend_delete(b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_do_what_the_model_does),
        cmocka_unit_test(test_random_runs_in_a_sparse_map),
        cmocka_unit_test(test_no_change_comes_near_the_journals_capacity),
        cmocka_unit_test(test_the_time_of_a_take_does_not_grow_with_the_map),
    };

    arguments = random_run_from(argc, argv, 1000000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
