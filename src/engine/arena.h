/* arena.h - the allocator over one arena: Doug Lea's malloc 2.8.6.
 *
 * An arena is a list of segments, each a row of chunks (chunk.h). Each free chunk is in one of:
 *
 *     bins   by size (bins.h)
 *     dv     the designated victim: what the last small split left, preferred for the
 *            next small one
 *     top    the end of the newest segment, with no chunk behind it; used when no other will do
 *
 * Memory comes from a source: the granule map of a region, a caller's buffer, or whatever
 * implements `struct arena_source`. A large request may get a run of granules of its own.
 *
 *     caller's buffer:   | struct arena | chunks ................................ top | foot |
 *     region:            segment | chunks ... record+fences |   segment | chunks ... top | foot |
 *
 * The engine takes no lock, knows no process and no system: the caller holds the arena's lock.
 * Every store to what is shared goes through `journal`, and each arena_ function is one journaled
 * change (or a few, each leaving a sound arena), committed when it returns. Everything in `struct
 * arena` may be shared. What may not be shared (the source's functions, the fault found) is in
 * `struct arena_call`, which the caller makes for each call:
 *
 *     struct arena_call call = {.arena = a, .source = source};
 *     void *p = arena_malloc(&call, 100);
 *     if (call.fault.kind != FAULT_NONE) ...      p is NULL, the arena is as it was before the call
 *
 * A FAULT_DAMAGE sets `damaged`: from then on the arena allocates nothing and frees nothing. A
 * failed allocation returns NULL (or false) and changes nothing; errno is not touched.
 */
#ifndef DVSM_ENGINE_ARENA_H
#define DVSM_ENGINE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"
#include "base/fault.h"
#include "base/journal.h"
#include "base/policy.h"
#include "base/run.h"
#include "bins/bins.h"
#include "bins/chunk.h"
#include "bins/seal.h"

struct arena;

/* Where an arena's memory comes from. arena->pending names the memory on its way, so that a
 * survivor knows whose it is. take() sets `pending` in the same journaled change that makes the
 * memory the arena's; the arena clears it in the change that makes the memory part of a segment or
 * large block. Giving back goes the other way round. This struct is private to the process:
 * function pointers never enter the region. The functions are called with the arena's lock held and
 * its journal empty. Sizes are multiples of `unit`. */
struct arena_source {
    size_t unit;
    /* Reserves the lowest run of `bytes` as arena->pending; it is not usable yet. */
    bool (*take)(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                 size_t bytes);
    /* The same, at a place that suits `place`. */
    bool (*take_placed)(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                        size_t bytes, struct run_place place);
    /* Reserves, as arena->pending, exactly the `bytes` that begin at `end`, which is the end of a
     * large block (RUN_LARGE_TAIL) or of a segment. */
    bool (*extend)(const struct arena_source *source, struct arena *arena, enum run_kind kind,
                   void *end, size_t bytes);
    /* Makes the pending run usable; false if memory is short (the run is still pending). */
    bool (*commit)(const struct arena_source *source, struct arena *arena, enum run_kind kind);
    /* Bytes at the end of the pending run that will read as zeros once it is usable. */
    size_t (*fresh)(const struct arena_source *source, const struct arena *arena);
    /* Gives back all of the pending run except `keep`, which stays pending; all of it if keep.bytes
     * is 0. Does nothing if nothing is pending. In a signal handler more may stay pending: the
     * arena then makes no further change that would need `pending`. */
    void (*give)(const struct arena_source *source, struct arena *arena, struct run keep);
    /* Whether the address is in the arena's memory, and so can be read. */
    bool (*owns)(const struct arena_source *source, const struct arena *arena, const void *address);
    /* Whether the address is in memory taken as RUN_SEGMENT, and so may be a chunk's. */
    bool (*in_segment)(const struct arena_source *source, const struct arena *arena,
                       const void *address);
    /* Whether the memory from `start`, rounded down to a unit, to `end` is one large block. */
    bool (*is_large_block)(const struct arena_source *source, const struct arena *arena,
                           const void *start, const void *end);
    /* The next two are for recovery, which trusts no data in the region. Both may be NULL: then
     * everything is trusted. may_store: whether a change of the arena may store to the address, as
     * a word of the arena's memory or of its caller's. */
    bool (*may_store)(const struct arena_source *source, const struct arena *arena,
                      const word *address);
    /* Gives back all that is pending. False, and nothing done: the pending run is not the arena's
     * memory, or none of the arena's memory is where the arena says that its chunks are. */
    bool (*recover)(const struct arena_source *source, struct arena *arena);
    /* Gives back the memory of the whole pages inside [start, end), which is free memory of the
     * arena, and counts them in arena->holes. Returns bytes. NULL: this source never does that. */
    size_t (*punch)(const struct arena_source *source, struct arena *arena, char *start, char *end);
    /* Puts memory behind every hole that [start, end) touches; false if memory is short. */
    bool (*fill)(const struct arena_source *source, struct arena *arena, char *start, char *end);
    /* Whether [start, end) touches a hole. */
    bool (*has_holes)(const struct arena_source *source, const char *start, const char *end);
    size_t page; /* bytes of a hole */
};

