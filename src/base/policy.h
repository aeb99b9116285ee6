/* policy.h - the numbers by which a heap decides how much memory it keeps, and for how long.
 *
 * Each region has one struct policy (heap/region.h). policy_set_defaults() fills it;
 * dvsm_options.retain and dvsm_mallopt() change it. Every process reads it without a lock: while a
 * number is being changed, a reader gets the old one or the new one. Some of these numbers are
 * copied: an arena takes its own when it is made, the cache takes `cpu_bytes`.
 *
 * The region lies where a program can overwrite it. So any value of any number must be safe: it may
 * cost time or memory, or refuse requests, but it leads to no division by zero, no endless loop and
 * no access out of range. policy_part() divides; arena_set_parameter() refuses a granularity that
 * is no power of two.
 *
 * Three kinds of numbers are elsewhere: those that decide where a block is placed, because
 * placement is the reference's (engine/); those that bound how long a lock is held (for example
 * segment/segment_map.h); and those that the layout is made of (cache/magazine.h).
 *
 * docs/ARCHITECTURE.md, "When memory goes back", follows a block by these numbers.
 */
#ifndef DVSM_BASE_POLICY_H
#define DVSM_BASE_POLICY_H

#include <stddef.h>

struct policy {
    /* ---- free granules that stay committed (segment/map.c) */

    /* How many granules; POLICY_BY_USE: the largest of what the next three say. DVSM_M_RETAIN and
     * dvsm_options.retain set this. */
    size_t retain_granules;
    /* This many granules. A program that frees everything and allocates again finds its memory
     * where it left it. */
    size_t retain_least_granules;
    /* One part in this many of the heap's limit: whoever set the limit gave the heap that much. */
    size_t retain_limit_part;
    /* One part in this many of what is in use. A program whose use has fallen does not keep more
     * than it uses. */
    size_t retain_use_part;

    /* ---- what a new arena begins with (engine/arena.h) */

    /* An arena whose top has more free bytes than this gives them back. DVSM_M_TRIM_THRESHOLD. */
    size_t trim_threshold;
    /* An arena grows by multiples of this many bytes, a power of two. DVSM_M_GRANULARITY. */
    size_t granularity;
    /* A request from this many bytes on may get granules of its own. DVSM_M_MMAP_THRESHOLD. */
    size_t large_threshold;
    /* An arena grows ahead by one part in POLICY_GROWTH_PART of its footprint, but at most by this
     * many bytes. That saves calls into the system, and costs a small program nothing. */
    size_t growth_most;

    /* ---- the set of arenas (arena/arenas.c) */

    /* A CPU without an arena of its own gets one when the arenas have this many bytes on
     * average. */
    size_t own_from;
    /* An arena is above its share when it has more than the average, one part in `uneven_part` of
     * it and `uneven_least` bytes. The CPUs that prefer it then go on with the smallest arena. This
     * is looked at when the arena grew, and every POLICY_UNEVEN_USES uses. */
    size_t uneven_least, uneven_part;
    /* A thread that found its CPU's arena taken stays for this many uses with the one it got. */
    size_t detour_uses;

    /* ---- the cache (cache/) */

    /* Bytes that a CPU may have cached, if dvsm_options.cache_bytes does not say. */
    size_t cpu_bytes;
    /* All CPUs together may have one part in this many of the heap's limit cached: half of that in
     * lanes, half in depots. */
    size_t cached_limit_part;
    /* With a limit below this many bytes, every CPU must be able to empty each lane: what one lane
     * holds could be what is wanted. */
    size_t small_limit;
    /* An arena fills a magazine with this many bytes at once, besides the block that is asked
     * for. */
    size_t fill_bytes;
    /* Before an arena grows, the depots return about four times what growing would bring, if they
     * have `reduce_least` bytes and one part in `reduce_part` of what the arenas have. They return
     * at most `reduce_most` bytes at once. */
    size_t reduce_least, reduce_part, reduce_most;
    /* Depots above their bound are reduced to one part in `below_bound_part` below it, so that not
     * every further magazine means a look at all depots. With a bound from `large_bound` bytes on,
     * that look is taken only at every POLICY_MAGAZINES magazines. */
    size_t below_bound_part, large_bound;
    /* Other CPUs feed a class that has `fed_magazines` magazines in stock. A class that found its
     * arena empty does not ask it again for `fed_exchanges` exchanges. */
    size_t fed_magazines, fed_exchanges;
    /* After a request was refused, the cache is not used for this many requests. */
    size_t tight_requests;
};

#define POLICY_BY_USE ((size_t)-1)

/* One part in `part` of an amount; nothing of it if the number is 0. */
static inline size_t policy_part(size_t amount, size_t part)
{
    return part != 0 ? amount / part : 0;
}

void policy_set_defaults(struct policy *policy);

/* ---- constants of the engine: the same in a heap and in a caller's buffer */

enum {
    /* The reference's own. A heap's arenas begin with what its policy says instead. */
    POLICY_TRIM_THRESHOLD = 2 << 20,
    POLICY_GRANULARITY = 64 << 10,
    POLICY_LARGE_THRESHOLD = 256 << 10,
    /* Insertions into trees between two looks for segments without a block. */
    POLICY_RELEASE_INTERVAL = 4095,

    POLICY_GROWTH_PART = 64,
    /* Filling a hole costs a call into the system, so it fills the holes of this many further bytes
     * with it. */
    POLICY_FILL_AHEAD = 64 << 10,
    /* When memory is short, an arena that can give back fewer bytes is left alone: they would not
     * let another arena grow. */
    POLICY_GIVE_LEAST = POLICY_GRANULARITY
};

/* ---- constants of frequent paths: arenas_leave(), cache_free(), realloc's fast path */

enum {
    POLICY_UNEVEN_USES = 64,
    POLICY_MAGAZINES = 16,
    /* A chunk up to this many bytes is copied rather than grown in place: the copy costs less than
     * an arena's lock and search. */
    POLICY_COPY_MOST = 2 << 10,
    /* A chunk is copied to a smaller one only if more than one part in this many would stay
     * unused. */
    POLICY_SURPLUS_PART = 8,
    /* A growing block from this many bytes on moves to a place where it can grow on. */
    POLICY_ROOMY_LEAST = 48 << 10
};

#endif
