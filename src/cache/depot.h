/* depot.h - what the cache's files share: a depot's lock, lists, transit, magazines. */
#ifndef DVSM_CACHE_DEPOT_H
#define DVSM_CACHE_DEPOT_H

#include "cache/cache.h"
#include "cache/place.h"

static inline const struct policy *policy_of(const struct cache *cache)
{
    return cache->segments->policy;
}

static inline struct depot *depot_of(const struct cache *cache, unsigned cls)
{
    return &cache->table->depots[cls];
}

/* Stores to a word that the depot's lock guards, through the depot's journal. */
#define depot_store(d, field, value)                                                               \
    journal_store_within(depot_journal(d), JOURNAL_SHORT_CAPACITY, field, value)

static inline size_t depot_bytes(const struct depot *d, unsigned cls)
{
    return word_peek(&d->stock_blocks) * class_size(cls);
}

/* Locks the depot and, if its holder died, repairs it. False: the lock is held for longer than a
 * moment, or by the calling thread, interrupted by a signal; or the depot cannot be repaired just
 * now; or the class was set aside. */
bool depot_enter(struct cache *cache, unsigned cls);

/* The same for a caller that only takes stock away. Every other caller makes known that the depots
 * may have some stock. */
bool depot_enter_to_drain(struct cache *cache, unsigned cls);

/* The same for a caller that looks at a class even if it was set aside. The second one waits as
 * long as it takes. The thread may then hold depots of lower classes that it got by the same
 * function. */
bool depot_enter_any(struct cache *cache, unsigned cls);
bool depot_enter_patiently(struct cache *cache, unsigned cls);
void depot_leave(struct depot *d);

/* Lists of magazines, linked by words; within the caller's transaction. */
void depot_list(struct depot *d, unsigned cls, word *list, word w);
word depot_unlist(struct depot *d, unsigned cls, word *list);

/* Whether the word is that of a magazine that was made. A walk along a list asks before each step,
 * and takes no more steps than there are magazines, because the links lie where users could
 * overwrite them. */
static inline bool depot_has(const struct cache *cache, unsigned cls, word w)
{
    return place_is_magazine(cache, cls, w);
}

/* recover.c: undoes what the dead left; may be interrupted and repeated. `patiently`: waits for an
 * arena as long as it takes. DEPOT_NOT_NOW: a lock that it needs is not to be had; DEPOT_DAMAGED:
 * what the depot holds cannot be theirs. */
enum depot_recovery { DEPOT_RECOVERED, DEPOT_NOT_NOW, DEPOT_DAMAGED };
enum depot_recovery depot_recover(struct cache *cache, unsigned cls, bool patiently);

/* Puts the magazines of the unit that came last into the list of empty ones; a transaction of its
 * own. */
void depot_make_magazines(struct depot *d, unsigned cls);

/* Gives back the units of a class that has no magazines. */
void depot_give_units(struct cache *cache, unsigned cls);

/* Visits each magazine of the class that holds blocks, in lanes and in stock, by its word, until
 * the visitor returns false. True if it never did. If the class was set aside, visits only those in
 * lanes. */
typedef bool (*depot_visit)(void *context, unsigned cls, word w);
bool depot_walk(const struct cache *cache, unsigned cls, depot_visit visit, void *context);

/* A CPU's group. depot_find_stock: the first group from `group` on that has stock, or
 * CPU_GROUPS. */
static inline size_t cpu_group_of(size_t cpu)
{
    return cpu % CPU_GROUPS;
}
size_t depot_find_stock(const struct depot *d, size_t group);

/* Puts a magazine that is nowhere else into the stock or among the empty ones; w = 0: does
 * nothing. */
void depot_put_away(struct depot *d, unsigned cls, size_t group, word w);
word depot_take_stock(struct depot *d, unsigned cls, size_t group);

/* Clears transit: puts `outside` away and commits, all in one transaction. */
void depot_end_transit(struct depot *d, unsigned cls, size_t group, word outside);

