/* arena.h - the allocator over one arena: Doug Lea's malloc 2.8.6.
 *
 * An arena is a list of segments, each a row of chunks (chunk.h). Each free chunk is in one of:
 *
 *     bins   by size (bins.h)
 *     dv     the designated victim: the remainder of the last small split, preferred for the
 *            next small one
 *     top    the end of the newest segment: bordering on nothing, used when no other chunk will do
 *
 * Memory comes from a source: the granule map of a region, a caller's buffer, or whatever
 * implements `struct arena_source`. Large requests may get a run of granules of their own.
 *
 *     caller's buffer:   | struct arena | chunks ................................ top | foot |
 *     region:            segment | chunks ... record+fences |   segment | chunks ... top | foot |
 *
 * The engine takes no lock, knows no process and no system: the caller holds the arena's lock.
 * Every store to what is shared goes through `journal`, and each arena_ function is one journaled
 * change (or a few, each leaving a sound arena), committed when it returns. Everything in `struct
 * arena` may be shared; what may not (the source's functions, the fault found) is in `struct
 * arena_call`, made by the caller for each call:
 *
 *     struct arena_call call = {.arena = a, .source = source};
 *     void *p = arena_malloc(&call, 100);
 *     if (call.fault.kind != FAULT_NONE) ...      p is NULL, the arena is as it was before the call
 *
 * A FAULT_DAMAGE sets `damaged`: from then on the arena allocates nothing and frees nothing.
 * Failure to allocate gives NULL (or false) and changes nothing; errno is not touched.
 */
#ifndef DVSM_ARENA_ARENA_H
#define DVSM_ARENA_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"
#include "base/fault.h"
#include "base/journal.h"
#include "base/run.h"
#include "bins/bins.h"
#include "bins/chunk.h"

struct arena;

/* Where an arena's memory comes from. What is on its way is named in arena->pending, so that a
 * survivor knows whose it is: take() sets it in the same journaled change that makes the memory the
 * arena's, the arena clears it in the one that makes the memory part of itself; giving back goes
 * the other way round. Process-private: function pointers never enter the region. The functions are
 * called with the arena's lock held and its journal empty. Sizes are multiples of `unit`. */
struct arena_source {
    size_t unit;
    /* Reserves the lowest run of `bytes`, not yet usable, as arena->pending. */
    bool (*take)(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                 size_t bytes);
    /* The same at a place that suits. */
    bool (*take_placed)(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                        size_t bytes, struct run_place place);
    /* Reserves just the `bytes` that begin at `end`, the end of a large block (RUN_LARGE_TAIL) or
     * of a segment, as arena->pending. */
    bool (*extend)(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                   void *end, size_t bytes);
    /* Makes the pending run usable; false where memory is short (the run is still pending). */
    bool (*commit)(const struct arena_source *source, struct arena *arena, enum run_kind kind);
    /* Bytes at the end of the pending run that will read as zeros once it is usable. */
    size_t (*fresh)(const struct arena_source *source, const struct arena *arena);
    /* Gives back all of the pending run but `keep`, which stays pending. keep.bytes 0: all. Does
     * nothing where nothing is pending. In a signal handler it may be that more stays pending: the
     * arena makes no further change then that would need `pending`. */
    void (*give)(const struct arena_source *source, struct arena *arena, struct run keep);
    /* Whether the address is in memory of the arena's: then it can be read. */
    bool (*owns)(const struct arena_source *source, const struct arena *arena, const void *address);
    /* Whether it is in memory taken as RUN_SEGMENT: then it may be a chunk's. */
    bool (*in_segment)(const struct arena_source *source, const struct arena *arena,
                       const void *address);
    /* Whether the memory from `start`, rounded down to a unit, to `end` is one large block's. */
    bool (*is_large_block)(const struct arena_source *source, const struct arena *arena,
                           const void *start, const void *end);
    /* For recovery, which believes nothing; both may be NULL: all is believed then. Whether a
     * change of the arena's may store there: to a word of memory that it has, or to one of its
     * caller's. */
    bool (*may_store)(const struct arena_source *source, const struct arena *arena,
                      const word *address);
    /* Gives back all that is pending; false, and nothing done: that is no memory of the arena's, or
     * where the arena says that its chunks are, nothing of it is. */
    bool (*recover)(const struct arena_source *source, struct arena *arena);
    /* Takes away the memory of the whole pages inside [start, end), free memory of the arena's, and
     * counts them in arena->holes; bytes. NULL: this source never does. */
    size_t (*punch)(const struct arena_source *source, struct arena *arena, char *start, char *end);
    /* Puts memory behind every hole that [start, end) touches; false where memory is short. */
    bool (*fill)(const struct arena_source *source, struct arena *arena, char *start, char *end);
    /* Whether [start, end) touches one. */
    bool (*has_holes)(const struct arena_source *source, const char *start, const char *end);
    size_t page; /* bytes of a hole */
};

