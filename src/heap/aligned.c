/* aligned.c - new blocks at a multiple of an alignment. */
#include <errno.h>

#include "base/bits.h"
#include "heap/fast.h"
#include "heap/hardened.h"

static bool is_multiple(const void *block, size_t alignment)
{
    return ((uintptr_t)block & (alignment - 1)) == 0;
}

/* Sends a block that is not aligned back to its arena. In the lane that it came from, it would be
 * found again. */
static void send_home(void *block, const char *function)
{
    struct heap_call call;

    if (heap_enter_owner(&call, block, function))
        arena_free(heap_arena(&call), block);
    else if (call.busy != NULL)
        heap_free_remotely(&call, block);
    heap_leave(&call);
}

/* An aligned block with a chunk of `bytes`, from the slow path; NULL: none was found. A `block`
 * that is not NULL came from the lane, and is tried first. */
static NOINLINE void *refill_aligned(struct dvsm_heap *heap, size_t alignment, size_t bytes,
                                     void *block, const char *function)
{
    cache_align(&heap->cache, class_above(bytes), alignment);
    if (block == NULL)
        block = heap_malloc(heap, bytes - CHUNK_OVERHEAD, function);
    if (block == NULL || is_multiple(block, alignment))
        return block;
    send_home(block, function);
    return NULL;
}

/* Serves what a lane could not. `block` is what the lane had, `bytes` the chunk size asked of it,
 * or 0. */
static NOINLINE void *allocate_aligned(struct dvsm_heap *heap, size_t alignment, size_t size,
                                       size_t bytes, void *block, const char *function)
{
    int saved = errno;

    if (bytes != 0 && bytes - CHUNK_OVERHEAD < cache_limit(&heap->cache))
        block = refill_aligned(heap, alignment, bytes, block, function);
    if (block == NULL)
        block = heap_serve(
            heap,
            &(struct heap_request){.kind = HEAP_MEMALIGN, .alignment = alignment, .size = size},
            function);
    if (block != NULL)
        errno = saved;
    return block;
}

/* The alignment is a power of two. */
static inline void *allocate_multiple(struct dvsm_heap *heap, size_t alignment, size_t size,
                                      const char *function)
{
    void *block = NULL;
    size_t bytes = 0;

    if (unlikely(heap->hardened))
        return hardened_malloc(heap, alignment, size, function);
    if (alignment <= CHUNK_ALIGN)
        return heap_malloc_of(heap, size, function);
    if (alignment <= CACHED_ALIGNMENT_MOST && size < CLASS_COARSE_MOST) {
        bytes = bits_round_up(chunk_size_for(size), alignment);
        block = heap_malloc_fast(&heap->cache.view, bytes - CHUNK_OVERHEAD);
    }
    if (likely(block != NULL) && likely(is_multiple(block, alignment)))
        return block;
    return allocate_aligned(heap, alignment, size, bytes, block, function);
}

/* Any alignment: rounded up to a power of two. */
void *heap_memalign(struct dvsm_heap *heap, size_t alignment, size_t size, const char *function)
{
    if (heap == NULL)
        return NULL;
    alignment = bits_power_of_two_above(alignment);
    if (alignment == 0)
        return heap_fail(EINVAL);
    return allocate_multiple(heap, alignment, size, function);
}

void *heap_aligned_alloc(struct dvsm_heap *heap, size_t alignment, size_t size,
                         const char *function)
{
    if (heap == NULL)
        return NULL;
    if (!bits_is_power_of_two(alignment))
        return heap_fail(EINVAL);
    return allocate_multiple(heap, alignment, size, function);
}

/* Returns the error instead of setting errno. `heap` may be NULL: then errno says why. */
int heap_posix_memalign(struct dvsm_heap *heap, void **out, size_t alignment, size_t size,
                        int saved, const char *function)
{
    int error = errno;

    if (heap != NULL && (!bits_is_power_of_two(alignment) || alignment < sizeof(void *))) {
        error = EINVAL;
    } else if (heap != NULL) {
        void *block = heap_memalign(heap, alignment, size, function);
        error = block != NULL ? 0 : errno;
        if (block != NULL)
            *out = block;
    }
    errno = saved;
    return error;
}
