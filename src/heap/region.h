/* region.h - the layout of a heap's region.
 *
 *     | header | lanes | depots | granule map | roots | arenas | ... granules ................ |
 *     base                                                     granules          base + bytes
 *
 * Each part begins on a page of its own. The whole region is reserved. Only these parts are
 * committed: the header, lanes and depots (if there is a cache), the roots and arenas made so far,
 * the first pages of the granule map, and what the map hands out (segments, large blocks, and the
 * cache's magazines). So no part in front of the granules has much address space that stays empty.
 * Nothing here belongs to one process: no function pointers, no file descriptors, no process or
 * thread ids.
 *
 * The header is written once, but for the policy, whose numbers may change at any time, each by one
 * store. Whatever else changes has a lock beside it: see arenas.h, cache.h, segment.h.
 */
#ifndef DVSM_HEAP_REGION_H
#define DVSM_HEAP_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena/arenas.h"
#include "base/check.h"
#include "base/compiler.h"
#include "cache/cache.h"
#include "dvsm/dvsm.h"
#include "heap/roots.h"
#include "segment/segment.h"

#define REGION_MAGIC UINT64_C(0x6d737664) /* "dvsm" */
enum { REGION_VERSION = 7 };

/* What a file says of itself to whoever might map it: the same bytes for every version, word size
 * and byte order. */
struct region_identity {
    uint64_t magic; /* written last; 0: the heap is being made, or its maker died */
    uint32_t version;
    uint32_t word_bytes;
    uint32_t page_bytes;
    uint32_t lock_layout;   /* of the C library that made the locks */
    uint64_t base, bytes;   /* the range, in all processes */
    uint64_t pid_namespace; /* of all processes; 0: not known */
};

struct region {
    struct region_identity identity;
    char *base;
    size_t bytes;

    struct segment_map *map;
    char *granules;
    size_t granule_count;

    struct policy policy;
    size_t arenas_wanted; /* dvsm_options.arenas */
    size_t cache_bytes;   /* dvsm_options.cache_bytes */

    struct root_table roots;
    struct arena_table arenas;
    struct cache_table cache;
};

/* The least address space that a region can have. */
size_t region_least_bytes(void);

/* Writes header, cache and granule map at the start of a mapping that reads as zeros. The options
 * are complete. The magic is written last. Returns 0 or an errno value. */
int region_make(const dvsm_backend *backend, const dvsm_mapping *mapping,
                const dvsm_options *options);

/* The PID namespace of this process; 0: not known. Locks hold thread ids, so all processes of a
 * heap are in one. */
uint64_t region_pid_namespace(void);

/* Reads what a file says of itself. With `read_only` no lock of it will be taken. Returns 0 if this
 * process can map it, or an errno value: see
 * dvsm_heap_attach(). */
int region_identify(int fd, bool read_only, struct region_identity *identity);

/* Whether the region just mapped, from a file that ends `length` bytes behind its base, is what it
 * must be, as far as everything else goes by it. Nothing of it is believed. ENODATA: the file is
 * too short; EBADMSG: anything else. */
int region_may_open(const struct region *region, const dvsm_mapping *mapping, size_t length);

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
