/* support/stand_in.h - a heap whose lanes a test has to itself.
 *
 * A stand-in for the thread's rseq area, which the kernel does not know, names whatever CPU's lane
 * the test wants. So sequences run undisturbed, also under single-step, as long as this thread (or
 * a forked child, which has a copy) is the only one to use that lane.
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

/* The stand-in's place, as lane_view.rseq has it. */
intptr_t stand_in_offset(void);

/* From now on the calling thread is on that CPU: so says the stand-in, and for the locked lanes it
 * goes there. False: it may not. */
bool stand_in_be_on(unsigned cpu);

/* A heap with those options that this process enters in that mode; LANES_NONE: the heap has
 * sequences, the process no rseq. NULL where this build has no sequences. */
struct dvsm_heap *stand_in_heap(enum lane_mode mode, const dvsm_options *options);

#endif
