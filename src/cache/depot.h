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

/* Locks and, if the holder died, recovers. False: it is held for longer than a moment, or by the
 * calling thread, interrupted by a signal; it cannot be repaired just now; or the class was set
 * aside. */
bool depot_enter(struct cache *cache, unsigned class);

/* The same for who only takes stock away: all others make known that the depots may have some. */
bool depot_enter_to_drain(struct cache *cache, unsigned class);

/* The same for who looks at a class that may have been set aside. The second one waits as long as
 * it takes, also where the thread holds depots that it got by it, of lower classes. */
bool depot_enter_any(struct cache *cache, unsigned class);
bool depot_enter_patiently(struct cache *cache, unsigned class);
void depot_leave(struct depot *d);

/* Lists of magazines, linked by words; within the caller's transaction. */
void depot_list(struct depot *d, unsigned class, word *list, word w);
word depot_unlist(struct depot *d, unsigned class, word *list);

/* Whether the word is that of a magazine that was made. A walk along a list asks before each step,
 * and takes no more steps than there are magazines: links lie among what users could overwrite. */
static inline bool depot_has(const struct cache *cache, unsigned class, word w)
{
    return place_is_magazine(cache, class, w);
}

/* recover.c: undoes what the dead left; may be interrupted and repeated. DEPOT_NOT_NOW: a lock that
 * it needs is not to be had; DEPOT_DAMAGED: what is there cannot be theirs. */
enum depot_recovery { DEPOT_RECOVERED, DEPOT_NOT_NOW, DEPOT_DAMAGED };
enum depot_recovery depot_recover(struct cache *cache, unsigned class);

/* Lists the magazines of the unit that came last; a transaction of its own. */
void depot_make_magazines(struct depot *d, unsigned class);

/* Gives back the units of a class that has no magazines. */
void depot_give_units(struct cache *cache, unsigned class);

/* Each magazine of the class that holds blocks, in lanes and in stock, by its word; until the
 * visitor says false. Whether it never did. Of a class that was set aside, those in lanes. */
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
    journal_store(depot_journal(d), &d->transit_new, new);
    journal_store(depot_journal(d), &d->transit_old, old);
}

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

/* Whether this process uses lanes for that class just now. */
static inline bool cache_has_lanes(const struct cache *cache, unsigned class)
{
    return class < cache->table->classes && word_peek(&cache->table->tight) == 0 &&
           (cache->table->mode == CACHE_LOCKED || cache->view.exact_limit != 0);
}

/* trade.c: the CPU whose lane the thread uses. */
size_t cache_cpu(const struct cache *cache);

/* trade.c: replaces a lane's word `old` on this CPU by `w`, which is not in a list; both are named
 * in transit meanwhile. Commits what the caller changed so far. Whether it took place. */
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

/* Bytes in all depots, each at its own instant, and how many there may be: what the CPUs in use and
 * the heap's limit allow. */
size_t stock_bytes(const struct cache *cache);
size_t stock_bound(const struct cache *cache);

/* Where they have more, returns some. */
void stock_keep_bound(struct cache *cache, struct fault *fault);

#endif
