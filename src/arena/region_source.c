/* region_source.c - the granule map as an arena's source. */
#include "arena/region_source.h"

#include "arena/arenas.h"

static struct segments *segments_of(const struct arena_source *source)
{
    return ((const struct region_source *)source)->segments;
}

static segment_owner_id owner_of(const struct arena *arena)
{
    return (segment_owner_id)arena->id;
}

/* Gives back a run that is still pending because the map's lock could not be had earlier. True:
 * nothing is pending any more. */
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

static bool take_placed(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                        size_t bytes, struct run_place place)
{
    return segment_take_placed(segments_of(source), owner_of(arena), kind, bytes, place,
                               &arena->pending);
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

static size_t fresh(const struct arena_source *source, const struct arena *arena)
{
    return segment_fresh(segments_of(source), arena->pending);
}

static void give(const struct arena_source *source, struct arena *arena, struct run keep)
{
    segment_give_holed(segments_of(source), &arena->pending, keep, &arena->holes);
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

static size_t punch(const struct arena_source *source, struct arena *arena, char *start, char *end)
{
    return segment_punch(segments_of(source), start, end, &arena->holes);
}

static bool fill(const struct arena_source *source, struct arena *arena, char *start, char *end)
{
    return segment_fill(segments_of(source), start, end, &arena->holes);
}

static bool has_holes(const struct arena_source *source, const char *start, const char *end)
{
    return segment_has_holes(segments_of(source)->map, start, end);
}

/* The word `reaping` of the arena's slot (remote.h). */
static const word *reaping_of(const struct arena *arena)
{
    const char *slot = (const char *)arena - offsetof(struct arena_slot, arena);

    return (const word *)(const void *)(slot + offsetof(struct arena_slot, reaping));
}

static bool may_store(const struct arena_source *source, const struct arena *arena,
                      const word *address)
{
    const struct region_source *s = (const struct region_source *)source;
    size_t offset = (uintptr_t)address - (uintptr_t)s->counters.first;

    if (address == reaping_of(arena))
        return true;

    if (s->counters.count > 0 && offset < s->counters.count * s->counters.stride)
        return offset % s->counters.stride == 0;
    return segment_has_memory_of(s->segments->map, owner_of(arena), address);
}

/* ---- recovery: whether the arena's own words lead to memory of its segments ------------------ */

/* Whether a chunk of that size may be at that place; size 0 means no chunk, which is fine. */
static bool may_be_chunk(const struct arena_source *s, const struct arena *a, const void *c,
                         size_t size)
{
    if (size == 0)
        return true;
    return chunk_is_aligned(c) && size <= a->footprint && size % CHUNK_ALIGN == 0 &&
           in_segment(s, a, c) && in_segment(s, a, (const char *)c + size - 1);
}

/* Whether `place` may be a link: NULL, or the place of a chunk or record. */
static bool may_be_link(const struct arena_source *s, const struct arena *a, const void *place)
{
    return place == NULL || (chunk_is_aligned(place) && in_segment(s, a, place));
}

static bool may_be_segment(const struct arena_source *s, const struct arena *a)
{
    const struct arena_segment *newest = &a->segment;

    if (newest->size == 0)
        return true;
    return (uintptr_t)newest->base % GRANULE == 0 && newest->size % GRANULE == 0 &&
           newest->size <= a->footprint && in_segment(s, a, newest->base) &&
           in_segment(s, a, newest->base + newest->size - 1) && may_be_link(s, a, newest->next);
}

/* A list's end leads to the list's own head, which lies among the bins. */
static bool may_be_listed(const struct arena_source *s, const struct arena *a, const void *place)
{
    const char *bins = (const char *)&a->bins;

    return (uintptr_t)place - (uintptr_t)bins < sizeof a->bins || may_be_link(s, a, place);
}

static bool may_be_bins(const struct arena_source *s, const struct arena *a)
{
    const struct segment_map *map = segments_of(s)->map;
    const struct bins *b = &a->bins;
    bool good = b->span == 0 || segment_holds(map, b->low, b->span);

    for (size_t i = 0; i < BINS_SMALL && good; i++)
        good = may_be_listed(s, a, b->small[i].fd) && may_be_listed(s, a, b->small[i].bk);
    for (size_t i = 0; i < BINS_TREE && good; i++)
        good = may_be_link(s, a, b->tree[i]);
    return good;
}

static bool recover(const struct arena_source *source, struct arena *arena)
{
    segment_settle(segments_of(source));
    return arena->large_bytes <= arena->footprint && may_be_segment(source, arena) &&
           may_be_chunk(source, arena, arena->dv, arena->dv_size) &&
           may_be_chunk(source, arena, arena->top, arena->top_size) && may_be_bins(source, arena) &&
           segment_recover(segments_of(source), owner_of(arena), &arena->pending, &arena->holes);
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
                .may_store = may_store,
                .recover = recover,
                .punch = punch,
                .fill = fill,
                .has_holes = has_holes,
                .page = segment_page(segments->map),
            },
        .segments = segments,
    };
}
