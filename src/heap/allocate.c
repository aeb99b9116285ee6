/* allocate.c - new blocks: malloc, calloc, many at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "heap/fast.h"
#include "heap/hardened.h"

/* ---- malloc ---------------------------------------------------------------------------------- */

/* Serves a request that a lane could not. */
NOINLINE void *heap_malloc(struct dvsm_heap *heap, size_t size, const char *function)
{
    struct fault fault = {0};
    void *block = NULL;

    if (heap == NULL)
        return NULL;
    if (unlikely(heap->hardened))
        return hardened_malloc(heap, 1, size, function);
    if (process_is_below()) { /* perhaps only that kept the lane from serving it */
        process_greet();
        block = heap_malloc_fast(&heap->cache.view, size);
        if (block != NULL)
            return block;
    }
    if (heap->cache.view.mode == LANES_LOCKED)
        block = lane_locked_get_ready() ? heap_malloc_locked(&heap->cache.view, size) : NULL;
    else
        block = heap_malloc_wide(&heap->cache.view, size);
    if (block != NULL)
        return block;
    if (size < class_size(CACHE_CLASSES - 1))
        block = cache_malloc(&heap->cache, class_above(chunk_size_for(size)), &fault);
    heap_report(heap, &fault, function);
    if (block != NULL)
        return block;
    return heap_serve(heap, &(struct heap_request){.kind = HEAP_MALLOC, .size = size}, function);
}

/* In locked mode this is the fast path: until heap_malloc() is called it needs no stack. */
NOINLINE void *heap_malloc_default(size_t size)
{
    void *block = heap_malloc_locked(&heap_default_view, size);

    return likely(block != NULL) ? block : heap_malloc(heap_default(), size, "dvsm_malloc");
}

void *heap_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths, const char *function)
{
    if (unlikely(heap->hardened))
        return hardened_malloc_grown(heap, size, growths, function);
    return heap_serve(heap,
                      &(struct heap_request){.kind = HEAP_MALLOC, .size = size, .growths = growths},
                      function);
}

/* ---- the rest of the family ------------------------------------------------------------------ */

/* Zeroes the block outside the lock, so that others can allocate meanwhile. Memory that a large
 * block has just got from the system is zero already. */
void *heap_calloc(struct dvsm_heap *heap, size_t count, size_t size, const char *function)
{
    const char *fresh = NULL;
    size_t bytes;
    void *block;

    if (heap == NULL)
        return NULL;
    if (__builtin_mul_overflow(count, size, &bytes))
        return heap_fail(ENOMEM);
    if (unlikely(heap->hardened))
        return hardened_malloc(heap, 1, bytes, function); /* its blocks are zeros */
    if (bytes < CLASS_MOST)
        block = heap_malloc_of(heap, bytes, function);
    else
        block = heap_serve(
            heap, &(struct heap_request){.kind = HEAP_MALLOC, .size = bytes, .fresh = &fresh},
            function);
    return block != NULL ? memset(block, 0, bytes_to_clear(block, bytes, fresh)) : NULL;
}

void **heap_independent_calloc(struct dvsm_heap *heap, size_t count, size_t size, void **blocks,
                               const char *function)
{
    if (heap == NULL)
        return NULL;
    if (unlikely(heap->hardened))
        return hardened_independent(heap, count, size, NULL, blocks, function);
    return heap_serve(
        heap,
        &(struct heap_request){.kind = HEAP_CALLOCS, .count = count, .size = size, .array = blocks},
        function);
}

void **heap_independent_comalloc(struct dvsm_heap *heap, size_t count, const size_t *sizes,
                                 void **blocks, const char *function)
{
    if (heap == NULL)
        return NULL;
    if (unlikely(heap->hardened))
        return hardened_independent(heap, count, 0, sizes, blocks, function);
    return heap_serve(heap,
                      &(struct heap_request){
                          .kind = HEAP_COMALLOCS, .count = count, .sizes = sizes, .array = blocks},
                      function);
}
