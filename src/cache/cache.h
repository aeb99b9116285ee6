/* cache.h - stocks of free blocks in front of the arenas: lanes, depots, magazines.
 *
 * The cache belongs to CPUs, never to a process or thread, so that nobody's death loses anything and
 * what is cached is bounded by CPUs, not by processes. To the arena a cached block is in use.
 * Block caching by size class is nedmalloc's idea (Niall Douglas), magazines and depots are
 * Bonwick's (Magazines and Vmem, USENIX 2001), lanes tcmalloc's per-CPU mode.
 *
 *     lane        one a CPU: a loaded magazine for each class (lane.h). The fast path ends here
 *     magazine    a page of pointers to free blocks (magazine.h)
 *     depot       one a class, behind a robust lock with its own journal, the outermost in the lock
 *                 order: a stock of magazines that hold blocks, and of empty ones
 *
 *         thread <-- pop/push --> lane <-- trade --> depot <-- fill/drain --> arenas
 *
 * A trade gives an empty lane a magazine from the stock, and a full one is exchanged for one that has
 * room. Where the last trade on the CPU's shelf went the other way, what goes into the lane is at most half
 * full (a fuller one is split), so that at least 31 operations pass between two trades whichever
 * comes next; where it went the same way, a whole one or an empty one.
 * Nobody waits for a depot for longer than a moment: its holder may be stopped. Its class is then served
 * by the arenas. Functions that look at the whole cache wait.
 * A CPU without stock of its own has a magazine filled by its arena, if that need not grow; else takes
 * another's stock; else has any arena fill one. Blocks return to their arenas when the
 * depots hold more than `bound`, before an arena grows, on trim, and when memory is short.
 *
 * Crash safety (each block and each magazine is at any instruction in just one place):
 *  - a lane's word changes by one store.
 *  - a trade: one depot transaction takes the new magazine off its list and names it and the lane's
 *    old word in `transit`; the lane's word is exchanged; a second one puts whichever of the two is
 *    outside now away and clears `transit`. NB: magazines of a class enter and leave lanes only under
 *    its depot's lock, so a survivor finds out which by looking through the lanes.
 *  - a depot is repaired by whoever takes its lock next, if the arena and the map that the dead was working
 *    on can be looked at then; else `recovering` stays, and the next one does it.
 *  - fill and drain: the arena's transaction, in the arena's journal, moves the block and counts it
 *    in `transit_new`. A survivor has that arena's journal rolled back before it looks.
 *
 * A freed block begins with its mark, which names the slot that the block is in and is no more one when
 * it is handed out (magazine.h). The mark is a hint: cache_holds() looks at the slot.
 */
#ifndef DVSM_CACHE_CACHE_H
#define DVSM_CACHE_CACHE_H

#include "arena/arenas.h"
#include "base/check.h"
#include "base/journal.h"
#include "base/lock.h"
#include "cache/lane.h"
#include "cache/magazine.h"
#include "segment/segment.h"

/* A depot's stock lies on shelves, each for some of the CPUs: blocks stay with the CPU that had them, as
 * long as they can. Neighbours in memory then are, too, and a line that holds the end of one block and the
 * header of the next is not sent to and fro. */
enum { DEPOT_SHELVES = 8 };

struct depot {
    struct lock lock;
    struct journal journal;
    word stock[DEPOT_SHELVES]; /* lists of magazines that hold blocks */
    size_t stock_magazines;    /* their length */
    size_t stock_blocks;       /* in all of them */
    word empty;                /* list of magazines that hold none */
    word transit_new;          /* on its way into a lane, or being filled or drained; 0: none */
    word transit_old;          /* the word of a lane that transit_new (0: nothing) is to replace */
    size_t arena;              /* id of the arena whose change may be counting in transit_new */
    size_t made;               /* magazines, in stripes and in the class's stretch (place.h) */
    size_t ready;              /* bytes of the stretch that are committed */
    size_t releasing;          /* up to here, from `ready` on, memory is being released; 0: no */
    size_t demand;             /* how often it was filled: decides how many blocks come at once */
    size_t last_trade[DEPOT_SHELVES]; /* enum trade: a hint */
    size_t foreign;    /* so many times more others' stock comes before the arena: a hint */
    size_t recovering; /* 1: a holder died, and what it left is not repaired yet */
    size_t stuck;      /* 1: a hint: somebody waited for the lock in vain since its holder came */
};

