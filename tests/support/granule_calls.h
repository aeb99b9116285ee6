/* support/granule_calls.h - short names for what tests of the granule map do again and again; each
 * checks the map afterwards. Include it after <cmocka.h>.
 */
#ifndef DVSM_TESTS_SUPPORT_GRANULE_CALLS_H
#define DVSM_TESTS_SUPPORT_GRANULE_CALLS_H

#include "segment/segment_map.h"
#include "support/granule_backend.h"

static const struct run nothing;

/* Makes a map of 100 granules, which most tests use. */
static inline int make_map(void **state)
{
    *state = granule_backend_new(100);
    return 0;
}

static inline int drop_map(void **state)
{
    granule_backend_delete(*state);
    return 0;
}

static inline void assert_sound(struct granule_backend *b)
{
    assert_int_equal(granule_backend_check(b), 0);
}

static inline struct segment_usage usage_of(struct granule_backend *b)
{
    struct segment_usage usage;

    segment_usage(&b->segments, &usage);
    return usage;
}

/* A granule number stands for a run in these tests; NO_GRANULE: the take failed. */
static inline size_t take_kind(struct granule_backend *b, segment_owner_id owner,
                               enum run_kind kind, size_t n)
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

static inline size_t take(struct granule_backend *b, size_t n)
{
    return take_kind(b, 1, RUN_SEGMENT, n);
}

static inline size_t take_at(struct granule_backend *b, enum run_kind kind, size_t first, size_t n)
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

static inline struct run run_of(struct granule_backend *b, size_t first, size_t n)
{
    return (struct run){granule_address(b, first), n * GRANULE};
}

static inline void give(struct granule_backend *b, size_t first, size_t n)
{
    b->pending[0] = run_of(b, first, n);
    segment_give(&b->segments, &b->pending[0], nothing);
    assert_null(b->pending[0].start);
    assert_int_equal(b->pending[0].bytes, 0);
    assert_sound(b);
}

static inline segment_owner_id owner_of(struct granule_backend *b, size_t granule)
{
    return segment_owner(b->segments.map, granule_address(b, granule), NULL);
}

#define test_with_map(f) cmocka_unit_test_setup_teardown(f, make_map, drop_map)

#endif
