/* cache.h - stocks of free blocks in front of the arenas: lanes, depots, magazines.
 *
 * The cache belongs to CPUs, never to a process or thread, so that nobody's death loses anything
 * and what is cached is bounded by CPUs, not by processes. To the arena a cached block is in use.
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
 * A trade gives an empty lane a magazine from the stock, and a full one is exchanged for one that
 * has room. Where the last trade on the CPU's shelf went the other way, what goes into the lane is
 * at most half full (a fuller one is split), so that at least 31 operations pass between two trades
 * whichever comes next; where it went the same way, a whole one or an empty one. Nobody waits for a
 * depot for longer than a moment: its holder may be stopped. Its class is then served by the
 * arenas. Functions that look at the whole cache wait. A CPU without stock of its own has a
 * magazine filled by its arena, if that need not grow; else takes another's stock; else has any
 * arena fill one. Blocks return to their arenas when the depots hold more than `bound`, before an
 * arena grows, on trim, and when memory is short.
 *
 * Crash safety (each block and each magazine is at any instruction in just one place):
 *  - a lane's word changes by one store.
 *  - a trade: one depot transaction takes the new magazine off its list and names it and the lane's
 *    old word in `transit`; the lane's word is exchanged; a second one puts whichever of the two is
 *    outside now away and clears `transit`. NB: magazines of a class enter and leave lanes only
 *    under its depot's lock, so a survivor finds out which by looking through the lanes.
 *  - a depot is repaired by whoever takes its lock next, if the arena and the map that the dead was
 *    working on can be looked at then; else `recovering` stays, and the next one does it.
 *  - fill and drain: the arena's transaction, in the arena's journal, moves the block and counts it
 *    in `transit_new`. A survivor has that arena's journal rolled back before it looks.
 *
 *  - what the dead left is believed only as far as it can be theirs. Else the class is set aside,
 *    which is noted (fault.h): no magazine enters a lane any more, what is in stock is lost, and
 *    the arenas serve what the lanes cannot.
 *
 * A freed block begins with its mark, which names the slot that the block is in and is no more one
 * when it is handed out (magazine.h). The mark is a hint: cache_holds() looks at the slot.
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

/* A depot's stock lies on shelves, each for some of the CPUs: blocks stay with the CPU that had
 * them, as long as they can. Neighbours in memory then are, too, and a line that holds the end of
 * one block and the header of the next is not sent to and fro. */
enum { DEPOT_SHELVES = 8 };

struct depot {
    struct lock lock;
    word stock[DEPOT_SHELVES]; /* lists of magazines that hold blocks */
    size_t stock_magazines;    /* their length */
    size_t stock_blocks;       /* in all of them */
    word empty;                /* list of magazines that hold none */
    word transit_new;          /* on its way into a lane, or being filled or drained; 0: none */
    word transit_old;          /* the word of a lane that transit_new (0: nothing) is to replace */
    size_t arena;              /* id of the arena whose change may be counting in transit_new */
    size_t made;               /* magazines; 0 while units are being given back */
    word units;                /* list of the class's units, in which they lie (place.h) */
    word incoming;             /* of them, the one whose magazines are not made yet; 0: none */
    struct run pending;        /* a granule on its way between the map and the cache */
    size_t demand;             /* how often it was filled: decides how many blocks come at once */
    unsigned char last_trade[DEPOT_SHELVES]; /* enum trade: a hint */
    size_t alignment;  /* of the blocks in the runs that arenas cut for it; 0: any. A hint */
    size_t foreign;    /* refills left that try other CPUs' stock before the arena: a hint */
    size_t recovering; /* 1: a holder died, and what it left is not repaired yet */
    size_t stuck;      /* 1: a hint: somebody waited for the lock in vain since its holder came */
    size_t damaged;    /* 1: set aside, see below */
    struct short_journal log;
};

static inline struct journal *depot_journal(struct depot *d)
{
    return (struct journal *)(void *)&d->log;
}

enum trade { TRADE_REFILL, TRADE_SPILL };
enum cache_mode { CACHE_LOCKED, CACHE_SEQUENCES };

