/* cache.h - stocks of free blocks in front of the arenas: lanes, depots, magazines.
 *
 * The cache belongs to CPUs, never to a process or thread. So no death loses a block, and the
 * number of CPUs bounds what is cached, not the number of processes. To its arena a cached block is
 * in use. Block caching by size class is nedmalloc's idea (Niall Douglas), magazines and depots are
 * Bonwick's (Magazines and Vmem, USENIX 2001), lanes tcmalloc's per-CPU mode.
 *
 *     lane        one a CPU: a loaded magazine for each class (lane.h). The fast path ends here
 *     magazine    a page of pointers to free blocks (magazine.h)
 *     depot       one a class: a stock of magazines that hold blocks, and of empty ones. It has a
 *                 robust lock, outside those of arenas and map, and its own journal
 *
 *         thread <-- pop/push --> lane <-- exchange --> depot <-- fill/drain --> arenas
 *
 * An exchange gives an empty lane a magazine from the stock, or swaps a full magazine for one that
 * has room. If the last exchange in the CPU's group went the other way, the lane gets a magazine
 * that is at most half full (a fuller one is split): then at least 31 operations pass before the
 * next exchange, whichever way that goes. If it went the same way, the lane gets a whole magazine
 * or an empty one. A thread waits for a depot only for a moment, because the depot's holder may be
 * stopped; the arenas then serve the class. Functions that look at the whole cache wait as long as
 * it takes. A CPU without stock of its own has its arena fill a magazine, if the arena need not
 * grow; else it takes another CPU's stock; else any arena fills one. Blocks return to their arenas
 * when the depots hold more than `bound`, before an arena grows, on trim, and when memory is short.
 *
 * Crash safety (at any instruction each block and each magazine is in just one place):
 *  - a lane's word changes by one store.
 *  - an exchange: a first depot transaction takes the new magazine off its list, and names it and
 *    the lane's old word in `transit`; then the lane's word is exchanged; a second transaction puts
 *    away whichever of the two is now outside the lane, and clears `transit`. NB: magazines of a
 *    class enter and leave lanes only under its depot's lock, so a survivor finds out which one is
 *    outside by looking through the lanes.
 *  - the next thread that takes a dead holder's depot lock repairs the depot, if the arena and the
 *    map that the dead holder was working on can be looked at then; else `recovering` stays set,
 *    and the next thread tries again.
 *  - fill and drain: the arena's transaction, in the arena's journal, moves the block and counts it
 *    in `transit_new`. A survivor has that arena's journal rolled back before it looks.
 *  - a survivor believes what the dead left only as far as it can be theirs. Else the class is set
 *    aside, which is noted (fault.h): no magazine enters a lane any more, what is in stock is lost,
 *    and the arenas serve what the lanes cannot.
 *
 * In a hardened heap, a CPU frees into a second lane. A block in it is not handed out before the
 * lane's magazine has been exchanged and has come back from the depot: a quarantine. All blocks in
 * such a cache are filled (arena/canary.h).
 *
 * A cached block begins with its mark, which names the slot that the block is in. The mark is
 * cleared when the block is handed out (magazine.h). It is a hint: cache_holds() looks at the slot.
 */
#ifndef DVSM_CACHE_CACHE_H
#define DVSM_CACHE_CACHE_H

#include "arena/arenas.h"
#include "arena/canary.h"
#include "base/check.h"
#include "base/journal.h"
#include "cache/lane.h"
#include "cache/magazine.h"
#include "segment/segment.h"
#include "sync/lock.h"

/* A depot's stock is kept apart for each group of CPUs. So blocks stay with the CPU that had
 * them, as long as they can, and with them their neighbours in memory: a cache line that holds the
 * end of one block and the header of the next is not sent to and fro. */
enum { CPU_GROUPS = 8 };

