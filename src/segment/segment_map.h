/* segment_map.h - the granule map as it lies in the region; for this folder and its tests.
 *
 *     | struct segment_map | level[0]: a word a granule | level[1]: maxima | ... | level[levels] |
 *
 * Each level starts on a page of its own. Of each only the pages for the first `ready` granules are
 * committed, so the 16 siblings that a node is the maximum of always are. Counts are of granules.
 *
 * A granule's word has flags in its low half; the high half is a free run's length or a taken
 * granule's owner. Words are loaded and stored whole: the owner of a run changes them without the
 * lock while others look at the ends of their neighbours.
 */
#ifndef DVSM_SEGMENT_SEGMENT_MAP_H
#define DVSM_SEGMENT_SEGMENT_MAP_H

#include "base/bits.h"
#include "base/compiler.h"
#include "segment/segment.h"

#define COMMITTED ((word)1)
#define UNSETTLED ((word)2)
#define FREE ((word)4)
#define FIRST ((word)8)
#define TAKEN ((word)16)
#define LARGE ((word)32)
#define START ((word)64)
#define CHUNKS SEGMENT_CHUNKS
#define MEMORY (COMMITTED | UNSETTLED)

enum {
    VALUE_SHIFT = SIZE_BITS / 2, /* the high half of a granule's word */
    FANOUT = 16,                 /* children of a node */
    LEVELS_MOST = 8,             /* 16^8 granules are more than a word can count */
    READY_AT_FIRST = 8192,
    SLICE_MOST = 32 /* granules released in one hold of the lock: 2 MiB */
};
#define GRANULES_MOST (((size_t)1 << VALUE_SHIFT) - 1)
#define NO_GRANULE SIZE_MAX

struct granule_run {
    size_t first;
    size_t count; /* 0: none */
};

struct segment_map {
    struct lock lock;
    struct journal journal;

    /* Set once. */
    char *base;
    size_t granules;
    size_t page;
    size_t levels; /* of the index: level[levels], the top, has at most 16 nodes */
    word *level[LEVELS_MOST];

    size_t
        ready; /* granules whose words, and the nodes above, are committed: changes by one store */
    size_t used;
    size_t committed; /* all granules of taken runs, and the free ones that have memory */
    size_t committed_most;
    size_t footprint_most; /* bytes: granules and overhead together */
    size_t retained;       /* free granules that have memory */
    size_t retained_end;   /* a bound: none is retained from here on */
    size_t retain;         /* how many may be, after giving back */
    size_t limit;          /* how many may be committed; SIZE_MAX: any number */
    size_t overhead; /* bytes committed outside the granules: the map's own pages and what its user
                        charged; they count against the limit */
    size_t counts_overhead; /* 0: they do not, and it stays 0 */

    /* Notes to a survivor, each valid while its count is not 0. */
    struct granule_run
        rewriting; /* the words inside this run are no longer as its last word says */
    struct granule_run releasing; /* free granules whose memory is being taken away */
};

static inline word granule_load(const struct segment_map *map, size_t granule)
{
    return __atomic_load_n(&map->level[0][granule], __ATOMIC_RELAXED);
}

/* For words that nothing reads after a roll back: see journal_store() for all others. */
static inline void granule_store(struct segment_map *map, size_t granule, word value)
{
    __atomic_store_n(&map->level[0][granule], value, __ATOMIC_RELAXED);
}

static inline size_t granule_value(word w)
{
    return w >> VALUE_SHIFT;
}

static inline word granule_word(word flags, size_t value)
{
    return (word)value << VALUE_SHIFT | flags;
}

/* Free, and has memory. Holds for the words from `used` on, too. */
static inline bool granule_is_retained(const struct segment_map *map, size_t granule)
{
    return (granule_load(map, granule) & (TAKEN | COMMITTED)) == COMMITTED;
}

static inline size_t run_end(struct granule_run run)
{
    return run.first + run.count;
}

static inline char *run_address(const struct segment_map *map, struct granule_run run)
{
    return map->base + (run.first << GRANULE_SHIFT);
}

static inline size_t run_bytes(struct granule_run run)
{
    return run.count << GRANULE_SHIFT;
}

/* The granule an address lies in; outside the region a number beyond its last granule. */
static inline size_t granule_of(const struct segment_map *map, const void *address)
{
    return ((uintptr_t)address - (uintptr_t)map->base) >> GRANULE_SHIFT;
}

static inline struct granule_run granules_of(const struct segment_map *map, struct run run)
{
    return (struct granule_run){granule_of(map, run.start), run.bytes >> GRANULE_SHIFT};
}

/* map.c: the lock, with recovery; false: not to be had, in a signal handler that interrupted its holder. */
bool segment_enter(struct segments *s, const char *function);
void segment_leave(struct segments *s);
/* Commits the map's own pages for the granules below `end`. */
bool segment_make_ready(struct segments *s, size_t end);
/* Where each level lies, from the lowest on; the end of the last. */
char *segment_lay_out(struct segment_map *map, void *place, size_t granules);
/* Bytes of the map's own pages that are committed. */
size_t segment_own_bytes(const struct segment_map *map);
/* Notes the highest footprint; journaled. */
void segment_note_footprint(struct segment_map *map);
/* How many granules may be committed, with so many bytes more of overhead. */
size_t segment_most(const struct segment_map *map, size_t more);
/* Leaves word of a run for a survivor; taken back by a store of 0 to `count`. */
void segment_note(struct granule_run *note, struct granule_run run);
/* Flags (and owner, as flags) for the words inside a run; COMMITTED stays as it is. */
void segment_rewrite_inner(struct segment_map *map, struct granule_run run, word value);

/* index.c: the lowest free run of at least n granules below `used`, or NO_GRANULE. */
size_t segment_index_find(const struct segment_map *map, size_t n);
/* Carries a change of one granule's word up; journaled. */
void segment_index_update(struct segment_map *map, size_t granule);
/* The most of the 16 nodes of a group of that level; level 0: of the free runs that begin there. */
size_t segment_index_most(const struct segment_map *map, size_t level, size_t group);
/* How many nodes of a level stand above (or are words of) that many granules. */
size_t segment_index_nodes(size_t level, size_t granules);

/* memory.c: how many granules of the run have memory (those not yet ready have none), and whether that
 * of any was on its way when its owner died. */
struct run_memory {
    size_t committed;
    bool unsettled;
};
struct run_memory segment_memory(const struct segment_map *map, struct granule_run run);
/* Takes away all memory of a taken run; without the lock. */
void segment_release_taken(struct segments *s, struct granule_run run);
/* Releases that many retained granules outside `but`; false where the backend fails. */
bool segment_release_retained(struct segments *s, size_t count, struct granule_run but);
/* Releases again what a dead process was releasing. */
void segment_finish_release(struct segments *s);

#endif
