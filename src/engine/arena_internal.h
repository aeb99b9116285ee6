/* arena_internal.h - what the engine's files share: writing headers, the steps of a call. */
#ifndef DVSM_ENGINE_ARENA_INTERNAL_H
#define DVSM_ENGINE_ARENA_INTERNAL_H

#include "engine/arena.h"

static inline struct journal *arena_journal(struct arena_call *call)
{
    return &call->arena->journal;
}

static inline bool arena_faulted(const struct arena_call *call)
{
    return call->fault.kind != FAULT_NONE;
}

/* holes.c: fills the holes that will be touched when `need` bytes are cut from the low end of the
 * free memory [c, c + size): those bytes, and the fields of what stays free behind them. Fills some
 * more if memory can be had. False: memory is short, and the caller gives up the change; so call
 * this before the first store of the change. */
bool arena_fill_slowly(struct arena_call *call, const void *c, size_t size, size_t need);

static inline bool arena_fill_holes(struct arena_call *call, const void *c, size_t size,
                                    size_t need)
{
    return likely(call->arena->holes == 0) || arena_fill_slowly(call, c, size, need);
}

/* For when memory is too short to fill the holes of the best fit: the smallest chunk in the trees
 * from which `need` bytes can be cut without filling any hole. NULL: none, or the arena has no
 * holes. */
struct chunk *arena_find_filled(struct arena_call *call, size_t need);

/* Ends a change: commits it; or, after a fault, rolls it back, and sets the arena aside if it is
 * damaged. Returns whether the change stands. */
bool arena_finish(struct arena_call *call);

/* Headers. `next` is the chunk after c. Its PINUSE flag, which tells c's state, is kept in step
 * with c's own. */
static inline void chunk_set_next_prev_in_use(struct arena *a, struct chunk *next)
{
    journal_store(&a->journal, &next->head, seal_with_prev(next->head));
}

/* The flags that a chunk in use keeps when its size changes. */
#define CHUNK_KEPT (PINUSE | CHUNK_UNCACHED)

/* Writes and seals the head of c, which is in use: `bits` are its size and flags. */
static inline void chunk_set_head(struct arena *a, struct chunk *c, size_t bits)
{
    journal_store(&a->journal, &c->head, seal_head(&a->seal, c, bits));
}

/* Gives c, in use or to be in use, `size` bytes. Its PINUSE and U flags stay. The caller writes the
 * chunk that follows. */
static inline void chunk_set_size(struct arena *a, struct chunk *c, size_t size)
{
    chunk_set_head(a, c, (c->head & CHUNK_KEPT) | size | CINUSE);
}

/* The same, and the chunk that follows is told that c is in use. */
static inline void chunk_set_in_use(struct arena *a, struct chunk *c, size_t size)
{
    chunk_set_size(a, c, size);
    chunk_set_next_prev_in_use(a, chunk_at(c, size));
}

/* Makes c of `size` bytes, behind a chunk in use, a chunk in use. The caller writes the chunk that
 * follows. */
static inline void chunk_set_cut(struct arena *a, struct chunk *c, size_t size)
{
    chunk_set_head(a, c, size | PINUSE | CINUSE);
}

/* Whether c, other than a fence, has its seal if it is in use, and none if it is free. */
static inline bool arena_is_sealed(const struct arena *a, const struct chunk *c)
{
    return chunk_marked_in_use(c) ? seal_holds(&a->seal, c, c->head)
                                  : (c->head & ~(HEAD_SIZE | HEAD_FLAGS)) == 0;
}

/* Makes c of `size` bytes free. The chunk after it already says so. */
static inline void chunk_set_free(struct journal *j, struct chunk *c, size_t size)
{
    journal_store(j, &c->head, size | PINUSE);
    journal_store(j, &chunk_at(c, size)->prev_foot, size);
}

/* Makes c of `size` bytes free, and has the chunk after it, which is in use, say so. */
static inline void chunk_set_free_before(struct arena *a, struct chunk *c, size_t size)
{
    struct chunk *next = chunk_at(c, size);

    journal_store(&a->journal, &next->head, seal_without_prev(next->head));
    chunk_set_free(&a->journal, c, size);
}

/* malloc.c: a chunk of `need` bytes in use, within the call's change. NULL: no memory, or a
 * fault. */
struct chunk *arena_allocate(struct arena_call *call, size_t need);
struct chunk *arena_cut_top(struct arena_call *call, size_t need);
bool arena_bin(struct arena_call *call, struct chunk *c, size_t size);

/* The free chunk from which arena_allocate() would cut `room` bytes, too many for a small bin;
 * NULL: there is none without growing. As many of its holes are filled as arena_cut() needs to cut
 * `need` bytes from its low end. */
