/* lane.c - finding the rseq area; lanes behind locks. */
#define _GNU_SOURCE
#include "cache/lane.h"

#include <sched.h>

/* glibc 2.35 and later; 0 and absent elsewhere. The area is larger than its first version in later
 * kernels; the fields that count are in all of them. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

bool lane_find_rseq(intptr_t *offset)
{
#if LANE_HAS_SEQUENCES
    if (&__rseq_size != NULL && &__rseq_offset != NULL && __rseq_size != 0) {
        *offset = __rseq_offset;
        return true;
    }
#endif
    *offset = 0;
    return false;
}

unsigned lane_cpu(const struct lane_view *view)
{
#if LANE_HAS_SEQUENCES
    if (view->exact_limit != 0) {
        unsigned cpu;

        __asm__ volatile("movl %%fs:4(%1), %0" : "=r"(cpu) : "r"(view->rseq));
        return cpu;
    }
#endif
    (void)view;
    int cpu = sched_getcpu();

    return cpu < 0 ? 0 : (unsigned)cpu;
}

/* ---- locked mode ----------------------------------------------------------------------------- */

/* False: held by the calling thread, which a signal interrupted. The commit is one store: what a dead
 * holder leaves needs no repair. */
static bool enter(struct lane *lane)
{
    switch (lock_acquire(&lane->lock)) {
    case LOCK_OWNER_DIED:
        lock_repaired(&lane->lock);
        return true;
    case LOCK_ACQUIRED:
        return true;
    default:
        return false;
    }
}

static void store(struct lane *lane, unsigned class, word w)
{
    compiler_barrier();
    __atomic_store_n(&lane->loaded[class], w, __ATOMIC_RELAXED);
    compiler_barrier();
}

void *lane_locked_pop(struct lane *lane, unsigned class)
{
    void *block = NULL;

    if (!enter(lane))
        return NULL;

    word w = lane->loaded[class];
    if (!magazine_is_empty(class, w)) {
        block = (void *)*magazine_last(w);
        store(lane, class, w - WORD);
    }
    lock_release(&lane->lock);
    return block;
}

bool lane_locked_push(struct lane *lane, unsigned class, void *block)
{
    if (!enter(lane))
        return false;

    word w = lane->loaded[class];
    bool room = !magazine_is_full(class, w);
    if (room) {
        *magazine_next(w) = (word)block;
        *magazine_mark(block) = w;
        store(lane, class, w + WORD);
    }
    lock_release(&lane->lock);
    return room;
}

bool lane_locked_exchange(struct lane *lane, unsigned class, word old, word replacement)
{
    if (!enter(lane))
        return false;

    bool unchanged = lane->loaded[class] == old;
    if (unchanged)
        store(lane, class, replacement);
    lock_release(&lane->lock);
    return unchanged;
}
