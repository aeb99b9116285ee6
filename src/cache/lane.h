/* lane.h - one CPU's stock of free blocks: taking one, putting one, exchanging a magazine.
 *
 * A lane has one word for each class: the magazine that is loaded and how many blocks are in it
 * (magazine.h). Every change is one store of that word. Where the system has restartable sequences
 * (rseq, Linux 4.18, registered by glibc 2.35 and later) the store is the end of a sequence. If the
 * thread is preempted, moved to another CPU or interrupted by a signal inside the sequence, the
 * kernel aborts the sequence. So on one CPU the store is atomic against all threads of all
 * processes, without a lock. A thread that dies in the sequence leaves the word as it was. The
 * sequences are in lane_x86_64.h; technique: Linux rseq(2), by Mathieu Desnoyers and Paul Turner,
 * as tcmalloc's per-CPU mode uses it.
 *
 * Elsewhere lanes are locked: the same words and the same single store, each lane behind a word
 * lock (word_lock.h). A thread that finds the lock taken goes to the depot. A heap keeps its mode
 * for good. In a heap with sequences, a process without rseq leaves the lanes alone.
 *
 *     lane_pop        a block of that class, or NULL: the lane has none (or was never used)
 *     lane_push       false: the lane is full (or was never used), or the block has a mark
 *     lane_exchange   replaces this CPU's magazine by another; false: the word is no longer `old`,
 *                     or the thread is no longer on that CPU
 *
 * Each of them fails, too, if its sequence was aborted or, in locked mode, the lock is taken.
 */
#ifndef DVSM_CACHE_LANE_H
#define DVSM_CACHE_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/lane_view.h"
#include "cache/magazine.h"
#include "sync/word_lock.h"

enum { LANE_SHIFT = 10, LANE_BYTES = 1 << LANE_SHIFT };

/* Whether a lane may have blocks: 0, or either or both of these. Whoever loads a magazine sets
 * LANE_FILLED in the same sequence, or under the same lock. Whoever empties the lane first stores
 * LANE_BEING_EMPTIED, and in the end 0, if nothing was loaded meanwhile. So with 0 all words are 0,
 * whoever was killed in between. */
enum lane_filled { LANE_FILLED = 1, LANE_BEING_EMPTIED = 2 };

struct lane {
    word loaded[CACHE_CLASSES]; /* by class; 0 where the cache is not to be used */
    word noted;                 /* a sum of the words when memory was short (pressure.c) */
    uint32_t lock;              /* locked mode: a word lock */
    uint32_t used;              /* 1: a magazine was once loaded here */
    uint32_t filled;            /* enum lane_filled */
    char unused[LANE_BYTES - (CACHE_CLASSES + 1) * WORD - 3 * sizeof(uint32_t)];
};
_Static_assert(sizeof(struct lane) == LANE_BYTES,
               "a lane's address is a shift of the CPU's number");

#if defined __x86_64__ && defined __LP64__ && !defined __SANITIZE_THREAD__
#define LANE_HAS_SEQUENCES 1
#include "cache/lane_x86_64.h"
#else
#define LANE_HAS_SEQUENCES 0
static inline void *lane_pop(const struct lane_view *view, size_t cls, size_t mask)
{
    (void)view, (void)cls, (void)mask;
    return NULL;
}
static inline bool lane_push(const struct lane_view *view, size_t cls, size_t mask, void *block)
{
    (void)view, (void)cls, (void)mask, (void)block;
    return false;
}
static inline bool lane_exchange(const struct lane_view *view, unsigned cpu, size_t cls, word old,
                                 word replacement)
{
    (void)view, (void)cpu, (void)cls, (void)old, (void)replacement;
    return false;
}
static inline bool lane_begin_to_empty(const struct lane_view *view, unsigned cpu)
{
    (void)view, (void)cpu;
    return false;
}
#endif

/* The bits that tell an empty and a full magazine of either kind: see magazine_is_empty(),
 * magazine_is_full(). */
#define LANE_MASK(bytes) ((bytes)-2 * WORD)

/* Pop and push of any class, for the slow paths. */
static inline void *lane_pop_any(const struct lane_view *view, unsigned cls)
{
    switch (magazine_bytes(cls)) {
    case MAGAZINE_BYTES:
        return lane_pop(view, cls, LANE_MASK(MAGAZINE_BYTES));
    case MAGAZINE_COARSE_BYTES:
        return lane_pop(view, cls, LANE_MASK(MAGAZINE_COARSE_BYTES));
    default:
        return lane_pop(view, cls, LANE_MASK(MAGAZINE_WIDE_BYTES));
    }
}

static inline bool lane_push_any(const struct lane_view *view, unsigned cls, void *block)
{
    switch (magazine_bytes(cls)) {
    case MAGAZINE_BYTES:
        return lane_push(view, cls, LANE_MASK(MAGAZINE_BYTES), block);
    case MAGAZINE_COARSE_BYTES:
        return lane_push(view, cls, LANE_MASK(MAGAZINE_COARSE_BYTES), block);
    default:
        return lane_push(view, cls, LANE_MASK(MAGAZINE_WIDE_BYTES), block);
    }
}

/* Where this thread's rseq area is, from the thread pointer; false: none is registered. */
bool lane_find_rseq(intptr_t *offset);

/* The CPU that the thread is on. */
unsigned lane_cpu(const struct lane_view *view);

#endif
