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

static bool take(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                 size_t bytes)
{
    return segment_take(segments_of(source), owner_of(arena), kind, bytes, &arena->pending);
}

static bool take_placed(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                        size_t bytes, struct run_place place)
{
    return segment_take_placed(segments_of(source), owner_of(arena), kind, bytes, place,
                               &arena->pending);
}

static bool extend(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                   void *end, size_t bytes)
{
    return segment_take_at(segments_of(source), owner_of(arena), kind, end, bytes, &arena->pending);
}

static bool commit(const struct arena_source *source, struct arena *arena, enum run_kind kind)
{
    return segment_commit(segments_of(source), kind, arena->pending);
}

static size_t fresh(const struct arena_source *source, const struct arena *arena)
{
    return segment_fresh(segments_of(source), arena->pending);
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
        .source =
            {
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
            },
        .segments = segments,
    };
}