struct depot {
    struct lock lock;
    word stock[CPU_GROUPS]; /* lists of magazines that hold blocks */
    size_t stock_magazines; /* their length */
    size_t stock_blocks;    /* in all of them */
    word empty;             /* list of magazines that hold no blocks */
    word transit_new;   /* the magazine on its way into a lane, being filled or drained; 0: none */
    word transit_old;   /* the lane's word that transit_new (0: nothing) is to replace */
    size_t arena;       /* id of the arena whose change may be counting in transit_new */
    size_t made;        /* how many magazines; 0 while units are being given back */
    word units;         /* list of the class's units, in which the magazines lie (place.h) */
    word incoming;      /* the unit whose magazines are not made yet; 0: none */
    struct run pending; /* a granule on its way between the map and the cache */
    size_t demand;      /* how often arenas filled it: decides how many blocks come at once */
    unsigned char last_exchange[CPU_GROUPS]; /* enum exchange_way: a hint */
    size_t alignment;  /* of the blocks that arenas cut for the class; 0: any. A hint */
    size_t foreign;    /* refills left that try other CPUs' stock before the arena: a hint */
    size_t recovering; /* 1: a holder died, and what it left is not repaired yet */
    size_t stuck;   /* 1: a thread waited in vain for the lock since its holder took it. A hint */
    size_t damaged; /* 1: set aside, see above */
    struct short_journal log;
};

static inline struct journal *depot_journal(struct depot *d)
{
    return (struct journal *)(void *)&d->log;
}

enum exchange_way { EXCHANGE_REFILL, EXCHANGE_SPILL };

/* In the region. */
struct cache_table {
    size_t mode;         /* enum lane_mode */
    size_t cpus;         /* one more than the highest number of a CPU */
    size_t hardened;     /* 1: each CPU has a second lane, into which it frees */
    size_t lanes_used;   /* how many lanes were ever used */
    size_t classes_most; /* from this class on lanes are not used, whatever the limit is */
    size_t classes;     /* from this class on not used with the heap's present limit; 0: no cache */
    size_t bytes_a_cpu; /* what a CPU may have cached */
    size_t bytes_in_all; /* what all may have, by the heap's limit: half in lanes, half in depots */
    size_t short_of;     /* bytes that were refused; 0 once something was freed (pressure.c) */
    size_t tight;        /* requests until the cache is used again */
    size_t drained;      /* 1: no depot has any stock: a hint */
    word room;           /* list of the cache's granules that have room for magazines */
    size_t granules;     /* how many granules the cache has in all */
    struct lane *lanes;  /* one for each CPU, and the second ones behind */
    struct depot *depots;
};

static inline size_t cache_lanes(const struct cache_table *table)
{
    return table->cpus << table->hardened;
}

/* What a process needs to work on the cache. Private to the process. */
struct cache {
    struct lane_view view;
    struct lane_view freeing; /* of the lanes that blocks are freed into; not its limits */
    struct cache_table *table;
    struct arenas *arenas;
    struct segments *segments;
};

/* Makes the table; lanes and depots are committed and zero, and their number and places are set,
 * and `hardened`.
 * `bytes_a_cpu`: dvsm_options.cache_bytes; `limit`: bytes that the heap may commit, SIZE_MAX: any
 * number. Returns 0 or an errno value. */
int cache_init(struct cache_table *table, const struct policy *policy, size_t bytes_a_cpu,
               size_t limit);

/* The heap's limit has changed: at most an eighth of it may be cached. All CPUs return what is
 * above that. */
void cache_set_limit(struct cache *cache, size_t limit, struct fault *fault);

/* Makes a process's access to the cache; `base` is the first granule. */
void cache_open(struct cache *cache, struct cache_table *table, struct arenas *arenas,
                struct segments *segments, void *base);

/* The cache serves requests below this size; 0: there is no cache. */
size_t cache_limit(const struct cache *cache);

/* Lets the fast path know of granules that have come into use since the last call. */
void cache_extend_view(struct cache *cache);

/* The slow paths: what a lane could not do. `cls` may be CLASS_NONE. A fault found on the way, in
 * whatever block, is raised in *fault.
 *     cache_malloc  a block of the class; NULL: the cache has none. In a hardened heap it still has
 *                   its mark
 *     cache_free    whether the cache took the block, which is in use and of the class
 *     cache_holds   whether the block has a mark, and the mark is right: then the block is free
 *                   already, and in the cache */
void *cache_malloc(struct cache *cache, unsigned cls, struct fault *fault);
bool cache_free(struct cache *cache, unsigned cls, void *block, struct fault *fault);
bool cache_holds(struct cache *cache, const void *block);

/* ---- for hardened heaps */

