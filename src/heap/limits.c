/* limits.c - how much memory a heap has, may have, and gives back. */
#include <limits.h>

#include "heap/heap.h"

static struct segment_usage usage_of(struct dvsm_heap *heap)
{
    struct segment_usage usage;

    segment_usage(&heap->segments, &usage);
    return usage;
}

static size_t footprint(struct dvsm_heap *heap)
{
    return usage_of(heap).footprint;
}

/* The arenas together keep `pad` bytes at their tops. If their tops are smaller than that, the rest
 * of `pad` is kept as retained granules. */
static int heap_trim(struct dvsm_heap *heap, size_t pad, const char *function)
{
    struct fault fault = {0};

    if (heap == NULL)
        return 0;
    size_t before = footprint(heap), kept = 0;
    cache_drain(&heap->cache, DRAIN_ALL, &fault);
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        if (heap_enter_index(&call, heap, i, function)) {
            size_t keep = pad > kept ? pad - kept : 0;

            arena_trim(heap_arena(&call), keep);
            arena_punch(heap_arena(&call), keep);
            kept += call.hold.slot->arena.top_size;
        }
        heap_leave(&call);
    }
    segment_release(&heap->segments, pad > kept ? pad - kept : 0);
    cache_note_freed(&heap->cache);
    heap_report(heap, &fault, function);
    return footprint(heap) < before;
}

int dvsm_malloc_trim(size_t pad)
{
    return heap_trim(heap_default(), pad, "dvsm_malloc_trim");
}

int dvsm_heap_trim(dvsm_heap *heap, size_t pad)
{
    return heap_trim(registry_checked(heap), pad, "dvsm_heap_trim");
}

/* Memory retained above the new limit is released at once. */
static bool set_retain(struct dvsm_heap *heap, size_t bytes)
{
    segment_set_retain(&heap->segments, bytes);
    segment_release(&heap->segments, bytes);
    return true;
}

/* Thresholds take any value, -1 meaning the largest; arenas grow by whole granules. */
int dvsm_mallopt(int parameter, int value)
{
    struct dvsm_heap *heap = heap_default();
    size_t wanted = value < 0 ? ARENA_NEVER : (size_t)value;
    bool done = true;

    if (heap == NULL || value < -1 || (parameter == DVSM_M_GRANULARITY && value < 4096))
        return 0;
    if (parameter == DVSM_M_RETAIN)
        return set_retain(heap, wanted);
    if (parameter == DVSM_M_GRANULARITY && bits_is_power_of_two(wanted) && wanted < GRANULE)
        wanted = GRANULE;
    for (size_t i = 0; done && (i == 0 || i < region_arena_count(heap->region)); i++) {
        struct heap_call call;

        done = i < region_arena_count(heap->region)
                   ? heap_enter_index(&call, heap, i, "dvsm_mallopt")
                   : heap_enter(&call, heap, "dvsm_mallopt");
        done = done && arena_set_parameter(heap_arena(&call)->arena, parameter, wanted);
        heap_leave(&call);
    }
    return done;
}

static size_t footprint_now(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : footprint(heap);
}

static size_t max_footprint(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : usage_of(heap).footprint_most;
}

static size_t limit(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : usage_of(heap).limit;
}

/* The cache's own limit follows the heap's. */
static size_t set_limit(struct dvsm_heap *heap, size_t bytes, const char *function)
{
    struct fault fault = {0};

    if (heap == NULL)
        return 0;
    size_t limit = segment_set_limit(&heap->segments, bytes);
    cache_set_limit(&heap->cache, limit, &fault);
    heap_report(heap, &fault, function);
    return limit;
}

size_t dvsm_malloc_footprint(void)
{
    return footprint_now(heap_default());
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
    return set_limit(heap_default(), bytes, "dvsm_malloc_set_footprint_limit");
}

size_t dvsm_heap_footprint(dvsm_heap *heap)
{
    return footprint_now(registry_checked(heap));
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
    return set_limit(registry_checked(heap), bytes, "dvsm_heap_set_limit");
}