/* A segment's record. The newest segment's record is in the arena. Each older segment has its
 * record in the foot at its own end. The reference keeps the same four words; their number fixes
 * ARENA_FOOT. */
struct arena_segment {
    char *base;
    size_t size;
    struct arena_segment *next; /* older; NULL: the oldest */
    size_t foreign;             /* the caller's memory: never merged, never given back */
};

/* Kept free at a segment's end: room for a record's chunk and fences. */
#define ARENA_FOOT (chunk_size_for(sizeof(struct arena_segment)) + CHUNK_MIN)

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
    struct seal seal;       /* of the heads of its chunks in use */
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
    /* Out of a failed resize: how often the large block has grown, this time included; else 0. Into
     * an allocation: the same count, for the block that it will replace. */
    size_t growths;
    /* The bytes of the large block just allocated are zero from here on; NULL: unknown. */
    const char *fresh;
    /* NULL, or what a resize calls before it commits: what it stores through the arena's journal is
     * part of the change. `resized_context` is the caller's. */
    void (*resized)(struct arena_call *call, void *block);
    const void *resized_context;
    /* The engine's own. no_large: no large block in this call. The other two: what memalign wants
     * if it gets a large block. */
    bool no_large;
    size_t large_alignment, large_need;
};

/* A call begins. NB: fields are set one by one: clearing the whole struct costs a tenth of a lock
 * and its release. */
static inline void arena_call_begin(struct arena_call *call, struct arena *arena,
                                    const struct arena_source *source)
{
    call->arena = arena;
    call->source = source;
    call->fault.kind = FAULT_NONE;
    call->may_move = call->no_growth = call->short_of_memory = call->no_large = false;
    call->growths = call->large_alignment = call->large_need = 0;
    call->fresh = NULL;
    call->resized = NULL;
}

/* Makes an empty arena with default parameters. It will grow from the source of its calls, which
 * knows the arena as `id`. Nothing is journaled: nobody else may know of the arena yet. The key of
 * its seals is 0. Who wants another one sets arena->seal before the first block is allocated. */
void arena_init(struct arena *arena, size_t id);

/* Makes an arena at the start of the caller's buffer, which it never leaves. NULL: `bytes` is too
 * small. */
struct arena *arena_init_in(void *buffer, size_t bytes);

/* Call this when the holder of the arena's lock has died: it undoes the change under way and gives
 * back the memory that was on its way. It needs no memory, and may be interrupted and repeated.
 * False: the journal or `pending` that was left cannot be right; nothing was restored from it, and
 * the arena is damaged. */
bool arena_recover(struct arena *arena, const struct arena_source *source);

/* Like the C functions, but errno is not set. */
void *arena_malloc(struct arena_call *call, size_t bytes);
void *arena_calloc(struct arena_call *call, size_t count, size_t bytes);

/* How many bytes of a new block must be zeroed, if those from `fresh` on are zero already. */
static inline size_t bytes_to_clear(const char *block, size_t bytes, const char *fresh)
{
    if (fresh == NULL || fresh >= block + bytes)
        return bytes;
    return fresh > block ? (size_t)(fresh - block) : 0;
}

void arena_free(struct arena_call *call, void *block);
void *arena_realloc(struct arena_call *call, void *block, size_t bytes);

/* Resizes without moving. Returns the block, or NULL and nothing changed. */
void *arena_resize_in_place(struct arena_call *call, void *block, size_t bytes);

/* The same, but first grows the arena behind the block if the block is the last one before top and
 * the source has the memory that follows. Do not use this where placement must match dlmalloc's,
 * which moves such a block. */
void *arena_resize_at_top(struct arena_call *call, void *block, size_t bytes);

/* Any alignment: rounded up to a power of two. Beyond CHUNK_ALIGN the block is marked
 * CHUNK_UNCACHED. */
void *arena_memalign(struct arena_call *call, size_t alignment, size_t bytes);