struct chunk *arena_find(struct arena_call *call, size_t room, size_t need);
struct chunk *arena_cut(struct arena_call *call, struct chunk *c, size_t need);
void arena_set_victim(struct arena_call *call, struct chunk *c, size_t size);

/* Adds `chunks` (modulo 2^64, so it can subtract) to the number of blocks in use in segments. The
 * change that gives a chunk in use to a caller, or takes it back, also counts it; arena_allocate()
 * and arena_exact() have done so. Parts cut off a block in use and freed at once are not
 * counted. */
static inline void arena_count_used(struct arena_call *call, size_t chunks)
{
    journal_store(arena_journal(call), &call->arena->used_chunks,
                  call->arena->used_chunks + chunks);
}

/* free.c: makes the chunk free, merged with its neighbours. Returns where it ended up. */
enum arena_freed { FREED_FAULT, FREED_TO_TOP, FREED_TO_VICTIM, FREED_TO_SMALL_BIN, FREED_TO_TREE };
enum arena_freed arena_dispose(struct arena_call *call, struct chunk *c, size_t size);

/* peek.c: bytes in free chunks and top that have memory. */
size_t arena_free_memory(const struct arena *a, size_t page);

/* The whole of a free, for a chunk whose header can be believed. */
void arena_free_chunk(struct arena_call *call, struct chunk *c);

/* Whether the header of a chunk in use, in a segment, can be believed: its seal holds, and its size
 * leads to another chunk in a segment, whose header says that c is in use. */
bool arena_header_is_sound(const struct arena_call *call, const struct chunk *c);

/* The chunk of a block in use whose header can be believed; NULL and a fault otherwise. */
struct chunk *arena_block_chunk(struct arena_call *call, const void *block);

/* Makes [c, c + size) the end of the newest segment. */
void arena_set_top(struct arena_call *call, struct chunk *c, size_t size);

/* grow.c: takes memory from the source, then does as arena_allocate(). */
struct chunk *arena_grow(struct arena_call *call, size_t need);

/* Makes top larger than `need` without moving it, in a change of its own. False: it cannot. */
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

/* Whether `bytes` more would make the footprint wrap or pass the limit. */
static inline bool arena_over_limit(const struct arena *a, size_t bytes)
{
    return a->footprint + bytes <= a->footprint || a->footprint + bytes > a->footprint_limit;
}

void arena_count_footprint(struct arena_call *call, size_t bytes);

/* trim.c: each is a change of its own, made after the call's own change is committed. */
bool arena_release_unused(struct arena_call *call);
void arena_trim_if_due(struct arena_call *call);

/* resize.c: like arena_resize_in_place(), but on chunks and within the call's change. */
struct chunk *arena_resize_chunk(struct arena_call *call, struct chunk *c, size_t need);

/* batch.c: writes the head of a chunk inside c, which was just cut. */
void arena_write_inner_head(struct arena_call *call, const struct chunk *c, struct chunk *inside,
                            size_t size);

/* malloc.c: takes a whole free chunk of exactly `size` bytes whose payload is aligned. NULL: there
 * is none, or the first one found is not aligned. */
struct chunk *arena_exact(struct arena_call *call, size_t size, size_t alignment);

/* memalign.c: the first place in c for an aligned payload at which the lead, if there is one, is
 * large enough to be a chunk. The slack is how much larger c must be so that it has such a place at
 * any address. */
struct chunk *arena_aligned_place(struct chunk *c, size_t alignment);
static inline size_t arena_alignment_slack(size_t alignment)
{
    return alignment > CHUNK_ALIGN ? alignment + CHUNK_MIN : 0;
}

/* free.c: the further work that a free may cause, such as a trim. */
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

/* Whether c's size leads to a place in its segment where another chunk may begin; a fence's does
 * not. */
static inline bool arena_leads_on(const struct arena_segment *s, const struct chunk *c)
{
    const struct chunk *next = chunk_next(c);

    return chunk_size(c) >= CHUNK_MIN && next > c && chunk_is_aligned(next) &&
           arena_segment_holds(s, next);
}

/* Bytes of the fences at a closed segment's end, behind the chunk of its record. */
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

/* The next older segment. Its record lies where users can overwrite it, and is believed only if it
 * is at the end of the segment that it describes. `left`, at first the footprint, is the most bytes
 * that s and all older segments can have, so that a circular list ends, too. NULL at the list's
 * end, and if a record is wrong: then s->next is not NULL, and a fault is raised in `fault`, unless
 * `fault` is NULL. */
struct arena_segment *arena_older(const struct arena *a, const struct arena_segment *s,
                                  size_t *left, struct fault *fault);

/* diagnose.c: raises the fault that says what is wrong with a pointer that is not a block in use,
 * or with its header. */
void arena_diagnose(struct arena_call *call, const struct chunk *c);

/* The segment in which the address lies; NULL: none. */
const struct arena_segment *arena_segment_of(const struct arena *a, const void *address);

#endif
