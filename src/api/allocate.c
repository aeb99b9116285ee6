/* allocate.c - the functions that return a new block. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "heap/fast.h"
#include "sync/page.h"

/* ---- the default heap ------------------------------------------------------------------------ */

HOT void *dvsm_malloc(size_t size)
{
    void *block = heap_malloc_fast(&heap_default_view, size);

    return likely(block != NULL) ? block : heap_malloc_default(size);
}

HOT void *dvsm_calloc(size_t count, size_t size)
{
    size_t bytes;
    void *block = __builtin_mul_overflow(count, size, &bytes)
                      ? NULL
                      : heap_malloc_fast(&heap_default_view, bytes);

    if (likely(block != NULL))
        return memset(block, 0, bytes);
    return heap_calloc(heap_default(), count, size, "dvsm_calloc");
}

void *dvsm_aligned_alloc(size_t alignment, size_t size)
{
    return heap_aligned_alloc(heap_default(), alignment, size, "dvsm_aligned_alloc");
}

void *dvsm_memalign(size_t alignment, size_t size)
{
    return heap_memalign(heap_default(), alignment, size, "dvsm_memalign");
}

int dvsm_posix_memalign(void **out, size_t alignment, size_t size)
{
    int saved = errno;

    return heap_posix_memalign(heap_default(), out, alignment, size, saved, "dvsm_posix_memalign");
}

void *dvsm_valloc(size_t size)
{
    return heap_memalign(heap_default(), page_size(), size, "dvsm_valloc");
}

void *dvsm_pvalloc(size_t size)
{
    size_t page = page_size();
    size_t whole = size == 0 ? page : bits_round_up(size, page);

    if (whole < size)
        return heap_fail(ENOMEM);
    return heap_memalign(heap_default(), page, whole, "dvsm_pvalloc");
}

void **dvsm_independent_calloc(size_t count, size_t size, void **blocks)
{
    return heap_independent_calloc(heap_default(), count, size, blocks, "dvsm_independent_calloc");
}

void **dvsm_independent_comalloc(size_t count, const size_t *sizes, void **blocks)
{
    return heap_independent_comalloc(heap_default(), count, sizes, blocks,
                                     "dvsm_independent_comalloc");
}

/* ---- a given heap ---------------------------------------------------------------------------- */

static NOINLINE void *malloc_slowly(dvsm_heap *heap, size_t size)
{
    return heap_malloc(registry_writable(heap), size, "dvsm_heap_malloc");
}

/* The view of a slot whose heap is gone is closed. */
HOT void *dvsm_heap_malloc(dvsm_heap *heap, size_t size)
{
    void *block = registry_has(heap) ? heap_malloc_fast(&heap->cache.view, size) : NULL;

    return likely(block != NULL) ? block : malloc_slowly(heap, size);
}

void *dvsm_heap_calloc(dvsm_heap *heap, size_t count, size_t size)
{
    return heap_calloc(registry_writable(heap), count, size, "dvsm_heap_calloc");
}

void *dvsm_heap_aligned_alloc(dvsm_heap *heap, size_t alignment, size_t size)
{
    return heap_aligned_alloc(registry_writable(heap), alignment, size, "dvsm_heap_aligned_alloc");
}

void *dvsm_heap_memalign(dvsm_heap *heap, size_t alignment, size_t size)
{
    return heap_memalign(registry_writable(heap), alignment, size, "dvsm_heap_memalign");
}

int dvsm_heap_posix_memalign(dvsm_heap *heap, void **out, size_t alignment, size_t size)
{
    int saved = errno;

    return heap_posix_memalign(registry_writable(heap), out, alignment, size, saved,
                               "dvsm_heap_posix_memalign");
}

void **dvsm_heap_independent_calloc(dvsm_heap *heap, size_t count, size_t size, void **blocks)
{
    return heap_independent_calloc(registry_writable(heap), count, size, blocks,
                                   "dvsm_heap_independent_calloc");
}

void **dvsm_heap_independent_comalloc(dvsm_heap *heap, size_t count, const size_t *sizes,
                                      void **blocks)
{
    return heap_independent_comalloc(registry_writable(heap), count, sizes, blocks,
                                     "dvsm_heap_independent_comalloc");
}
