/* arena_internal.h - what the engine's files share: writing headers, the steps of a call. */
#ifndef DVSM_ARENA_ARENA_INTERNAL_H
#define DVSM_ARENA_ARENA_INTERNAL_H

#include "arena/arena.h"

static inline struct journal *arena_journal(struct arena_call *call)
{
    return &call->arena->journal;
}

static inline bool arena_faulted(const struct arena_call *call)
{
    return call->fault.kind != FAULT_NONE;
}

/* holes.c: fills what will be touched when `need` bytes are cut from the low end of the free memory
 * [c, c + size), with the fields of what is then free behind them; some more where it can be had.
 * Called before the first store of a change that is given up where this is false: memory is
 * short. */
bool arena_fill_slowly(struct arena_call *call, const void *c, size_t size, size_t need);

static inline bool arena_fill_holes(struct arena_call *call, const void *c, size_t size,
                                    size_t need)
{
    return likely(call->arena->holes == 0) || arena_fill_slowly(call, c, size, need);
}

/* Memory is too short to fill the holes of the best fit. The smallest chunk in the trees from which
 * `need` bytes can be cut without filling any; NULL: none, or the arena has no holes. */
struct chunk *arena_find_filled(struct arena_call *call, size_t need);

/* Ends a change: commits it, or rolls it back after a fault, and then sets the arena aside if it is
 * damaged. Returns whether the change stands. */
bool arena_finish(struct arena_call *call);

/* Headers. `next` is the chunk after c; its flag of c's state is kept right with c's own. */
static inline void chunk_set_next_prev_in_use(struct journal *j, struct chunk *next)
{
    journal_store(j, &next->head, next->head | PINUSE);
}

/* What a chunk in use keeps of its flags when its size changes. */
#define CHUNK_KEPT (PINUSE | CHUNK_UNCACHED)

/* c of `size` bytes is in use; what is known of the chunk before stays, and U does. */
static inline void chunk_set_in_use(struct journal *j, struct chunk *c, size_t size)
{
    journal_store(j, &c->head, (c->head & CHUNK_KEPT) | size | CINUSE);
    chunk_set_next_prev_in_use(j, chunk_at(c, size));
}

/* c of `size` bytes, cut from the low end of a free chunk, is in use; what follows is written by
 * the caller. */
static inline void chunk_set_cut(struct journal *j, struct chunk *c, size_t size)
{
    journal_store(j, &c->head, size | PINUSE | CINUSE);
}

/* c of `size` bytes is free, and the chunk after it knows already. */
static inline void chunk_set_free(struct journal *j, struct chunk *c, size_t size)
{
    journal_store(j, &c->head, size | PINUSE);
    journal_store(j, &chunk_at(c, size)->prev_foot, size);
}

/* c of `size` bytes is free, and the chunk after it, in use, is told. */
static inline void chunk_set_free_before(struct journal *j, struct chunk *c, size_t size)
{
    struct chunk *next = chunk_at(c, size);

    journal_store(j, &next->head, next->head & ~PINUSE);
    chunk_set_free(j, c, size);
}

/* malloc.c: a chunk of `need` bytes in use, within the call's change. NULL: no memory, or a
 * fault. */
struct chunk *arena_allocate(struct arena_call *call, size_t need);
struct chunk *arena_cut_top(struct arena_call *call, size_t need);
bool arena_bin(struct arena_call *call, struct chunk *c, size_t size);

/* The free chunk from which arena_allocate() would cut `room` bytes, too many for a small bin;
 * NULL: there is none without growing. Its holes are filled as far as is needed to cut `need`
 * bytes, which arena_cut() does, from its low end. */
struct chunk *arena_find(struct arena_call *call, size_t room, size_t need);
struct chunk *arena_cut(struct arena_call *call, struct chunk *c, size_t need);
void arena_set_victim(struct arena_call *call, struct chunk *c, size_t size);

/* That many blocks more are in use (or less: modulo 2^64), in segments. Whoever makes a chunk in
 * use one that a caller gets, or takes it back, counts it in the same change; arena_allocate() and
 * arena_exact() have done so. Parts cut off a block in use and freed at once are not counted. */
static inline void arena_count_used(struct arena_call *call, size_t chunks)
{
    journal_store(arena_journal(call), &call->arena->used_chunks,
                  call->arena->used_chunks + chunks);
}

/* free.c: makes the chunk free, merged with its neighbours. Where it ended: */
enum arena_freed { FREED_FAULT, FREED_TO_TOP, FREED_TO_VICTIM, FREED_TO_SMALL_BIN, FREED_TO_TREE };
enum arena_freed arena_dispose(struct arena_call *call, struct chunk *c, size_t size);

/* peek.c: bytes in free chunks and top that have memory. */
size_t arena_free_memory(const struct arena *a, size_t page);

/* The whole of a free, for a chunk whose header can be believed. */
void arena_free_chunk(struct arena_call *call, struct chunk *c);

/* Whether the header of a chunk in use, in a segment, can be believed: its size leads to a chunk,
 * in a segment, too, that knows of it. */
