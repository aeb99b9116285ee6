/* support/stand_in.h - a heap whose lanes only the test uses.
 *
 * A stand-in for the thread's rseq area, which the kernel does not know, names the CPU whose lane
 * the test wants. So sequences run undisturbed, also when they are single-stepped, as long as this
 * thread (or a forked child, which has a copy) is the only one to use that lane.
 *
 *     struct dvsm_heap *heap = stand_in_heap(LANES_SEQUENCES, NULL);
 *     stand_in_be_on(1);
 *     dvsm_free(dvsm_heap_malloc(heap, 100));      the block is now in CPU 1's lane
 */
#ifndef DVSM_TESTS_SUPPORT_STAND_IN_H
#define DVSM_TESTS_SUPPORT_STAND_IN_H

#include <stdbool.h>
#include <stdint.h>

#include "heap/heap.h"

/* The stand-in's place, in the form of lane_view.rseq. */
intptr_t stand_in_offset(void);

/* From now on the stand-in says that the calling thread is on that CPU; for locked lanes the
 * thread moves there. False: it may not. */
bool stand_in_be_on(unsigned cpu);

/* A heap with those options that this process enters in that mode. LANES_NONE: the heap has
 * sequences, the process has no rseq. NULL if this build has no sequences. */
struct dvsm_heap *stand_in_heap(enum lane_mode mode, const dvsm_options *options);

#endif
