/* count.c - how much is cached, without a look at any block. */
#include "cache/depot.h"

static void add(struct cache_count *count, unsigned cls, size_t blocks)
{
    count->blocks += blocks;
    count->bytes += blocks * class_size(cls);
}

/* Enters each depot by itself, so that nobody waits for long. Entering repairs what the dead left
 * half done. */
static void add_stock(struct cache *cache, struct cache_count *count)
{
    for (unsigned cls = 0; cls < CACHE_CLASSES; cls++) {
        struct depot *d = depot_of(cache, cls);

        if (!depot_enter(cache, cls))
            continue;
        add(count, cls, d->stock_blocks);
        depot_leave(d);
    }
}

/* Without a lock: a lane's word says how many blocks its magazine has. */
static void add_lanes(const struct cache *cache, struct cache_count *count)
{
    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++)
        for (unsigned cls = 0; cls < CACHE_CLASSES; cls++) {
            word w = lane_word(cache, lane, cls);

            if (w != 0)
                add(count, cls, magazine_count(cls, w));
        }
}

void cache_count(struct cache *cache, struct cache_count *count)
{
    *count = (struct cache_count){0};
    if (cache->table->classes == 0)
        return;
    add_stock(cache, count);
    add_lanes(cache, count);
}
