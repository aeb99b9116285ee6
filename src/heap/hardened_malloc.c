/* hardened_malloc.c - new blocks of hardened heaps. */
#include <errno.h>
#include <string.h>

#include "heap/fast.h"
#include "heap/hardened.h"

static void *pop(const struct lane_view *view, unsigned cls)
{
    switch (view->mode) {
    case LANES_SEQUENCES:
        return lane_pop_any(view, cls);
    case LANES_LOCKED:
        return lane_locked_get_ready() ? lane_locked_pop(heap_locked_lane(view), cls) : NULL;
    default:
        return NULL;
    }
}

/* Makes a block of the class that has just left the cache one of zeros. False: its header, its mark
 * or its fill is not what it was, which is reported; nobody gets the block any more. */
static NOINLINE bool take_over(struct dvsm_heap *heap, unsigned cls, void *block,
                               const char *function)
{
    if (!cache_is_clean(&heap->cache, cls, block))
        return hardened_report(heap, CANARY_FREE_WRITTEN, block, function);
    memset(block, 0, MAGAZINE_MARK_BYTES);
    return true;
}

/* The same in fewer instructions, for most blocks; false: take_over() may know better. */
static inline __attribute__((always_inline)) bool take_over_fast(struct dvsm_heap *heap,
                                                                 void *block, size_t *usable)
{
    struct heap_place place;

    if (!likely(heap_find_place(&heap->cache.view, &heap->cache.view.covered, HEAP_STAYS, block,
                                &place)))
        return false;
    *usable = place.chunk - CHUNK_OVERHEAD;
    if (!likely(magazine_has_mark(block)) ||
        !likely(canary_is_filled(hardened_block_of(heap, block, *usable), MAGAZINE_MARK_BYTES)))
        return false;
    memset(block, 0, MAGAZINE_MARK_BYTES);
    return true;
}

/* A block of the class, as the cache has it; NULL: it has none. */
static void *from_cache(struct dvsm_heap *heap, unsigned cls, const char *function)
{
    struct fault fault = {0};
    void *block = cls < CACHE_CLASSES ? pop(&heap->cache.view, cls) : NULL;

    if (block == NULL)
        block = cache_malloc(&heap->cache, cls, &fault);
    heap_report(heap, &fault, function);
    return block;
}

/* `growths`: as in struct heap_request. */
static void *from_arena(struct dvsm_heap *heap, size_t alignment, size_t bytes, size_t growths,
                        const char *function)
{
    const char *fresh = NULL;
    void *block = heap_serve(
        heap,
        &(struct heap_request){.kind = alignment > CHUNK_ALIGN ? HEAP_MEMALIGN : HEAP_MALLOC,
                               .alignment = alignment > CHUNK_ALIGN ? alignment : 0,
                               .size = bytes,
                               .growths = growths,
                               .fresh = &fresh},
        function);

    return block != NULL ? memset(block, 0, bytes_to_clear(block, bytes - CANARY_ROOM, fresh))
                         : NULL;
}

/* The class that serves a request; an alignment is served as in aligned.c, by the class whose size
 * is the next multiple. CLASS_NONE: an arena serves it. */
static unsigned class_for(struct dvsm_heap *heap, size_t alignment, size_t bytes)
{
    if (bytes >= cache_limit(&heap->cache) || alignment > CACHED_ALIGNMENT_MOST)
        return CLASS_NONE;
    if (alignment <= CHUNK_ALIGN)
        return class_above(chunk_size_for(bytes));

    unsigned cls = class_above(bits_round_up(chunk_size_for(bytes), alignment));
    if (cls < CACHE_CLASSES)
        cache_align(&heap->cache, cls, alignment);
    return cls;
}

static NOINLINE void *malloc_slowly(struct dvsm_heap *heap, size_t alignment, size_t size,
                                    const char *function)
{
    size_t bytes = hardened_bytes(size);
    int saved = errno;

    if (process_is_below())
        process_greet();
    unsigned cls = class_for(heap, alignment, bytes);
    void *block = from_cache(heap, cls, function);
    if (block != NULL && !take_over(heap, cls, block, function))
        return NULL;
    if (block != NULL && ((uintptr_t)block & (alignment - 1)) != 0) {
        hardened_put_back(heap, block, function); /* the cache would find it again */
        block = NULL;
    }
    if (block == NULL)
        block = from_arena(heap, alignment, bytes, 0, function);
    if (block == NULL)
        return NULL;
    canary_arm(cache_canary(&heap->cache, block),
               (struct canary_request){size, hardened_exponent(alignment)});
    errno = saved;
    return block;
}

void *hardened_malloc(struct dvsm_heap *heap, size_t alignment, size_t size, const char *function)
{
    const struct lane_view *view = &heap->cache.view;
    size_t bytes = hardened_bytes(size), usable;

    if (view->mode != LANES_SEQUENCES || bytes >= view->limit || alignment > CHUNK_ALIGN ||
        process_is_below())
        return malloc_slowly(heap, alignment, size, function);
    unsigned cls = class_above(chunk_size_for(bytes));
    void *block = lane_pop_any(view, cls);
    if (unlikely(block == NULL))
        return malloc_slowly(heap, alignment, size, function);
    if (!likely(take_over_fast(heap, block, &usable))) {
        if (!take_over(heap, cls, block, function))
            return NULL;
        usable = chunk_usable(chunk_of_payload(block));
    }
    canary_arm(hardened_block_of(heap, block, usable),
               (struct canary_request){size, hardened_exponent(alignment)});
    return block;
}

void *hardened_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths,
                            const char *function)
{
    void *block = from_arena(heap, 1, hardened_bytes(size), growths, function);

    if (block != NULL)
        canary_arm(cache_canary(&heap->cache, block), (struct canary_request){.size = size});
    return block;
}

void hardened_mark_new(const struct dvsm_heap *heap, void *block)
{
    canary_disarm(cache_canary(&heap->cache, block));
}

/* Gets the blocks one by one, so they are not side by side. False: not all were to be had. */
static bool get_each(struct dvsm_heap *heap, size_t count, size_t size, const size_t *sizes,
                     void **array, const char *function)
{
    size_t done = 0;

    for (; done < count; done++) {
        array[done] = hardened_malloc(heap, 1, sizes != NULL ? sizes[done] : size, function);
        if (array[done] == NULL)
            break;
    }
    if (done == count)
        return true;
    while (done > 0)
        hardened_free(heap, array[--done], NULL, function);
    return false;
}

void **hardened_independent(struct dvsm_heap *heap, size_t count, size_t size, const size_t *sizes,
                            void **blocks, const char *function)
{
    size_t bytes;

    if (count == 0)
        return blocks != NULL ? blocks : hardened_malloc(heap, 1, 0, function);
    if (__builtin_mul_overflow(count, sizeof *blocks, &bytes))
        return heap_fail(ENOMEM);
    void **array = hardened_malloc(heap, 1, bytes, function);
    bool done = array != NULL && get_each(heap, count, size, sizes, array, function);
    if (done && blocks == NULL)
        return array;
    if (done)
        memcpy(blocks, array, bytes);
    if (array != NULL)
        hardened_free(heap, array, NULL, function);
    return done ? blocks : NULL;
}
