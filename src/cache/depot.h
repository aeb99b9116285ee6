/* depot.h - what the cache's files share: a depot's lock, lists, transit, magazines. */
#ifndef DVSM_CACHE_DEPOT_H
#define DVSM_CACHE_DEPOT_H

#include "cache/cache.h"
#include "cache/place.h"

static inline struct depot *depot_of(const struct cache *cache, unsigned class)
{
    return &cache->table->depots[class];
}

static inline size_t depot_bytes(const struct depot *d, unsigned class)
{
    return word_peek(&d->stock_blocks) * class_size(class);
}

/* Locks and, if the holder died, recovers. False: it is held for longer than a moment, or by the calling
 * thread, interrupted by a signal; or it cannot be repaired just now. The second one waits as long as it
 * takes, also where the thread holds depots that it got by it, of lower classes. */
bool depot_enter(struct cache *cache, unsigned class);
bool depot_enter_patiently(struct cache *cache, unsigned class);
void depot_leave(struct depot *d);

/* Lists of magazines, linked by words; within the caller's transaction. */
void depot_list(struct depot *d, unsigned class, word *list, word w);
word depot_unlist(struct depot *d, unsigned class, word *list);

/* Whether the word is that of a magazine that was made. A walk along a list asks before each step, and
 * takes no more steps than there are magazines: links lie among what users could overwrite. */
static inline bool depot_has(const struct cache *cache, unsigned class, word w)
{
    return w != 0 &&
           magazine_number(cache->table, class, w) < word_peek(&depot_of(cache, class)->made);
}

/* Each magazine of the class that holds blocks, in lanes and in stock, by its word; until the visitor
 * says false. Whether it never did. */
typedef bool (*depot_visit)(void *context, unsigned class, word w);
bool depot_walk(const struct cache *cache, unsigned class, depot_visit visit, void *context);

/* A CPU's shelf; the first one from there on that has stock, or DEPOT_SHELVES. */
static inline size_t shelf_of(size_t cpu)
{
    return cpu % DEPOT_SHELVES;
}
size_t depot_find_stock(const struct depot *d, size_t shelf);

/* Puts a magazine that is in no place to the stock or to the empty ones; 0: nothing. */
void depot_put_away(struct depot *d, unsigned class, size_t shelf, word w);
word depot_take_stock(struct depot *d, unsigned class, size_t shelf);

/* Ends what transit named: `outside` is put away, all of it committed. */
void depot_end_transit(struct depot *d, unsigned class, size_t shelf, word outside);

static inline void depot_set_transit(struct depot *d, word new, word old)
{
    journal_store(&d->journal, &d->transit_new, new);
    journal_store(&d->journal, &d->transit_old, old);
}

/* How many magazines of the class there is memory for. */
size_t depot_room(const struct cache *cache, unsigned class);

/* Sees to it that there is an empty magazine in the list; a transaction of its own. */
bool depot_provide_empty(struct cache *cache, unsigned class);

/* Gives up all magazines and their memory, if none is used. */
void depot_shrink(struct cache *cache, unsigned class);

/* Whether the word's magazine is in a lane. */
bool depot_is_loaded(const struct cache *cache, unsigned class, word w);

static inline word lane_word(const struct cache *cache, size_t cpu, unsigned class)
{
    return __atomic_load_n(&cache->table->lanes[cpu].loaded[class], __ATOMIC_RELAXED);
}

/* Whether this process uses lanes for that class. */
static inline bool cache_has_lanes(const struct cache *cache, unsigned class)
{
    return class < cache->table->classes &&
           (cache->table->mode == CACHE_LOCKED || cache->view.exact_limit != 0);
}

/* trade.c: replaces a lane's word `old` on this CPU by `w`, which is not in a list; both are named in
 * transit meanwhile. Commits what the caller changed so far. Whether it took place. */
bool cache_trade(struct cache *cache, unsigned class, size_t cpu, word old, word w);

/* The slow paths proper, for a class that is cached. */
void *cache_refill(struct cache *cache, unsigned class, struct fault *fault);
bool cache_spill(struct cache *cache, unsigned class, void *block);

/* stock.c: a magazine with as many blocks as the demand asks for, named in transit_new and so
 * committed; 0 or an empty one where no arena has any. */
enum fill_from {
    FILL_FROM_OWN, /* the CPU's arena, as it is */
    FILL_FROM_ANY, /* any, as it is */
    FILL_GROWING   /* the CPU's arena, which may grow */
};
word stock_fill(struct cache *cache, unsigned class, enum fill_from from, bool *short_of_memory,
                struct fault *fault);

/* Returns up to `magazines` of a class's stock to the arenas; how many. */
size_t stock_drain(struct cache *cache, unsigned class, size_t magazines, struct fault *fault);

/* Returns at least `bytes` of the largest stocks, as far as there are any; how many. */
size_t stock_reduce(struct cache *cache, size_t bytes, struct fault *fault);

/* Bytes in all depots, each at its own instant. */
size_t stock_bytes(const struct cache *cache);

#endif
