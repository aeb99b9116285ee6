/* hardened.h - the malloc family of a hardened heap (DVSM_HARDEN).
 *
 * The functions of heap.h come here as soon as they know that the heap is hardened. The fast path
 * is closed for such a heap, so nothing goes past. A request is served by the same lanes, depots
 * and arenas as in any heap, with room for the tail (arena/canary.h):
 *
 *     from the cache      all blocks there are filled; a block with any other byte was written to
 *                         after it was freed
 *     from an arena       the block gets a free tail while the arena is locked, and is zeroed
 *     freed               the header behind it and the tail are looked at; then it is filled, and
 *                         goes into the CPU's second lane, or to the depot, or, if the cache does
 *                         not take it, onto its arena's list of blocks freed remotely
 *                         (arena/remote.h). The second lane and the list are a quarantine
 *
 * A process that is killed after an arena's change and before the free tail leaves a block in use
 * with any tail. It held the arena's lock; so dvsm_check() and dvsm_walk() overlook as many broken
 * tails of an arena as its lock was recovered times. A block on its way into the cache or out of it
 * is lost with the process, as are those that hardened_independent() has got so far.
 *
 * A write to the first four bytes of a freed block is seen when it goes back to its arena, and by
 * dvsm_check(), but not when the block is handed out: these bytes hold the mark.
 *
 * The fault handler may return: then a call that found a fault fails with EINVAL. A block to which
 * somebody wrote while it was free is handed out to nobody any more.
 */
#ifndef DVSM_HEAP_HARDENED_H
#define DVSM_HEAP_HARDENED_H

#include "heap/heap.h"

/* `alignment`: a power of two; 1: none was asked for. */
void *hardened_malloc(struct dvsm_heap *heap, size_t alignment, size_t size, const char *function);

/* As heap_malloc_grown(). */
void *hardened_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths,
                            const char *function);

/* As heap_independent_calloc(), and as heap_independent_comalloc() if `sizes` is not NULL. */
void **hardened_independent(struct dvsm_heap *heap, size_t count, size_t size, const size_t *sizes,
                            void **blocks, const char *function);

/* What dvsm_free_sized() or dvsm_free_aligned_sized() is told of a block. */
struct hardened_size {
    size_t size, alignment; /* 0: not told */
};

/* Frees the block. With `expected`, only if it was asked for like that. False: there was a fault,
 * which is reported. Leaves errno alone. */
bool hardened_free(struct dvsm_heap *heap, void *block, const struct hardened_size *expected,
                   const char *function);

/* The size that was asked for; 0 and errno EINVAL: a fault, reported. */
size_t hardened_usable_size(struct dvsm_heap *heap, const void *block, const char *function);

/* `wanted` as in heap_realloc(). Without `may_move`, NULL and ENOMEM if the block has no room. */
void *hardened_realloc(struct dvsm_heap *heap, struct dvsm_heap *wanted, void *block, size_t size,
                       bool may_move, const char *function);

/* In a locked arena: gives a block just served the tail of a free one. */
void hardened_mark_new(const struct dvsm_heap *heap, void *block);

/* What the files hardened_*.c share, and walk.c and check.c.
 *     hardened_bytes     bytes to ask for, so that the tail has room; SIZE_MAX: more than anybody
 *                        can get
 *     hardened_put_back  frees a block that is filled into its arena, past the cache
 *     hardened_report    reports a fault; returns false */
bool hardened_put_back(struct dvsm_heap *heap, void *block, const char *function);
bool hardened_report(struct dvsm_heap *heap, const char *what, const void *block,
                     const char *function);

static inline size_t hardened_bytes(size_t size)
{
    if (size >= REQUEST_LIMIT - CANARY_ROOM)
        return SIZE_MAX;
    return size + CANARY_ROOM < CANARY_LEAST ? CANARY_LEAST : size + CANARY_ROOM;
}

/* What every block has counts as none asked for. */
static inline unsigned hardened_exponent(size_t alignment)
{
    return alignment > CHUNK_ALIGN ? bits_highest(alignment) : 0;
}

static inline struct canary_block hardened_block_of(const struct dvsm_heap *heap, const void *block,
                                                    size_t usable)
{
    return canary_block(block, usable, heap->arenas.seal.key);
}

/* What is wrong with a block whose header is true; NULL: nothing, and *asked says what was asked
 * for. NB: inlined, because the processor would wait for the block's description to pass through
 * the stack. */
static inline __attribute__((always_inline)) const char *
hardened_wrong_with(struct canary_block b, struct canary_request *asked)
{
    switch (canary_look(b, asked)) {
    case CANARY_FREE:
        return "double free";
    case CANARY_BROKEN:
        return CANARY_END_WRITTEN;
    default:
        return NULL;
    }
}

/* Checks the heap, if it is hardened, and calls the fault handler if it is not sound. */
void hardened_check(struct dvsm_heap *heap, const char *function);

#endif
