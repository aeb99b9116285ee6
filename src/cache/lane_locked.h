/* lane_locked.h - pop, push and exchange on a lane behind its word lock; any lane will do.
 *
 * Without an rseq area to read it from, the thread's CPU costs a call. So it is asked only now and
 * then. Pop and push call nothing, so that the functions around them need no stack: a thread makes
 * itself ready for them elsewhere.
 */
#ifndef DVSM_CACHE_LANE_LOCKED_H
#define DVSM_CACHE_LANE_LOCKED_H

#include "cache/lane.h"
#include "sync/word_lock.h"

enum { LANE_CHOICE_USES = 256 };

struct lane_choice {
    unsigned cpu;
    unsigned left; /* uses until the CPU is asked again */
};
extern __thread struct lane_choice lane_choice
    __attribute__((tls_model("initial-exec"), visibility("hidden")));
size_t lane_choose(void);

static inline size_t lane_chosen(void)
{
    if (unlikely(lane_choice.left == 0))
        return lane_choose();
    lane_choice.left--;
    return lane_choice.cpu;
}

/* Whether the thread can pop and push: it has a CPU chosen, and can take word locks. */
static inline bool lane_locked_is_ready(void)
{
    return likely(lane_choice.left != 0) && word_lock_is_ready();
}

static inline bool lane_locked_get_ready(void)
{
    if (lane_choice.left == 0)
        lane_choose();
    return word_lock_get_ready();
}

/* The commit is one store, so what a dead holder leaves needs no repair. */
static inline void lane_store(struct lane *lane, size_t cls, word w)
{
    compiler_barrier();
    __atomic_store_n(&lane->loaded[cls], w, __ATOMIC_RELAXED);
    compiler_barrier();
}

/* Only for a thread that is ready, as the next one. */
static inline __attribute__((always_inline)) void *lane_locked_pop(struct lane *lane, size_t cls)
{
    void *block = NULL, *former = NULL;

    if (!word_lock_take(&lane->lock, &former))
        return NULL;

    word w = lane->loaded[cls];
    if (!magazine_is_empty((unsigned)cls, w)) {
        block = (void *)*magazine_last(w);
        __builtin_prefetch((const void *)magazine_last(w)[-1], 1); /* the block that comes next */
        lane_store(lane, cls, w - WORD);
    }
    word_lock_release(&lane->lock, former);
    return block;
}

static inline __attribute__((always_inline)) bool lane_locked_push(struct lane *lane, size_t cls,
                                                                   void *block)
{
    void *former = NULL;

    if (!word_lock_take(&lane->lock, &former))
        return false;

    word w = lane->loaded[cls];
    /* Marked by now: a child that a handler forked since the caller looked has freed it, too. */
    bool room = !magazine_is_full((unsigned)cls, w) && !magazine_is_marked(block);
    if (room) {
        __atomic_store_n(magazine_next(w), (word)block, __ATOMIC_RELAXED);
        magazine_set_mark(block, w);
        lane_store(lane, cls, w + WORD);
    }
    word_lock_release(&lane->lock, former);
    return room;
}

static inline bool lane_locked_exchange(struct lane *lane, size_t cls, word old, word replacement)
{
    void *former = NULL;

    if (!word_lock_acquire(&lane->lock, &former))
        return false;

    bool unchanged = lane->loaded[cls] == old;
    if (unchanged) {
        if (replacement != 0)
            __atomic_fetch_or(&lane->filled, LANE_FILLED, __ATOMIC_RELEASE);
        lane_store(lane, cls, replacement);
    }
    word_lock_release(&lane->lock, former);
    return unchanged;
}

static inline bool lane_locked_begin_to_empty(struct lane *lane)
{
    void *former = NULL;

    if (!word_lock_acquire(&lane->lock, &former))
        return false;
    __atomic_store_n(&lane->filled, LANE_BEING_EMPTIED, __ATOMIC_RELEASE);
    word_lock_release(&lane->lock, former);
    return true;
}

#endif
