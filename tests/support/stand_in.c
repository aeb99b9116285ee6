/* stand_in.c - an rseq area of the test's own. */
#define _GNU_SOURCE
#include "support/stand_in.h"

#include <stdio.h>
#include <stdlib.h>

#include "cache/lane_locked.h"
#include "support/cpu.h"

static _Thread_local struct {
    uint32_t cpu_id_start, cpu_id;
    uint64_t rseq_cs;
    uint32_t flags, rest[3];
} area __attribute__((aligned(32)));

intptr_t stand_in_offset(void)
{
#if LANE_HAS_SEQUENCES
    uintptr_t thread;

    __asm__("movq %%fs:0, %0" : "=r"(thread));
    return (intptr_t)((uintptr_t)&area - thread);
#else
    return 0;
#endif
}

bool stand_in_be_on(unsigned cpu)
{
    area.cpu_id = area.cpu_id_start = cpu;
    lane_choice.left = 0; /* for locked lanes: the next call asks again which CPU this is */
    return cpu_go_to(cpu);
}

struct dvsm_heap *stand_in_heap(enum lane_mode mode, const dvsm_options *options)
{
    if (mode != LANES_LOCKED && !LANE_HAS_SEQUENCES)
        return NULL;

    struct dvsm_heap *heap = dvsm_heap_create(options);
    if (heap == NULL) {
        perror("dvsm_heap_create");
        abort();
    }
    struct cache *cache = &heap->cache;

    /* Sets the mode that cache_open() would set, whatever mode the heap was made in. */
    heap->region->cache.mode = mode == LANES_LOCKED ? LANES_LOCKED : LANES_SEQUENCES;
    lane_view_close(&cache->view);
    cache->view.rseq = cache->freeing.rseq = stand_in_offset();
    if (heap->region->cache.classes != 0)
        lane_view_open(&cache->view, mode, CLASS_MOST - CHUNK_OVERHEAD + 1, heap->hardened);
    cache_extend_view(cache);
    return heap;
}
