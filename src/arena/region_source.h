/* region_source.h - an arena's memory from the granule map of a region: segment.h as a struct
 * arena_source.
 *
 * There is one for each process and region. The map knows an arena by its `id`.
 */
#ifndef DVSM_ARENA_REGION_SOURCE_H
#define DVSM_ARENA_REGION_SOURCE_H

#include "engine/arena.h"
#include "segment/segment.h"

struct region_source {
    struct arena_source source; /* what the engine sees */
    struct segments *segments;
    /* The words that arena_fill() and arena_take_back() may count in: `count` words, `stride`
     * apart. */
    struct {
        const char *first;
        size_t stride, count;
    } counters;
};

void region_source_init(struct region_source *source, struct segments *segments);

#endif
