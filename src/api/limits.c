/* limits.c - how much memory a heap has, may have, and gives back. */
#include "heap/heap.h"

int dvsm_malloc_trim(size_t pad)
{
    return heap_trim(heap_default(), pad, "dvsm_malloc_trim");
}

int dvsm_heap_trim(dvsm_heap *heap, size_t pad)
{
    return heap_trim(registry_writable(heap), pad, "dvsm_heap_trim");
}

int dvsm_mallopt(int parameter, int value)
{
    return heap_set_parameter(heap_default(), parameter, value, "dvsm_mallopt");
}

size_t dvsm_malloc_footprint(void)
{
    return heap_footprint(heap_default());
}

size_t dvsm_malloc_max_footprint(void)
{
    return heap_footprint_most(heap_default());
}

size_t dvsm_malloc_footprint_limit(void)
{
    return heap_limit(heap_default());
}

size_t dvsm_malloc_set_footprint_limit(size_t bytes)
{
    return heap_set_limit(heap_default(), bytes, "dvsm_malloc_set_footprint_limit");
}

static size_t look(dvsm_heap *heap, size_t (*what)(struct dvsm_heap *heap))
{
    if (registry_checked(heap) == NULL || !heap_begin_look(heap))
        return 0;
    size_t bytes = what(heap);
    heap_end_look(heap);
    return bytes;
}

size_t dvsm_heap_footprint(dvsm_heap *heap)
{
    return look(heap, heap_footprint);
}

size_t dvsm_heap_max_footprint(dvsm_heap *heap)
{
    return look(heap, heap_footprint_most);
}

size_t dvsm_heap_limit(dvsm_heap *heap)
{
    return look(heap, heap_limit);
}

size_t dvsm_heap_set_limit(dvsm_heap *heap, size_t bytes)
{
    return heap_set_limit(registry_writable(heap), bytes, "dvsm_heap_set_limit");
}
