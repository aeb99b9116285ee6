/* region.h - what lies where in a heap's region.
 *
 *     | header | lanes | depots | granule map | arenas | ... granules ........................ |
 *     base                                             granules                  base + bytes
 *
 * Each part begins on a page of its own. The whole is reserved; committed are the header, lanes and
 * depots (where there is a cache), the arenas made so far, the first pages of the granule map, and
 * what the map hands out: segments, large blocks, and the cache's magazines. So no part in front of
 * the granules has much address space that stays empty. Nothing here belongs to one process: no
 * function pointers, no file descriptors, no process or thread ids.
 *
 * The header is written once; what changes has its lock beside it: see arenas.h, cache.h,
 * segment.h.
 */
#ifndef DVSM_HEAP_REGION_H
#define DVSM_HEAP_REGION_H

#include <stdbool.h>
#include <stddef.h>

#include "arena/arenas.h"
#include "base/check.h"
#include "base/compiler.h"
#include "cache/cache.h"
#include "dvsm/dvsm.h"
#include "segment/segment.h"

#define REGION_MAGIC ((word)0x6d737664) /* "dvsm" */
enum { REGION_VERSION = 4 };

struct region {
    word magic;
    size_t version;
    char *base;
    size_t bytes;

    struct segment_map *map;
    char *granules;
    size_t granule_count;

    size_t arenas_wanted; /* dvsm_options.arenas */
    size_t cache_bytes;   /* dvsm_options.cache_bytes */

    struct arena_table arenas;
    struct cache_table cache;
};

/* Address space that a region must have at least. */
size_t region_least_bytes(void);

/* Writes header, cache and granule map at the start of the mapping, which reads as zeros, as the
 * options (complete) say. 0 or an errno value. The magic is written last. */
int region_make(const dvsm_backend *backend, const dvsm_mapping *mapping,
                const dvsm_options *options);

/* Bytes outside the granules that are committed now: the header and what belongs to it for good,
 * the arenas and magazines made so far; not the granule map's own. */
size_t region_charged_bytes(const struct region *region);

/* The words outside the granule map that its changes store: an arena's `pending`, and what marks
 * how far the arenas, stripes and stretches have memory. A process's own, taken when the region was
 * made: recovery goes by it, whatever the header says then. */
struct region_marks {
    struct journal_guard guard;
    struct region *region;
    char *arenas;
    size_t arena_stride, arenas_most;
    struct depot *depots; /* NULL: no cache */
    const struct segment_map *map;
};
struct region_marks region_marks(struct region *region);

/* That each byte of the region is in the part that the header says. */
void region_check(const struct region *region, struct check *check);

static inline size_t region_arena_count(const struct region *region)
{
    return arenas_count(&region->arenas);
}

static inline struct arena_slot *region_arena(const struct region *region, size_t index)
{
    return arenas_slot(&region->arenas, index);
}

#endif
