/* region.h - the layout of a heap's region.
 *
 *     | header | lanes | depots | granule map | arenas | ... granules ........................ |
 *     base                                             granules                  base + bytes
 *
 * Each part begins on a page of its own. The whole region is reserved. Only these parts are
 * committed: the header, lanes and depots (if there is a cache), the arenas made so far, the first
 * pages of the granule map, and what the map hands out (segments, large blocks, and the cache's
 * magazines). So no part in front of the granules has much address space that stays empty. Nothing
 * here belongs to one process: no function pointers, no file descriptors, no process or thread ids.
 *
 * The header is written once, but for the policy, whose numbers may change at any time, each by one
 * store. Whatever else changes has a lock beside it: see arenas.h, cache.h, segment.h.
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
enum { REGION_VERSION = 6 };

struct region {
    word magic;
    size_t version;
    char *base;
    size_t bytes;

    struct segment_map *map;
    char *granules;
    size_t granule_count;

    struct policy policy;
    size_t arenas_wanted; /* dvsm_options.arenas */
    size_t cache_bytes;   /* dvsm_options.cache_bytes */

    struct arena_table arenas;
    struct cache_table cache;
};

/* The least address space that a region can have. */
size_t region_least_bytes(void);

/* Writes header, cache and granule map at the start of a mapping that reads as zeros. The options
 * are complete. The magic is written last. Returns 0 or an errno value. */
int region_make(const dvsm_backend *backend, const dvsm_mapping *mapping,
                const dvsm_options *options);

/* Bytes outside the granules that are committed now: the header and what always belongs to it, and
 * the arenas and magazines made so far. The granule map's own are not counted. */
size_t region_charged_bytes(const struct region *region);

/* The words outside the granule map that its changes store to: an arena's `pending`, and the marks
 * of how far arenas, stripes and stretches have memory. Each process has its own copy, taken when
 * the region was made. Recovery goes by this copy, whatever the header says by then. */
struct region_marks {
    struct journal_guard guard;
    struct region *region;
    char *arenas;
    size_t arena_stride, arenas_most;
    struct depot *depots; /* NULL: no cache */
    const struct segment_map *map;
};
struct region_marks region_marks(struct region *region);

/* Checks that each byte of the region is in the part that the header says. */
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
