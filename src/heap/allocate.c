/* allocate.c - the functions that return a new block. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "heap/fast.h"
#include "sync/page.h"

static void *fail(int error)
{
    errno = error;
    return NULL;
}

/* ---- malloc ---------------------------------------------------------------------------------- */

/* Serves a request that a lane could not. */
NOINLINE void *heap_malloc(struct dvsm_heap *heap, size_t size, const char *function)
{
    struct fault fault = {0};
    void *block = NULL;

    if (heap == NULL)
        return NULL;
    if (process_is_below()) { /* perhaps only that kept the lane from serving it */
        process_greet();
        block = heap_malloc_fast(&heap->cache.view, size);
        if (block != NULL)
            return block;
    }
    block = heap_malloc_locked(&heap->cache.locked, size);
    if (block != NULL)
        return block;
    if (size < class_size(CACHE_CLASSES - 1))
        block = cache_malloc(&heap->cache, class_above(chunk_size_for(size)), &fault);
    heap_report(heap, &fault, function);
    if (block != NULL)
        return block;
    return heap_serve(heap, &(struct heap_request){.kind = HEAP_MALLOC, .size = size}, function);
}

void *heap_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths, const char *function)
{
    return heap_serve(heap,
                      &(struct heap_request){.kind = HEAP_MALLOC, .size = size, .growths = growths},
                      function);
}

/* ---- the rest of the family ------------------------------------------------------------------ */

/* Zeroes the block outside the lock, so that others can allocate meanwhile. Memory that a large
 * block has just got from the system is zero already. */
static void *heap_calloc(struct dvsm_heap *heap, size_t count, size_t size, const char *function)
{
    const char *fresh = NULL;
    size_t bytes;
    void *block;

    if (heap == NULL)
        return NULL;
    if (__builtin_mul_overflow(count, size, &bytes))
        return fail(ENOMEM);
    if (bytes < CLASS_MOST)
        block = heap_malloc_of(heap, bytes, function);
    else
        block = heap_serve(
            heap, &(struct heap_request){.kind = HEAP_MALLOC, .size = bytes, .fresh = &fresh},
            function);
    return block != NULL ? memset(block, 0, bytes_to_clear(block, bytes, fresh)) : NULL;
}

/* ---- aligned */

/* Alignments up to this one are served from the cache, by the class whose size is the next
 * multiple. Arenas then cut that class's blocks at multiples of the alignment, so in the long run
 * all cached blocks are aligned. With larger alignments too much of a block would remain unused. */
enum { CACHED_ALIGNMENT_MOST = 128 };

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

    if (alignment <= CHUNK_ALIGN)
        return heap_malloc_of(heap, size, function);
    if (alignment <= CACHED_ALIGNMENT_MOST && size < CLASS_MOST) {
        bytes = bits_round_up(chunk_size_for(size), alignment);
        block = heap_malloc_fast(&heap->cache.view, bytes - CHUNK_OVERHEAD);
    }
    if (likely(block != NULL) && likely(is_multiple(block, alignment)))
        return block;
    return allocate_aligned(heap, alignment, size, bytes, block, function);
}

/* Any alignment: rounded up to a power of two. */
static void *heap_memalign(struct dvsm_heap *heap, size_t alignment, size_t size,
                           const char *function)
{
    if (heap == NULL)
        return NULL;
    alignment = bits_power_of_two_above(alignment);
    if (alignment == 0)
        return fail(EINVAL);
    return allocate_multiple(heap, alignment, size, function);
}

static inline void *heap_aligned_alloc(struct dvsm_heap *heap, size_t alignment, size_t size,
                                       const char *function)
{
    if (heap == NULL)
        return NULL;
    if (!bits_is_power_of_two(alignment))
        return fail(EINVAL);
    return allocate_multiple(heap, alignment, size, function);
}

/* Returns the error instead of setting errno. `heap` may be NULL: then errno says why. */
static int heap_posix_memalign(struct dvsm_heap *heap, void **out, size_t alignment, size_t size,
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

static void **heap_independent_calloc(struct dvsm_heap *heap, size_t count, size_t size,
                                      void **blocks, const char *function)
{
    if (heap == NULL)
        return NULL;
    return heap_serve(
        heap,
        &(struct heap_request){.kind = HEAP_CALLOCS, .count = count, .size = size, .array = blocks},
        function);
}

static void **heap_independent_comalloc(struct dvsm_heap *heap, size_t count, const size_t *sizes,
                                        void **blocks, const char *function)
{
    if (heap == NULL)
        return NULL;
    return heap_serve(heap,
                      &(struct heap_request){
                          .kind = HEAP_COMALLOCS, .count = count, .sizes = sizes, .array = blocks},
                      function);
}

/* ---- the default heap */

HOT void *dvsm_malloc(size_t size)
{
    void *block = heap_malloc_fast(&heap_default_view, size);

    if (likely(block != NULL))
        return block;
    return heap_malloc(heap_default(), size, "dvsm_malloc");
}

void *dvsm_calloc(size_t count, size_t size)
{
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
        return fail(ENOMEM);
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

/* ---- a given heap */

void *dvsm_heap_malloc(dvsm_heap *heap, size_t size)
{
    return heap_malloc_of(registry_checked(heap), size, "dvsm_heap_malloc");
}

void *dvsm_heap_calloc(dvsm_heap *heap, size_t count, size_t size)
{
    return heap_calloc(registry_checked(heap), count, size, "dvsm_heap_calloc");
}

void *dvsm_heap_aligned_alloc(dvsm_heap *heap, size_t alignment, size_t size)
{
    return heap_aligned_alloc(registry_checked(heap), alignment, size, "dvsm_heap_aligned_alloc");
}

void *dvsm_heap_memalign(dvsm_heap *heap, size_t alignment, size_t size)
{
    return heap_memalign(registry_checked(heap), alignment, size, "dvsm_heap_memalign");
}

int dvsm_heap_posix_memalign(dvsm_heap *heap, void **out, size_t alignment, size_t size)
{
    int saved = errno;

    return heap_posix_memalign(registry_checked(heap), out, alignment, size, saved,
                               "dvsm_heap_posix_memalign");
}

void **dvsm_heap_independent_calloc(dvsm_heap *heap, size_t count, size_t size, void **blocks)
{
    return heap_independent_calloc(registry_checked(heap), count, size, blocks,
                                   "dvsm_heap_independent_calloc");
}

void **dvsm_heap_independent_comalloc(dvsm_heap *heap, size_t count, const size_t *sizes,
                                      void **blocks)
{
    return heap_independent_comalloc(registry_checked(heap), count, sizes, blocks,
                                     "dvsm_heap_independent_comalloc");
}
