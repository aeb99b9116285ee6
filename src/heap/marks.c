/* marks.c - the words in other parts of the region that changes of the granule map store to. */
#include "cache/place.h"
#include "heap/region.h"

/* The arena in whose slot the address lies; NULL: none, or its slot has no memory. */
static struct arena *arena_at(const struct region_marks *marks, const word *address)
{
    size_t offset = (uintptr_t)address - (uintptr_t)marks->arenas;
    size_t index = offset / marks->arena_stride;

    if (index >= marks->arenas_most || index >= marks->region->arenas.committed)
        return NULL;
    return &((struct arena_slot *)(void *)(marks->arenas + index * marks->arena_stride))->arena;
}

static struct depot *depot_at(const struct region_marks *marks, const word *address)
{
    size_t index = ((uintptr_t)address - (uintptr_t)marks->depots) / sizeof(struct depot);

    return marks->depots != NULL && index < CACHE_CLASSES ? &marks->depots[index] : NULL;
}

/* Whether `place` is a word that changes when units or granules are handed over (cache/place.h). */
static bool is_of_units(const struct depot *d, const void *place)
{
    return place == &d->units || place == &d->incoming || place == &d->pending.start ||
           place == &d->pending.bytes;
}

static bool guards(const struct journal_guard *guard, const word *address)
{
    const struct region_marks *marks = (const struct region_marks *)guard;
    const struct region *region = marks->region;
    const void *place = address;
    const struct arena *arena = arena_at(marks, address);
    const struct depot *depot = depot_at(marks, address);

    if (arena != NULL)
        return place == &arena->pending.start || place == &arena->pending.bytes ||
               place == &arena->holes;
    if (depot != NULL)
        return is_of_units(depot, place);
    return place == &region->arenas.committed || place == &region->roots.committed ||
           place == &region->cache.room || place == &region->cache.granules ||
           segment_has_memory_of(marks->map, CACHE_OWNER, address);
}

/* Not checked here: pending runs, units and the links of the cache's granules, all of which are
 * checked where they are used. */
static bool is_sound(const struct journal_guard *guard, const word *address)
{
    const struct region_marks *marks = (const struct region_marks *)guard;
    word room = marks->region->cache.room;

    (void)address;
    return marks->region->arenas.committed <= marks->arenas_most &&
           marks->region->roots.committed <= roots_most_bytes() &&
           (room == 0 || (room % GRANULE == 0 &&
                          segment_has_memory_of(marks->map, CACHE_OWNER, (const void *)room)));
}

struct region_marks region_marks(struct region *region)
{
    bool cached = region->cache_bytes != SIZE_MAX;

    return (struct region_marks){
        .guard = {guards, is_sound, 0},
        .region = region,
        .arenas = region->arenas.slots,
        .arena_stride = region->arenas.stride,
        .arenas_most = region->arenas.most,
        .depots = cached ? region->cache.depots : NULL,
        .map = region->map,
    };
}