bool arena_header_is_sound(const struct arena_call *call, const struct chunk *c);

/* The chunk of a block in use whose header can be believed, NULL and a fault otherwise. */
struct chunk *arena_block_chunk(struct arena_call *call, const void *block);

/* Makes [c, c + size) the end of the newest segment. */
void arena_set_top(struct arena_call *call, struct chunk *c, size_t size);

/* grow.c: takes memory from the source; then as arena_allocate(). */
struct chunk *arena_grow(struct arena_call *call, size_t need);

/* Makes top larger than `need`, where it is, a change of its own; false: it cannot be. */
bool arena_grow_top(struct arena_call *call, size_t need);

/* large.c */
struct chunk *arena_large_allocate(struct arena_call *call, size_t need);
void arena_large_free(struct arena_call *call, struct chunk *c);
struct chunk *arena_large_resize(struct arena_call *call, struct chunk *c, size_t need);

/* dlmalloc never makes an arena's first request a large block; a heap has many arenas, and drops
 * that rule. */
static inline bool arena_wants_large(const struct arena_call *call, size_t need)
{
    const struct arena *a = call->arena;

    return need >= a->large_threshold && call->source != NULL && !call->no_large &&
           (a->top_size != 0 || a->growth_most != 0);
}

/* Whether `bytes` more would wrap or pass the limit. */
static inline bool arena_over_limit(const struct arena *a, size_t bytes)
{
    return a->footprint + bytes <= a->footprint || a->footprint + bytes > a->footprint_limit;
}

void arena_count_footprint(struct arena_call *call, size_t bytes);

/* trim.c: each a change of its own, made when the call's own is committed. */
bool arena_release_unused(struct arena_call *call);
void arena_trim_if_due(struct arena_call *call);

/* resize.c: as arena_resize_in_place, on chunks, within the call's change. */
struct chunk *arena_resize_chunk(struct arena_call *call, struct chunk *c, size_t need);

/* batch.c: the head of a chunk inside c, a chunk just cut. */
void arena_write_inner_head(struct arena_call *call, const struct chunk *c, struct chunk *inside,
                            size_t size);

/* malloc.c: a free chunk of just that size, whole, whose payload is so aligned; NULL where there is
 * none, or the first one is not. */
struct chunk *arena_exact(struct arena_call *call, size_t size, size_t alignment);

/* memalign.c: the first place in c for an aligned payload whose lead, if there is one, can be a
 * chunk; and how much larger c must be for that, whatever its address. */
struct chunk *arena_aligned_place(struct chunk *c, size_t alignment);
static inline size_t arena_alignment_slack(size_t alignment)
{
    return alignment > CHUNK_ALIGN ? alignment + CHUNK_MIN : 0;
}

/* free.c: what a free may bring about besides. */
void arena_after_free(struct arena_call *call, enum arena_freed where);

/* walk.c: a segment's chunks, and the list of segments. */
static inline struct chunk *arena_first_chunk(const struct arena_segment *s)
{
    return (struct chunk *)(void *)s->base;
}

static inline bool arena_segment_holds(const struct arena_segment *s, const void *address)
{
    return (uintptr_t)address - (uintptr_t)s->base < s->size;
}

/* Whether a chunk's size leads to a place in its segment where another may begin; fences lead
 * nowhere. */
static inline bool arena_leads_on(const struct arena_segment *s, const struct chunk *c)
{
    const struct chunk *next = chunk_next(c);

    return chunk_size(c) >= CHUNK_MIN && next > c && chunk_is_aligned(next) &&
           arena_segment_holds(s, next);
}

/* The chunk of a closed segment's record, and the fences behind it. */
static inline size_t arena_fence_bytes(const struct arena_segment *s)
{
    const char *fences = (const char *)chunk_of_payload(s) + (ARENA_FOOT - CHUNK_MIN);

    return (size_t)(s->base + s->size - fences);
}

/* Whether c, in the segment, is one of the fences at its end. */
static inline bool arena_is_fence(const struct arena_segment *s, const struct chunk *c)
{
    return (c->head == CHUNK_FENCE || c->head == CHUNK_FIRST_FENCE) &&
           (uintptr_t)s->base + s->size - (uintptr_t)c <= CHUNK_MIN + CHUNK_ALIGN;
}

/* The segment before s in time. Its record lies where users reach, and is believed only at the end
 * of the segment that it describes. `left`, the footprint to begin with, is what s and all older
 * ones can have: a list that runs in a circle ends, too. NULL at the list's end, and where a record
 * is wrong: then s->next is not NULL, and `fault`, if it is not, is raised. */
struct arena_segment *arena_older(const struct arena *a, const struct arena_segment *s,
                                  size_t *left, struct fault *fault);

/* diagnose.c: says what is wrong with a pointer that is not a block in use, or with its header. */
void arena_diagnose(struct arena_call *call, const struct chunk *c);

/* The segment in which the address lies; NULL: none. */
const struct arena_segment *arena_segment_of(const struct arena *a, const void *address);

#endif