enum trade { TRADE_REFILL, TRADE_SPILL };
enum cache_mode { CACHE_LOCKED, CACHE_SEQUENCES };

/* In the region. */
struct cache_table {
    size_t mode;          /* enum cache_mode */
    size_t cpus;          /* how many lanes */
    size_t classes;       /* from this one on, lanes are not used */
    size_t bound;         /* bytes in depots */
    size_t area;          /* bytes of a class's stretch; a power of two */
    size_t stripes;       /* how many */
    size_t stripes_ready; /* of them, committed */
    char *magazines;      /* stripes, then stretches */
    struct lane *lanes;
    struct depot *depots;
};

/* What a process needs to work on it. Private to the process. */
struct cache {
    struct cache_table *table;
    struct arenas *arenas;
    struct segments *segments;
    struct lane_view view;   /* sequences */
    struct lane_view locked; /* locked mode; one of the two is all zeros but for the places */
};

/* Bytes that a heap's magazines take of its address space, for a region of so many bytes. */
size_t cache_magazine_area(size_t region_bytes, size_t cpus);

/* Makes the table, of a region of so many bytes: lanes and depots are committed and zero, their
 * number and places set. `bytes_a_cpu`: dvsm_options.cache_bytes. 0 or an errno value. */
int cache_init(struct cache_table *table, size_t region_bytes, size_t bytes_a_cpu);

/* Makes a process's access to it; `base` is the first granule. */
void cache_open(struct cache *cache, struct cache_table *table, struct arenas *arenas,
                struct segments *segments, void *base);

/* Requests below are served from the cache; 0: there is none. */
size_t cache_limit(const struct cache *cache);

/* Lets the fast path know of granules that have come into use since. */
void cache_extend_view(struct cache *cache);

/* The slow paths: what a lane could not do. `class` may be CLASS_NONE. A fault found on the way, in
 * whatever block, is raised in *fault.
 *     cache_malloc  a block of the class, NULL: none to be had here
 *     cache_free    whether the cache took the block, which is one in use of its class
 *     cache_holds   whether the block has a mark and it is right: it is in the cache, free already */
void *cache_malloc(struct cache *cache, unsigned class, struct fault *fault);
bool cache_free(struct cache *cache, unsigned class, void *block, struct fault *fault);
bool cache_holds(struct cache *cache, const void *block);

/* Before an arena grows: returns some of what the depots hold, if it is worth while. Whether. */
bool cache_reduce_before_growth(struct cache *cache, struct fault *fault);

/* Returns all that can be reached, and the memory of magazines that are not needed any more. Whether
 * there was anything. Nothing in a signal handler that interrupted a call which holds locks. */
bool cache_drain(struct cache *cache, struct fault *fault);

/* ---- looking inside */

/* Every cached block; stops where `visit` returns false. The depots are locked; blocks in lanes may
 * come and go, so that one may be met twice or not at all. */
typedef bool (*cache_visit)(void *context, void *block, unsigned class);
void cache_walk(struct cache *cache, cache_visit visit, void *context);

/* Sees to it that no change of a dead process is half done. */
void cache_settle(struct cache *cache);

/* The set of all cached blocks, in private memory of its own: threads may have small stacks. */
enum { CENSUS_FEW = 256 };

struct census {
    void **block; /* open addressing; NULL: no memory for it, and nothing is known */
    size_t slots;
    size_t count;
    size_t twice; /* blocks met once more */
    size_t bytes; /* of their classes */
};
void census_take(struct census *census, struct cache *cache);
bool census_has(const struct census *census, const void *block);
void census_end(struct census *census);

/* All depots locked, in order, however long it takes: then blocks move only between lanes and their users.
 * False: not to be had, in a signal handler that would have to wait. */
bool cache_lock_all(struct cache *cache);
void cache_unlock_all(struct cache *cache);

/* Bytes of magazines that are committed. */
size_t cache_magazine_bytes(const struct cache_table *table);

/* Every invariant of this header; the depots are locked. */
void cache_check(struct cache *cache, struct check *check);

#endif
