/* region_source.c - the granule map as an arena's source. */
#include "arena/region_source.h"

static struct segments *segments_of(const struct arena_source *source)
{
    return ((const struct region_source *)source)->segments;
}

static segment_owner_id owner_of(const struct arena *arena)
{
    return (segment_owner_id)arena->id;
}

/* What is still on its way, since the map's lock could not be had to give it back, goes first. */
static bool none_pending(const struct arena_source *source, struct arena *arena)
{
    if (unlikely(arena->pending.bytes != 0))
        segment_give(segments_of(source), &arena->pending, (struct run){0});
    return likely(arena->pending.bytes == 0);
}

static bool take(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                 size_t bytes)
{
    return none_pending(source, arena) &&
           segment_take(segments_of(source), owner_of(arena), kind, bytes, &arena->pending);
}

static bool extend(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                   void *end, size_t bytes)
{
    return none_pending(source, arena) &&
           segment_take_at(segments_of(source), owner_of(arena), kind, end, bytes, &arena->pending);
}

static bool commit(const struct arena_source *source, struct arena *arena, enum run_kind kind)
{
    return segment_commit(segments_of(source), kind, arena->pending);
}

static void give(const struct arena_source *source, struct arena *arena, struct run keep)
{
    segment_give(segments_of(source), &arena->pending, keep);
}

static bool owns(const struct arena_source *source, const struct arena *arena, const void *address)
{
    return segment_owner(segments_of(source)->map, address, NULL) == owner_of(arena);
}

static bool in_segment(const struct arena_source *source, const struct arena *arena,
                       const void *address)
{
    enum run_kind kind;

    return segment_owner(segments_of(source)->map, address, &kind) == owner_of(arena) &&
           kind == RUN_SEGMENT;
}

static bool is_large_block(const struct arena_source *source, const struct arena *arena,
                           const void *start, const void *end)
{
    return segment_is_large_block(segments_of(source)->map, owner_of(arena), start, end);
}

void region_source_init(struct region_source *source, struct segments *segments)
{
    *source = (struct region_source){
        .source = {GRANULE, take, extend, commit, give, owns, in_segment, is_large_block},
        .segments = segments,
    };
}