static inline void depot_set_transit(struct depot *d, word new, word old)
{
    depot_store(d, &d->transit_new, new);
    depot_store(d, &d->transit_old, old);
}

/* Makes magazines if the depot has no empty one; a transaction of its own. Whether it has one
 * now. */
bool depot_provide_empty(struct cache *cache, unsigned cls);

/* Gives up all magazines of the class and their memory, if none is used. */
void depot_shrink(struct cache *cache, unsigned cls);

/* Whether the word's magazine is in a lane. */
bool depot_is_loaded(const struct cache *cache, unsigned cls, word w);

/* Lanes have numbers: a CPU's own, and of a second lane the CPU's plus how many CPUs there are. */
static inline word lane_word(const struct cache *cache, size_t lane, unsigned cls)
{
    return __atomic_load_n(&cache->table->lanes[lane].loaded[cls], __ATOMIC_RELAXED);
}

/* Whether the lane may have blocks. */
static inline bool lane_is_filled(const struct cache *cache, size_t lane)
{
    return __atomic_load_n(&cache->table->lanes[lane].filled, __ATOMIC_ACQUIRE) != 0;
}

/* Whether this process uses lanes for that class just now. */
static inline bool cache_has_lanes(const struct cache *cache, unsigned cls)
{
    return cls < cache->table->classes && word_peek(&cache->table->tight) == 0 &&
           cache->view.mode != LANES_NONE;
}

/* exchange.c: the CPU whose lane the thread uses. */
size_t cache_cpu(const struct cache *cache);

/* exchange.c: the lane into which that CPU frees. */
size_t cache_freeing_lane(const struct cache *cache, size_t cpu);

/* exchange.c: replaces the word `old` of a lane of this CPU by `w`, which is in no list; both are
 * named in transit meanwhile. Commits what the caller changed so far. Whether the exchange took
 * place. */
bool cache_exchange(struct cache *cache, unsigned cls, size_t lane, word old, word w);

/* By which view a process enters that lane, and whose CPU's it is. */
static inline const struct lane_view *cache_view_of(const struct cache *cache, size_t lane)
{
    return lane < cache->table->cpus ? &cache->view : &cache->freeing;
}

static inline size_t cache_cpu_of(const struct cache *cache, size_t lane)
{
    return lane < cache->table->cpus ? lane : lane - cache->table->cpus;
}

/* The slow paths proper, for a class that is cached. */
void *cache_refill(struct cache *cache, unsigned cls, struct fault *fault);
bool cache_spill(struct cache *cache, unsigned cls, void *block);

/* cache_holds() for a marked block of the class, whose depot is locked. */
bool cache_has(const struct cache *cache, unsigned cls, const void *block);

/* stock.c: fills the blocks of a magazine that nobody else can reach, if the heap is hardened. */
void cache_harden(const struct cache *cache, unsigned cls, word w);

/* stock.c: a magazine with as many blocks as the demand asks for, named in transit_new and so
 * committed. 0 or an empty magazine if no arena has any blocks. */
enum fill_from {
    FILL_FROM_OWN, /* the CPU's arena, as it is */
    FILL_FROM_ANY, /* any arena, as it is */
    FILL_GROWING   /* the CPU's arena, which may grow */
};
word stock_fill(struct cache *cache, unsigned cls, enum fill_from from, bool *short_of_memory,
                struct fault *fault);

/* Returns up to `magazines` magazines of a class's stock to the arenas. Returns how many. */
size_t stock_drain(struct cache *cache, unsigned cls, size_t magazines, struct fault *fault);

/* Returns at least `bytes` of the largest stocks to the arenas, as far as there are any. Returns
 * how many. */
size_t stock_reduce(struct cache *cache, size_t bytes, struct fault *fault);

/* stock_bytes: bytes in all depots, each counted at its own instant. stock_bound: how many there
 * may be, by the number of CPUs in use and the heap's limit. */
size_t stock_bytes(const struct cache *cache);
size_t stock_bound(const struct cache *cache);

/* If the depots have more than the bound, returns some to the arenas. */
void stock_keep_bound(struct cache *cache, struct fault *fault);

#endif
