/* release.c - the functions that free a block, and the one that measures it. */
#include "heap/fast.h"

HOT void dvsm_free(void *block)
{
    if (unlikely(!heap_free_fast(&heap_default_view, HEAP_STAYS, block)))
        heap_free(block, "dvsm_free");
}

HOT void dvsm_free_sized(void *block, size_t size)
{
    if (unlikely(!heap_free_sized_fast(&heap_default_view, block, size)))
        heap_free_sized(block, 0, size, "dvsm_free_sized");
}

HOT void dvsm_free_aligned_sized(void *block, size_t alignment, size_t size)
{
    if (unlikely(!heap_free_sized_fast(&heap_default_view, block, size)))
        heap_free_sized(block, alignment, size, "dvsm_free_aligned_sized");
}

size_t dvsm_bulk_free(void **blocks, size_t count)
{
    return heap_bulk_free(blocks, count, "dvsm_bulk_free");
}

size_t dvsm_malloc_usable_size(void *block)
{
    return heap_usable_size(block, "dvsm_malloc_usable_size");
}