/* Cuts blocks side by side from one chunk; each is freed on its own. `array` (or an allocated one,
 * if `array` is NULL) gets their addresses and is returned. The calloc variant zeroes the blocks.
 * Blocks with chunks of more than 1 KiB are marked CHUNK_UNCACHED. */
void **arena_independent_calloc(struct arena_call *call, size_t count, size_t bytes, void **array);
void **arena_independent_comalloc(struct arena_call *call, size_t count, const size_t *sizes,
                                  void **array);

/* Frees those of the blocks that belong to the arena, in the caller's order, each in a change of
 * its own, and sets their entries to NULL. Neighbours in the array that are neighbours in memory
 * are joined before they are freed. Returns how many entries are still not NULL; stops at a
 * fault. */
size_t arena_bulk_free(struct arena_call *call, void **blocks, size_t count);

/* Allocates up to `most` blocks of `bytes` each and stores their addresses in blocks[]. Each block
 * is published by the change that puts it in use, which also adds WORD to *count, a word of the
 * caller's that the arena's lock guards meanwhile. Free chunks of exactly that size are used first,
 * then one run is cut and split. Payloads are multiples of `alignment`, a power of two of at least
 * CHUNK_ALIGN; the chunk size is a multiple of it. Returns how many; less than `most` is no
 * failure.
 */
size_t arena_fill(struct arena_call *call, size_t bytes, size_t alignment, size_t most,
                  void **blocks, word *count);

/* The reverse, for one block: the change that frees it subtracts WORD from *count. False after a
 * fault: then neither happened. */
bool arena_take_back(struct arena_call *call, void *block, word *count);

/* Gives back what is unused beyond `pad` bytes. Returns whether anything was given back. */
bool arena_trim(struct arena_call *call, size_t pad);

/* Both look at a few words without the lock (peek.c). arena_may_serve: whether a request for
 * `bytes` might be served without growing. arena_may_give: whether arena_trim() and arena_punch()
 * might find enough to be worth while, that is, some more free memory than the last punch left.
 * `page`: bytes of a hole. */
bool arena_may_serve(const struct arena *arena, size_t bytes);
bool arena_may_give(struct arena *arena, size_t page);
/* Gives back the memory of all whole pages inside free chunks and top, except the pages with their
 * fields and those of top's first `pad` bytes. Returns whether there was any. Such a page is a
 * hole. Code that cuts from the chunk has the source fill the part that will be used first, and
 * does without the chunk if memory is short. NB: nothing may read or write a hole. New code in the
 * engine that writes into free memory, other than to a free chunk's fields or foot, must call
 * arena_fill_holes() (arena_internal.h) first.
 *     Takes time in proportion to the chunks of a page and more, and to the pages given back: about
 * a tenth of a microsecond a page. */
bool arena_punch(struct arena_call *call, size_t pad);

/* Usable bytes of a block, after the same checks as free makes; 0 and a fault if it is not a
 * block. */
size_t arena_usable(struct arena_call *call, const void *block);

/* One parameter, by mallopt's numbers (-1 trim threshold, -2 granularity, -3 large threshold).
 * False: refused. */
bool arena_set_parameter(struct arena *arena, int number, size_t value);

/* Rounds the limit up to granularity and returns the result; SIZE_MAX: no limit. */
size_t arena_set_footprint_limit(struct arena *arena, size_t bytes);

/* Visits every chunk of every segment: segment by segment, then by address. Large blocks are not
 * visited. False: a chunk with a damaged header ended the walk of its segment. */
enum arena_chunk_state {
    ARENA_CHUNK_USED,
    ARENA_CHUNK_FREE,
    ARENA_CHUNK_DV,
    ARENA_CHUNK_TOP,
    ARENA_CHUNK_RECORD
};
typedef void (*arena_visit)(void *context, const struct chunk *c, size_t bytes,
                            enum arena_chunk_state state);
bool arena_walk(const struct arena *arena, arena_visit visit, void *context);

/* Read from counters that each change keeps up to date, so it takes no time. */
struct arena_usage {
    size_t footprint, footprint_most;
    size_t segment_bytes, segments;
    size_t used_bytes, used_chunks; /* chunks in use, records included; no large blocks */
    size_t record_bytes, records;   /* of them */
    size_t free_bytes, free_chunks; /* top included */
    size_t large_bytes, large_count;
    size_t top_bytes;
};
void arena_usage(const struct arena *arena, struct arena_usage *usage);

/* Checks every invariant of this header, of bins.h and chunk.h. */
void arena_check(const struct arena *arena, struct check *check);

#endif
