/* region.h - what lies where in a heap's region.
 *
 *     | header | arenas[] | lanes[] | depots[] | granule map | ... granules ..................... |
 *     base                                                    granules                base + bytes
 *
 * Each part begins on a page of its own. The whole is reserved; committed are the header, the
 * arenas made so far, the first pages of the granule map, and what the map hands out. Nothing here
 * belongs to one process: no function pointers, no file descriptors, no process or thread ids.
 *
 * The header's lock guards the making of arenas and the limit. It is taken while no other lock is
 * held; the map's may be taken inside. It needs no journal: each change ends in one store.
 */
#ifndef DVSM_HEAP_REGION_H
#define DVSM_HEAP_REGION_H

#include <stdbool.h>
#include <stddef.h>

#include "arena/arena.h"
#include "base/compiler.h"
#include "base/lock.h"
#include "cache/cache.h"
#include "segment/segment.h"

#define REGION_MAGIC ((word)0x6d737664) /* "dvsm" */
enum { REGION_VERSION = 1 };

/* One arena and its lock, alone on its pages. Its number in the map, arena.id, is 1 + its index. */
struct arena_slot {
    struct lock lock;
    size_t recoveries; /* times that the lock was found held by the dead */
    struct arena arena;
};

struct region {
    word magic;
    size_t version;
    char *base;
    size_t bytes;

    char *arenas;
    size_t arena_stride; /* from one slot to the next */
    size_t arenas_most;
    struct lane *lanes;
    size_t cpus; /* how many lanes */
    struct depot *depots;
    struct segment_map *map;
    char *granules;
    size_t granule_count;

    size_t arenas_wanted; /* dvsm_options.arenas */
    size_t cache_bytes;   /* dvsm_options.cache_bytes */

    struct lock lock;
    size_t arena_count; /* made so far; grows only, read without the lock */
    size_t limit;       /* bytes that may be committed; SIZE_MAX: no limit */
};

/* Address space that a region must have at least. */
size_t region_least_bytes(void);

/* Writes header and granule map at the start of the mapping, which reads as zeros. 0 or an errno
 * value. The magic is written last. */
int region_make(const dvsm_backend *backend, const dvsm_mapping *mapping);

/* Bytes committed outside the granules. */
size_t region_metadata_bytes(const struct region *region);

/* Makes arena `index`, the next one, unless another process or thread just did. False: no memory,
 * or as many as there can be. */
bool region_make_arena(struct segments *segments, struct region *region, size_t index);

/* Sets how much may be committed, metadata included; returns it, rounded up to granules. */
size_t region_set_limit(struct segments *segments, struct region *region, size_t bytes);

static inline size_t region_arena_count(const struct region *region)
{
    return __atomic_load_n(&region->arena_count, __ATOMIC_ACQUIRE);
}

static inline struct arena_slot *region_arena(const struct region *region, size_t index)
{
    return (struct arena_slot *)(void *)(region->arenas + index * region->arena_stride);
}

#endif