/* In the region. */
struct cache_table {
    size_t mode;         /* enum cache_mode */
    size_t cpus;         /* how many lanes */
    size_t lanes_used;   /* how many of them ever were */
    size_t classes_most; /* from this one on, lanes are not used whatever the limit is */
    size_t classes;      /* nor, with the heap's limit as it is, from this one on; 0: no cache */
    size_t bytes_a_cpu;  /* what a CPU may have cached */
    size_t bytes_in_all; /* what all may have, by the heap's limit: half in lanes, half in depots */
    size_t short_of; /* bytes that could not be had; 0: until something was freed (pressure.h) */
    size_t tight;    /* requests until the cache is used again */
    size_t drained;  /* 1: no depot has any stock: a hint */
    word room;       /* list of the cache's granules that have room for magazines */
    size_t granules; /* how many it has in all */
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

/* Makes the table: lanes and depots are committed and zero, their number and places set.
 * `bytes_a_cpu`: dvsm_options.cache_bytes; `limit`: bytes that the heap may commit, SIZE_MAX: any
 * number. 0 or an errno value. */
int cache_init(struct cache_table *table, size_t bytes_a_cpu, size_t limit);

/* The heap's limit is another now: what may be cached is at most an eighth of it. What is above
 * that goes back, from all CPUs. */
void cache_set_limit(struct cache *cache, size_t limit, struct fault *fault);

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
 *     cache_holds   whether the block has a mark and it is right: it is in the cache, free
 *                   already */
void *cache_malloc(struct cache *cache, unsigned class, struct fault *fault);
bool cache_free(struct cache *cache, unsigned class, void *block, struct fault *fault);
bool cache_holds(struct cache *cache, const void *block);

/* From now on blocks that arenas cut for the class are aligned so, a power of two of which its size
 * is a multiple: somebody asks for such blocks. Those that are cached already may not be. */
void cache_align(struct cache *cache, unsigned class, size_t alignment);

/* Before an arena grows: returns some of what the depots hold, if it is worth while. Whether. */
bool cache_reduce_before_growth(struct cache *cache, struct fault *fault);

/* Returns all that can be reached, and the memory of magazines that are not needed any more: what
 * depots have, and what lanes of other CPUs do if these are behind locks. DRAIN_ALL goes to the
 * others, too, by a thread that is made for it: the caller's affinity stays as it is. Nothing in a
 * signal handler that interrupted a call which holds locks. Whether there was anything. */
enum drain { DRAIN_HERE, DRAIN_ALL };
bool cache_drain(struct cache *cache, enum drain drain, struct fault *fault);

/* ---- when memory is short (pressure.c) */

/* Whether a request for so many bytes was refused, all that is free having been looked at, and
 * nothing that could serve it was freed since. */
bool cache_is_short_of(struct cache *cache, size_t bytes);

/* Whether it is left out just now, and cache_drain(DRAIN_HERE) would find nothing. */
bool cache_is_bare(const struct cache *cache);

/* A request for so many bytes was refused. The cache is not used for a while: what is freed goes to
 * the arenas at once, and the next request finds it there. */
void cache_note_short_of(struct cache *cache, size_t bytes);

/* Something was freed, or the limit raised. */
static inline void cache_note_freed(struct cache *cache)
{
    if (unlikely(word_peek(&cache->table->short_of) != 0))
        word_show(&cache->table->short_of, 0);
}

/* An arena served a request. */
static inline void cache_note_served(struct cache *cache)
{
    size_t tight = word_peek(&cache->table->tight);

    if (unlikely(tight != 0))
        word_show(&cache->table->tight, tight - 1);
}

/* ---- looking inside */

/* Every cached block; stops where `visit` returns false. The depots are locked; blocks in lanes may
 * come and go, so that one may be met twice or not at all. */
typedef bool (*cache_visit)(void *context, void *block, unsigned class);
void cache_walk(struct cache *cache, cache_visit visit, void *context);

/* How many blocks are cached, and the sum of their classes' sizes: each depot and lane at its own
 * instant. Takes some microseconds, and for each CPU there can be half a microsecond more. */
struct cache_count {
    size_t blocks, bytes;
};
void cache_count(struct cache *cache, struct cache_count *count);

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

/* All depots locked, in order, however long it takes: then blocks move only between lanes and their
 * users. False: not to be had, in a signal handler that would have to wait. */
bool cache_lock_all(struct cache *cache);
void cache_unlock_all(struct cache *cache);

/* Every invariant of this header; the depots are locked. */
void cache_check(struct cache *cache, struct check *check);

#endif
