/* growing_arena.c - an arena over a granule map of anonymous memory. */
#include "support/growing_arena.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/bits.h"

#define FIRST_AT_MULTIPLE_OF ((size_t)64 << 20)

static struct growing_arena *whole(const struct arena_source *source)
{
    return (struct growing_arena *)(uintptr_t)source;
}

static bool fails(struct growing_arena *g, enum source_call kind)
{
    g->calls[kind]++;
    return g->fail_at[kind] != 0 && --g->fail_at[kind] == 0;
}

static bool take(const struct arena_source *source, struct arena *a, enum run_kind kind,
                 size_t bytes)
{
    struct growing_arena *g = whole(source);

    return !fails(g, SOURCE_TAKE) && g->region.source.take(&g->region.source, a, kind, bytes);
}

static bool take_placed(const struct arena_source *source, struct arena *a, enum run_kind kind,
                        size_t bytes, struct run_place place)
{
    struct growing_arena *g = whole(source);

    return !fails(g, SOURCE_TAKE) &&
           g->region.source.take_placed(&g->region.source, a, kind, bytes, place);
}

static bool extend(const struct arena_source *source, struct arena *a, enum run_kind kind,
                   void *end, size_t bytes)
{
    struct growing_arena *g = whole(source);

    return !fails(g, SOURCE_EXTEND) &&
           g->region.source.extend(&g->region.source, a, kind, end, bytes);
}

static bool commit(const struct arena_source *source, struct arena *a, enum run_kind kind)
{
    struct growing_arena *g = whole(source);

    return !fails(g, SOURCE_COMMIT) && g->region.source.commit(&g->region.source, a, kind);
}

static size_t fresh(const struct arena_source *source, const struct arena *a)
{
    struct growing_arena *g = whole(source);

    return g->region.source.fresh(&g->region.source, a);
}

static void give(const struct arena_source *source, struct arena *a, struct run keep)
{
    struct growing_arena *g = whole(source);

    g->gives++;
    g->region.source.give(&g->region.source, a, keep);
}

static bool owns(const struct arena_source *source, const struct arena *a, const void *address)
{
    struct growing_arena *g = whole(source);

    return g->region.source.owns(&g->region.source, a, address);
}

static bool in_segment(const struct arena_source *source, const struct arena *a,
                       const void *address)
{
    struct growing_arena *g = whole(source);

    return g->region.source.in_segment(&g->region.source, a, address);
}

static bool is_large_block(const struct arena_source *source, const struct arena *a,
                           const void *start, const void *end)
{
    struct growing_arena *g = whole(source);

    return g->region.source.is_large_block(&g->region.source, a, start, end);
}

static size_t punch(const struct arena_source *source, struct arena *a, char *start, char *end)
{
    struct growing_arena *g = whole(source);

    return fails(g, SOURCE_PUNCH) ? 0 : g->region.source.punch(&g->region.source, a, start, end);
}

static bool has_holes(const struct arena_source *source, const char *start, const char *end)
{
    return whole(source)->region.source.has_holes(&whole(source)->region.source, start, end);
}

static bool fill(const struct arena_source *source, struct arena *a, char *start, char *end)
{
    struct growing_arena *g = whole(source);

    return !fails(g, SOURCE_FILL) && g->region.source.fill(&g->region.source, a, start, end);
}

static void must(bool done, const char *what)
{
    if (done)
        return;
    perror(what);
    abort();
}

static void start_map(struct growing_arena *g, size_t granules)
{
    const dvsm_backend *backend = g->backend;
    size_t map_bytes = segment_map_bytes(granules);

    g->mapping = (dvsm_mapping){
        .bytes = bits_round_up(map_bytes, GRANULE) + FIRST_AT_MULTIPLE_OF + granules * GRANULE,
        .fd = -1,
    };
    must(backend->reserve(backend, &g->mapping) == 0, "growing_arena_new: reserve");

    char *place = g->mapping.base;
    g->granules = (char *)bits_round_up((size_t)(uintptr_t)place + map_bytes, FIRST_AT_MULTIPLE_OF);
    must(backend->commit(backend, &g->mapping, place, segment_map_committed_bytes()) == 0 &&
             segment_init(place, g->granules, granules, SIZE_MAX) == 0,
         "growing_arena_new: the map");
    g->segments = (struct segments){
        .map = (struct segment_map *)(void *)place,
        .backend = backend,
        .mapping = &g->mapping,
        .policy = &g->policy,
    };
    policy_set_defaults(&g->policy);
}

struct growing_arena *growing_arena_new(size_t granules)
{
    return growing_arena_new_over(granules, &dvsm_backend_anon);
}

struct growing_arena *growing_arena_new_over(size_t granules, const dvsm_backend *backend)
{
    struct growing_arena *g = calloc(1, sizeof *g);

    must(g != NULL, "growing_arena_new");
    g->backend = backend;
    g->arena = calloc(1, sizeof *g->arena);
    must(g->arena != NULL, "growing_arena_new");
    start_map(g, granules);
    region_source_init(&g->region, &g->segments);
    g->source = (struct arena_source){
        .unit = GRANULE,
        .take = take,
        .take_placed = take_placed,
        .extend = extend,
        .commit = commit,
        .fresh = fresh,
        .give = give,
        .owns = owns,
        .in_segment = in_segment,
        .is_large_block = is_large_block,
        .punch = punch,
        .fill = fill,
        .has_holes = has_holes,
        .page = segment_page(g->segments.map),
    };
    arena_init(g->arena, GROWING_ARENA_ID);
    return g;
}

void growing_arena_delete(struct growing_arena *g)
{
    g->backend->unmap(g->backend, &g->mapping, 1);
    free(g->arena);
    free(g);
}

struct arena_call growing_arena_call(struct growing_arena *g)
{
    return (struct arena_call){.arena = g->arena, .source = &g->source};
}

void growing_arena_fail(struct growing_arena *g, enum source_call kind, unsigned long k)
{
    g->fail_at[kind] = k;
}

struct run growing_arena_hold(struct growing_arena *g, size_t granules)
{
    struct run run = {0};

    segment_take(&g->segments, GROWING_HOLDER_ID, RUN_SEGMENT, granules * GRANULE, &run);
    return run;
}

void growing_arena_unhold(struct growing_arena *g, struct run run)
{
    segment_give(&g->segments, &run, (struct run){0});
}

struct owned {
    size_t segments, large;
};

static void add_run(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    struct owned *owned = context;

    if (owner != GROWING_ARENA_ID)
        return;
    if (kind == RUN_SEGMENT)
        owned->segments += run.bytes;
    else
        owned->large += run.bytes;
}

int growing_arena_check(struct growing_arena *g)
{
    struct check check = {.report = stderr};
    struct owned owned = {0};

    arena_check(g->arena, &check);
    segment_check(&g->segments, &check);
    segment_walk(&g->segments, add_run, &owned);
    check_that(&check, segment_count_holes(&g->segments, GROWING_ARENA_ID) == g->arena->holes,
               "the map has %zu holes of the arena's, it counts %zu",
               segment_count_holes(&g->segments, GROWING_ARENA_ID), (size_t)g->arena->holes);
    check_that(&check, owned.large == g->arena->large_bytes,
               "the map has %zu bytes of large blocks, the arena %zu", owned.large,
               g->arena->large_bytes);
    check_that(&check, owned.segments + owned.large == g->arena->footprint,
               "the map has %zu bytes of the arena's, its footprint is %zu",
               owned.segments + owned.large, g->arena->footprint);
    return check.violations;
}