/* A block whose header is true. */
static inline struct canary_block cache_canary(const struct cache *cache, const void *block)
{
    return canary_block(block, chunk_usable(chunk_of_payload(block)), cache->arenas->seal.key);
}

/* Whether the chunk's head can be that of a cached block of the class. */
static inline bool cache_is_chunk_of(const struct cache *cache, unsigned cls, const void *block)
{
    const struct chunk *c = chunk_of_payload(block);
    size_t head = word_peek(&c->head), size = head & HEAD_SIZE;

    return chunk_flags_in_use(head) && seal_holds(&cache->arenas->seal, c, head) &&
           size >= class_size(cls) && size / 2 <= class_size(cls);
}

/* Nobody wrote to this cached block since it was freed. In its mark, only what every mark has is
 * looked at. */
static inline bool cache_is_clean(const struct cache *cache, unsigned cls, const void *block)
{
    return cache_is_chunk_of(cache, cls, block) && magazine_has_mark(block) &&
           canary_is_filled(cache_canary(cache, block), MAGAZINE_MARK_BYTES);
}

/* From now on arenas align the blocks that they cut for the class, since somebody asks for such
 * blocks. `alignment` is a power of two that divides the class's size. Blocks that are cached
 * already may not be aligned. */
void cache_align(struct cache *cache, unsigned cls, size_t alignment);

/* Called before an arena grows: returns some of what the depots hold to the arenas, if that is
 * worth while. True if any was returned. */
bool cache_reduce_before_growth(struct cache *cache, struct fault *fault);

/* Returns all blocks that can be reached, and the memory of magazines that are not needed any more:
 * the depots' blocks, and those of other CPUs' lanes if these are behind locks. DRAIN_ALL empties
 * the other lanes, too, by a thread that is made for it: the caller's affinity stays as it is. Does
 * nothing in a signal handler that interrupted a call which holds locks. True if there was anything
 * to return. */
enum drain { DRAIN_HERE, DRAIN_ALL };
bool cache_drain(struct cache *cache, enum drain drain, struct fault *fault);

/* ---- when memory is short (pressure.c) */

/* Whether a request for so many bytes was refused after a look at all that is free, and nothing was
 * freed since that could serve it. */
bool cache_is_short_of(struct cache *cache, size_t bytes);

/* Whether the cache is not used just now, and cache_drain(DRAIN_HERE) would find nothing. */
bool cache_is_bare(const struct cache *cache);

/* A request for so many bytes was refused. The cache is not used for a while: freed blocks go to
 * the arenas at once, and the next request finds them there. */
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

/* Visits every cached block; stops when `visit` returns false. The depots are locked; blocks in
 * lanes may come and go, so one may be visited twice or not at all. */
typedef bool (*cache_visit)(void *context, void *block, unsigned cls);
void cache_walk(struct cache *cache, cache_visit visit, void *context);

/* How many blocks are cached, and the sum of their classes' sizes; each depot and lane is counted
 * at its own instant. Takes some microseconds, and up to half a microsecond more for each CPU. */
struct cache_count {
    size_t blocks, bytes;
};
void cache_count(struct cache *cache, struct cache_count *count);

/* Completes or undoes changes that dead processes left half done. */
void cache_settle(struct cache *cache);

/* The set of all cached blocks. It lies in private memory of its own, because threads may have
 * small stacks. */
enum { CACHED_SET_FEW = 256 };

struct cached_set {
    void **block; /* open addressing; NULL: no memory for the set, and nothing is known */
    size_t slots;
    size_t count;
    size_t fingerprint; /* of the blocks: two sets with the same one are the same */
    size_t twice;       /* how often a block was met once more */
    size_t bytes;       /* the sum of the blocks' class sizes */
};
void cached_set_take(struct cached_set *set, struct cache *cache);
bool cached_set_has(const struct cached_set *set, const void *block);
void cached_set_end(struct cached_set *set);

/* Locks all depots, in order, however long it takes: then blocks move only between lanes and their
 * users. False: a depot is not to be had, because this is a signal handler that would have to
 * wait. */
bool cache_lock_all(struct cache *cache);
void cache_unlock_all(struct cache *cache);

/* Checks every invariant of this header; the depots are locked. In a hardened heap, also that
 * nobody wrote to a cached block. */
void cache_check(struct cache *cache, struct check *check);

#endif
