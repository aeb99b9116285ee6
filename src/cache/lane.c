/* lane.c - finding the rseq area; lanes behind locks. */
#define _GNU_SOURCE
#include "cache/lane_locked.h"

#include <sched.h>

/* glibc 2.35 and later has both symbols; elsewhere they are absent. Size 0: no area is registered.
 * Later kernels have a larger area than the first version; the fields used here are in all of
 * them. */
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
    if (view->mode == LANES_SEQUENCES) {
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

__thread struct lane_choice lane_choice;

NOINLINE size_t lane_choose(void)
{
    int cpu = sched_getcpu();

    lane_choice.cpu = cpu < 0 ? 0 : (unsigned)cpu;
    lane_choice.left = LANE_CHOICE_USES;
    return lane_choice.cpu;
}
