/* limits.c - how much a heap has, may have, and gives back. */
#include <limits.h>

#include "heap/heap.h"

static int heap_trim(struct dvsm_heap *heap, size_t pad, const char *function)
{
    bool released = false;

    if (heap == NULL)
        return 0;
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        if (heap_enter_index(&call, heap, i, function))
            released |= arena_trim(&call.arena, pad);
        heap_leave(&call);
    }
    released |= segment_release(&heap->segments, pad) > 0;
    return released;
}

int dvsm_malloc_trim(size_t pad)
{
    return heap_trim(heap_default(), pad, "dvsm_malloc_trim");
}

int dvsm_heap_trim(dvsm_heap *heap, size_t pad)
{
    return heap_trim(registry_checked(heap), pad, "dvsm_heap_trim");
}

/* Thresholds take any value, -1 meaning the largest; arenas grow by whole granules. */
int dvsm_mallopt(int parameter, int value)
{
    struct dvsm_heap *heap = heap_default();
    size_t wanted = value < 0 ? ARENA_NEVER : (size_t)value;
    bool done = true;

    if (heap == NULL || value < -1 || (parameter == DVSM_M_GRANULARITY && value < 4096))
        return 0;
    if (parameter == DVSM_M_GRANULARITY && bits_is_power_of_two(wanted) && wanted < GRANULE)
        wanted = GRANULE;
    for (size_t i = 0; done && (i == 0 || i < region_arena_count(heap->region)); i++) {
        struct heap_call call;

        done = i < region_arena_count(heap->region)
                   ? heap_enter_index(&call, heap, i, "dvsm_mallopt")
                   : heap_enter(&call, heap, "dvsm_mallopt");
        done = done && arena_set_parameter(call.arena.arena, parameter, wanted);
        heap_leave(&call);
    }
    return done;
}

static struct segment_usage usage_of(struct dvsm_heap *heap)
{
    struct segment_usage usage;

    segment_usage(&heap->segments, &usage);
    return usage;
}

static size_t footprint(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : usage_of(heap).committed + region_metadata_bytes(heap->region);
}

static size_t max_footprint(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : usage_of(heap).committed_most + region_metadata_bytes(heap->region);
}

static size_t limit(const struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : heap->region->limit;
}

static size_t set_limit(struct dvsm_heap *heap, size_t bytes)
{
    return heap == NULL ? 0 : region_set_limit(&heap->segments, heap->region, bytes);
}

size_t dvsm_malloc_footprint(void)
{
    return footprint(heap_default());
}

size_t dvsm_malloc_max_footprint(void)
{
    return max_footprint(heap_default());
}

size_t dvsm_malloc_footprint_limit(void)
{
    return limit(heap_default());
}

size_t dvsm_malloc_set_footprint_limit(size_t bytes)
{
    return set_limit(heap_default(), bytes);
}

size_t dvsm_heap_footprint(dvsm_heap *heap)
{
    return footprint(registry_checked(heap));
}

size_t dvsm_heap_max_footprint(dvsm_heap *heap)
{
    return max_footprint(registry_checked(heap));
}

size_t dvsm_heap_limit(dvsm_heap *heap)
{
    return limit(registry_checked(heap));
}

size_t dvsm_heap_set_limit(dvsm_heap *heap, size_t bytes)
{
    return set_limit(registry_checked(heap), bytes);
}
