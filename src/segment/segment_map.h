/* segment_map.h - the granule map as it lies in the region; for this folder and its tests.
 *
 *     | struct segment_map | level[0]: a word a granule | level[1]: maxima | ... | level[levels] |
 *
 * Each level starts on a page of its own. Only those pages of a level are committed that serve the
 * first `ready` granules; so a node's 16 children are committed together. Counts are of granules.
 *
 * The low half of a granule's word has flags, among them a bit for each page that is a hole; the
 * high half is a free run's length or a taken granule's owner. Words are loaded and stored whole:
 * the owner of a run changes them without the lock while others look at the ends of the runs next
 * to their own.
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
    HOLE_SHIFT = 16,      /* from this bit on, a bit for each page of the granule that is a hole */
    FANOUT = 16,          /* children of a node */
    LEVELS_MOST = 8,      /* 16^8 granules are more than a word can count */
    READY_AT_FIRST = 512, /* a page of words, for 32 MiB */
    SLICE_MOST = 32,      /* granules released in one hold of the lock: 2 MiB */
    EXCESS_MOST = 128,    /* the same after giving back: fewer calls, 8 MiB each */
    HOLED_MOST = 16       /* granules with holes given back in one change, which logs each word */
};
/* Holes need more bits than the low half of a 32-bit word has: such words have none. */
#define HOLES (VALUE_SHIFT > HOLE_SHIFT ? granule_bits(VALUE_SHIFT) ^ granule_bits(HOLE_SHIFT) : 0)
#define GRANULES_MOST (((size_t)1 << VALUE_SHIFT) - 1)
#define NO_GRANULE SIZE_MAX

struct granule_run {
    size_t first;
    size_t count; /* 0: none */
};

/* Pages counted from the first granule's start. */
struct page_run {
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
    size_t lazy;       /* 1: see segment_set_lazy() */
    size_t hole_pages; /* pages a granule, each of which can be a hole; 0: there are no holes */
    size_t levels;     /* of the index: level[levels], the top, has at most 16 nodes */
    word *level[LEVELS_MOST];

    size_t ready; /* granules whose words and nodes are committed; changes by one store */
    size_t used;
    size_t committed; /* all granules of taken runs, and the free ones that have memory */
    size_t committed_most;
    size_t footprint_most; /* bytes: granules and overhead together */
    size_t retained;       /* free granules that have memory */
    size_t retained_end;   /* a bound: no granule is retained from here on */
    size_t limit;          /* how many granules may be committed; SIZE_MAX: any number */
    size_t overhead;       /* bytes committed outside the granules: the map's own pages and what its
                              user charged; they count against the limit */
    size_t counts_overhead; /* 0: `overhead` is not counted, and stays 0 */
    size_t holes;           /* pages without memory in granules that count as committed */

    /* Notes to a survivor. Each is valid while its count is not 0. */
    struct granule_run rewriting; /* words inside this run may differ from its last word */
    struct granule_run releasing; /* free granules whose memory is being taken away */
    struct page_run punching;     /* pages, holes already, whose memory is being taken away */

    size_t damaged; /* 1: set aside */
};

/* The lowest `count` bits of a word. */
static inline word granule_bits(unsigned count)
{
    return ((word)1 << count) - 1;
}

static inline word granule_load(const struct segment_map *map, size_t granule)
{
    return __atomic_load_n(&map->level[0][granule], __ATOMIC_RELAXED);
}

/* For words that nothing reads after a rollback: for all others see journal_store(). */
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

/* Whether the granule is free and has memory. Right for the words from `used` on, too. */
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

/* The granule that an address lies in; outside the region a number beyond the last granule. */
static inline size_t granule_of(const struct segment_map *map, const void *address)
{
    return ((uintptr_t)address - (uintptr_t)map->base) >> GRANULE_SHIFT;
}

static inline struct granule_run granules_of(const struct segment_map *map, struct run run)
{
    return (struct granule_run){granule_of(map, run.start), run.bytes >> GRANULE_SHIFT};
}

