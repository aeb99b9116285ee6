/* resize.c - the realloc family. */
#include <stdint.h>

#include "heap/heap.h"

/* The product; if it overflows, SIZE_MAX, which no heap grants. */
static size_t product(size_t count, size_t size)
{
    size_t bytes;

    return __builtin_mul_overflow(count, size, &bytes) ? SIZE_MAX : bytes;
}

void *dvsm_realloc(void *block, size_t size)
{
    return heap_realloc_default(block, size, "dvsm_realloc");
}

void *dvsm_reallocarray(void *block, size_t count, size_t size)
{
    return heap_realloc_default(block, product(count, size), "dvsm_reallocarray");
}

void *dvsm_realloc_in_place(void *block, size_t size)
{
    return heap_realloc_in_place(block, size, "dvsm_realloc_in_place");
}

void *dvsm_heap_realloc(dvsm_heap *heap, void *block, size_t size)
{
    return heap_realloc_given(registry_writable(heap), block, size, "dvsm_heap_realloc");
}

void *dvsm_heap_reallocarray(dvsm_heap *heap, void *block, size_t count, size_t size)
{
    return heap_realloc_given(registry_writable(heap), block, product(count, size),
                              "dvsm_heap_reallocarray");
}