/* A segment's record. The newest segment's is in the arena; each older one's in the foot of its own
 * segment's end. The four words are what the reference keeps: their number fixes ARENA_FOOT. */
struct arena_segment {
    char *base;
    size_t size;
    struct arena_segment *next; /* older; NULL: the oldest */
    size_t foreign;             /* the caller's memory: never merged, never given back */
};

/* Kept free at a segment's end: room for a record's chunk and fences. */
#define ARENA_FOOT (chunk_size_for(sizeof(struct arena_segment)) + CHUNK_MIN)

enum {
    ARENA_TRIM_THRESHOLD = 2 << 20,
    ARENA_GRANULARITY = 64 << 10,
    ARENA_LARGE_THRESHOLD = 256 << 10,
    ARENA_RELEASE_INTERVAL = 4095 /* insertions into trees between two looks for unused segments */
};
#define ARENA_NEVER SIZE_MAX

struct arena {
    struct bins bins;
    size_t dv_size;
    struct chunk *dv;
    size_t top_size;
    struct chunk *top;
    size_t trim_check; /* top larger than this: trim */
    size_t release_countdown;
    size_t footprint; /* bytes of all segments and large blocks */
    size_t footprint_most;
    size_t footprint_limit; /* SIZE_MAX: none */
    size_t large_bytes;     /* of footprint, those of large blocks */
    size_t large_count;
    size_t used_chunks; /* in segments, without records */
    size_t closed;      /* segments that have their record at their end: all but the newest */
    size_t fence_bytes; /* behind those records */
    size_t trim_threshold;
    size_t granularity;
    size_t large_threshold; /* chunk size from which a request may be a large block; ARENA_NEVER:
                               none */
    size_t growth_most;     /* grow ahead by a part of the footprint, up to this; 0: never ahead */
    size_t damaged;         /* 1: set aside */
    size_t id;              /* the number by which the source knows the arena */
    struct arena_segment segment; /* the newest; size 0: the arena has none yet */
    struct run pending;           /* on its way between arena and source: see struct arena_source */
    size_t unpunched;             /* free bytes that had memory after the last punch: a hint */
    word holes;                   /* pages of free chunks and top whose memory was given back */
    struct journal journal;
};

struct arena_call {
    struct arena *arena;
    const struct arena_source *source; /* NULL: the arena cannot grow */
    struct fault fault;                /* FAULT_NONE when the call begins */
    bool may_move;                     /* a resize that fails will be followed by a copy */
    bool no_growth;                    /* rather fail than take memory from the source ... */
    bool short_of_memory;              /* ... and say so here */
    /* A resize that fails says here how often the large block has grown, this time included, else
     * 0. An allocation is told so of the block that it is to replace. */
    size_t growths;
    /* Of the large block that was allocated: from here on its bytes are zero; NULL: unknown. */
    const char *fresh;
    /* The engine's own: no large block in this call; what memalign wants where it gets one. */
    bool no_large;
    size_t large_alignment, large_need;
};

/* A call begins. NB: by field: cleared as a whole, it costs a tenth of a lock and its release. */
static inline void arena_call_begin(struct arena_call *call, struct arena *arena,
                                    const struct arena_source *source)
{
    call->arena = arena;
    call->source = source;
    call->fault.kind = FAULT_NONE;
    call->may_move = call->no_growth = call->short_of_memory = call->no_large = false;
    call->growths = call->large_alignment = call->large_need = 0;
    call->fresh = NULL;
}

/* Makes an empty arena with default parameters that will grow from its calls' source, which knows
 * it as `id`. Nothing is journaled: nobody else may know of the arena yet. */
void arena_init(struct arena *arena, size_t id);

/* Makes an arena at the start of the caller's buffer, which it never leaves. NULL where `bytes` is
 * too few. */
struct arena *arena_init_in(void *buffer, size_t bytes);

/* For whoever finds the arena's lock held by the dead: undoes the change under way and gives back
 * what was on its way. Needs no memory; may be interrupted and repeated. False: what the dead left
 * cannot be theirs; nothing was stored by it, and the arena is damaged. */
bool arena_recover(struct arena *arena, const struct arena_source *source);

/* As the C functions; no errno. */
void *arena_malloc(struct arena_call *call, size_t bytes);
void *arena_calloc(struct arena_call *call, size_t count, size_t bytes);

/* How many of a new block's bytes are to be zeroed, if those from `fresh` on are zero already. */
static inline size_t bytes_to_clear(const char *block, size_t bytes, const char *fresh)
{
    if (fresh == NULL || fresh >= block + bytes)
        return bytes;
    return fresh > block ? (size_t)(fresh - block) : 0;
}

void arena_free(struct arena_call *call, void *block);
void *arena_realloc(struct arena_call *call, void *block, size_t bytes);

/* Resizes without moving: the block, or NULL and nothing changed. */
void *arena_resize_in_place(struct arena_call *call, void *block, size_t bytes);

