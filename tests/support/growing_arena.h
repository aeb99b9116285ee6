/* support/growing_arena.h - an arena over a real granule map; its source fails when a test says
 * so.
 *
 *     struct growing_arena *g = growing_arena_new(granules);
 *     struct arena_call call = growing_arena_call(g);
 *     growing_arena_fail(g, SOURCE_COMMIT, 2);          the second commit from now on
 *     void *p = arena_malloc(&call, 100);
 *     assert_int_equal(growing_arena_check(g), 0);
 */
#ifndef DVSM_TESTS_SUPPORT_GROWING_ARENA_H
#define DVSM_TESTS_SUPPORT_GROWING_ARENA_H

#include "arena/region_source.h"

enum source_call {
    SOURCE_TAKE,
    SOURCE_EXTEND,
    SOURCE_COMMIT,
    SOURCE_PUNCH,
    SOURCE_FILL,
    SOURCE_CALLS
};

enum { GROWING_ARENA_ID = 1, GROWING_HOLDER_ID = 2 };

struct growing_arena {
    /* Passes calls on to `region`; first, so that a pointer to it leads to the whole. */
    struct arena_source source;
    struct region_source region;
    struct policy policy;
    struct segments segments;
    const dvsm_backend *backend;
    dvsm_mapping mapping;
    char *granules; /* the first one; at a multiple of 64 MiB */
    struct arena *arena;
    unsigned long calls[SOURCE_CALLS];
    unsigned long fail_at[SOURCE_CALLS]; /* how many calls from now the failing one is; 0: none */
    size_t gives;
};

/* The arena's memory is anonymous, or what the backend gives. Aborts the test if the system has
 * no room. */
struct growing_arena *growing_arena_new(size_t granules);
struct growing_arena *growing_arena_new_over(size_t granules, const dvsm_backend *backend);
void growing_arena_delete(struct growing_arena *g);

struct arena_call growing_arena_call(struct growing_arena *g);

/* The k-th call of that kind from now on (1: the next) fails; with k = 0 none fails any more. */
void growing_arena_fail(struct growing_arena *g, enum source_call kind, unsigned long k);

/* Takes the lowest free run of so many granules for somebody else; growing_arena_unhold() gives
 * it back. */
struct run growing_arena_hold(struct growing_arena *g, size_t granules);
void growing_arena_unhold(struct growing_arena *g, struct run run);

/* arena_check() and segment_check(), with their reports on stderr; also checks that what the map
 * gives the arena is what the arena counts. Returns the number of violations. */
int growing_arena_check(struct growing_arena *g);

#endif