/* Whether all granules of the run have words. */
static inline bool run_is_ready(const struct segment_map *map, struct granule_run run)
{
    return run.count > 0 && run.count <= map->ready && run.first <= map->ready - run.count;
}

/* map.c: takes the lock, and recovers if its holder died. False: the lock is not to be had, in a
 * signal handler that interrupted its holder, or because the map was set aside. */
bool segment_enter(struct segments *s);
void segment_leave(struct segments *s);
/* recover.c: undoes what the dead left, with the lock held; may be interrupted and repeated. If
 * what is there cannot be theirs, the map is set aside. */
void segment_undo(struct segments *s);
/* Commits the map's own pages for the granules below `end`. */
bool segment_make_ready(struct segments *s, size_t end);
/* Sets where each level lies, from the lowest on. Returns the end of the last. */
char *segment_lay_out(struct segment_map *map, void *place, size_t granules);
/* Where the pages end that the first `ready` granules need. */
const char *segment_levels_end(const struct segment_map *map, size_t ready);
/* Bytes of the map's own pages that are committed. */
size_t segment_own_bytes(const struct segment_map *map);
/* Bytes of memory that all granules have. */
size_t segment_memory_bytes(const struct segment_map *map);
/* Notes the highest footprint; journaled. */
void segment_note_footprint(struct segment_map *map);
/* How many granules must lose their memory if `granules` more get some and `holes` are filled. */
size_t segment_excess(const struct segment_map *map, size_t granules, size_t holes);
/* How many free granules may keep their memory while `taken` are in use. */
size_t segment_may_retain(const struct segments *s, size_t taken);
/* How many granules may be committed if overhead grows by `more` bytes. */
size_t segment_most(const struct segment_map *map, size_t more);
/* Notes a run for a survivor; a store of 0 to `count` takes the note back. */
void segment_note(struct granule_run *note, struct granule_run run);
/* Stores `value`, flags and perhaps an owner, to the words inside a run; COMMITTED stays as it is
 * in each. */
void segment_rewrite_inner(struct segment_map *map, struct granule_run run, word value);

/* index.c: the lowest free run of at least n granules below `used`, or NO_GRANULE. */
size_t segment_index_find(const struct segment_map *map, size_t n);
/* Carries a change of one granule's word up; journaled. */
void segment_index_update(struct segment_map *map, size_t granule);
/* The maximum of a group of 16 nodes of that level; at level 0, of the lengths of the free runs
 * that begin there. */
size_t segment_index_most(const struct segment_map *map, size_t level, size_t group);
/* How many nodes a level has above that many granules; at level 0, how many words. */
size_t segment_index_nodes(size_t level, size_t granules);

/* memory.c: what memory a run has. Granules that are not yet ready have none. */
struct run_memory {
    size_t committed; /* granules that have memory */
    bool unsettled;   /* an owner died while the memory of some granule was on its way */
    bool holed;       /* some page is a hole */
};
struct run_memory segment_memory(const struct segment_map *map, struct granule_run run);
/* Takes away all memory of a taken run; without the lock. */
void segment_release_taken(struct segments *s, struct granule_run run);
/* Releases the memory of `count` retained granules outside `but`; false where the backend fails. */
bool segment_release_retained(struct segments *s, size_t count, struct granule_run but);
/* The same until `keep` granules are retained, at most `slice` in one hold of the lock, which it
 * takes. Returns the bytes released. */
size_t segment_release_to(struct segments *s, size_t keep, size_t slice);
/* Releases again what a dead process was releasing. False: the note of it cannot be the dead's. */
bool segment_finish_release(struct segments *s);

/* holes.c: the same for pages that the dead process was making holes. */
bool segment_finish_punch(struct segments *s);
/* How many holes a run has. */
size_t segment_holes_in(const struct segment_map *map, struct granule_run run);

#endif