/* The same after the arena grew behind the block, where that is the last one before top and the
 * source has what follows. Do not use this where placement must match dlmalloc's,
 * which moves such a block. */
void *arena_resize_at_top(struct arena_call *call, void *block, size_t bytes);

/* Any alignment: rounded up to a power of two. Beyond CHUNK_ALIGN the block is marked
 * CHUNK_UNCACHED. */
void *arena_memalign(struct arena_call *call, size_t alignment, size_t bytes);

/* Blocks cut side by side from one chunk, each freed on its own. `array` (or one allocated, if it
 * is NULL) gets their addresses and is returned. The calloc variant zeroes them. Elements with
 * chunks of more than 1 KiB are marked CHUNK_UNCACHED. */
void **arena_independent_calloc(struct arena_call *call, size_t count, size_t bytes, void **array);
void **arena_independent_comalloc(struct arena_call *call, size_t count, const size_t *sizes,
                                  void **array);

/* Frees those of the blocks that are the arena's, in the caller's order, each in a change of its
 * own, and sets their entries to NULL. Neighbours in the array that are neighbours in memory are
 * joined before they are freed. Returns how many entries are left that are not NULL; stops at a
 * fault. */
size_t arena_bulk_free(struct arena_call *call, void **blocks, size_t count);

/* Many blocks of `bytes` each, in changes of their own: up to `most` addresses in blocks[], each
 * published by the change that makes the block one in use, which adds WORD to *count, a word of the
 * caller's that the arena's lock guards meanwhile. Free chunks of just that size go first, then one
 * run is cut and split. Their payloads are multiples of `alignment`, a power of two of at least
 * CHUNK_ALIGN of which the chunk size is a multiple. Returns how many; less than `most` is no
 * failure.
 */
size_t arena_fill(struct arena_call *call, size_t bytes, size_t alignment, size_t most,
                  void **blocks, word *count);

/* The reverse, for one block: the change that frees it takes WORD from *count. False after a fault:
 * then neither happened. */
bool arena_take_back(struct arena_call *call, void *block, word *count);

/* Gives back what is unused beyond `pad` bytes; whether anything was. */
bool arena_trim(struct arena_call *call, size_t pad);

/* Looks at a few words, without the lock (peek.c): whether a request for so many bytes might be
 * served without growing; and whether arena_trim() and arena_punch() might find enough to be worth
 * while, some more free memory than the last punch left. `page`: bytes of a hole. */
bool arena_may_serve(const struct arena *arena, size_t bytes);
bool arena_may_give(struct arena *arena, size_t page);
/* Gives back the memory of all whole pages inside free chunks and top, but for those where their
 * fields are and those of top's first `pad` bytes; whether there was any. Such a page is a hole:
 * whoever cuts from the chunk has the source fill what is to be used first, and does without that
 * chunk where memory is short. NB: nothing may read or write a hole, and a new place in the engine
 * that writes into free memory elsewhere than where a free chunk's fields are or its foot is calls
 * arena_fill() (arena_internal.h) first.
 *     Takes time in proportion to the chunks of a page and more, and to the pages given back: about
 * a tenth of a microsecond a page. */
bool arena_punch(struct arena_call *call, size_t pad);

/* Usable bytes of a block after the checks of free; 0 and a fault where it is none. */
size_t arena_usable(struct arena_call *call, const void *block);

/* One parameter, by mallopt's numbers (-1 trim threshold, -2 granularity, -3 large threshold).
 * False: refused. */
bool arena_set_parameter(struct arena *arena, int number, size_t value);

/* Rounds up to granularity and returns what now holds; SIZE_MAX: no limit. */
size_t arena_set_footprint_limit(struct arena *arena, size_t bytes);

/* Every chunk of every segment, by segment, then by address. Large blocks are not among them. */
enum arena_chunk_state {
    ARENA_CHUNK_USED,
    ARENA_CHUNK_FREE,
    ARENA_CHUNK_DV,
    ARENA_CHUNK_TOP,
    ARENA_CHUNK_RECORD
};
typedef void (*arena_visit)(void *context, const struct chunk *c, size_t bytes,
                            enum arena_chunk_state state);
void arena_walk(const struct arena *arena, arena_visit visit, void *context);

/* From counters that each change keeps: takes no time. */
struct arena_usage {
    size_t footprint, footprint_most;
    size_t segment_bytes, segments;
    size_t used_bytes, used_chunks; /* chunks in use, records among them; no large blocks */
    size_t record_bytes, records;   /* of them */
    size_t free_bytes, free_chunks; /* top among them */
    size_t large_bytes, large_count;
    size_t top_bytes;
};
void arena_usage(const struct arena *arena, struct arena_usage *usage);

/* Every invariant of this header, of bins.h and chunk.h. */
void arena_check(const struct arena *arena, struct check *check);

#endif
