/* release.c - freeing blocks, one or many, and measuring one. */
#include <errno.h>

#include "heap/fast.h"
#include "heap/hardened.h"

/* ---- free ------------------------------------------------------------------------------------ */

/* Puts the block into the cache if it belongs there. False: its arena must take it, as for a block
 * marked CHUNK_UNCACHED. */
static bool free_to_cache(struct dvsm_heap *heap, void *block, const char *function)
{
    struct fault fault = {0};

    view_extend(heap, block);
    switch (heap_look(heap, block)) {
    case BLOCK_FREED:
        heap_report_freed(heap, block, function);
        return true;
    case BLOCK_PLAIN:
        break;
    default:
        return false;
    }
    if (heap_is_uncached(block))
        return false;
    unsigned cls = class_below(heap_chunk_size(block));
    bool taken = cls < CACHE_CLASSES && (heap_push_any(&heap->cache.view, cls, block) ||
                                         cache_free(&heap->cache, cls, block, &fault));
    heap_report(heap, &fault, function);
    if (unlikely(!taken && magazine_is_marked(block)) && heap_look(heap, block) == BLOCK_FREED) {
        heap_report_freed(heap, block, function);
        return true;
    }
    return taken;
}

/* Frees a block that no lane took. */
static NOINLINE void free_slowly(struct dvsm_heap *heap, void *block, const char *function)
{
    struct heap_call call;
    int saved = errno;

    if (heap == NULL || !free_to_cache(heap, block, function)) {
        if (heap_enter_owner(&call, block, function))
            arena_free(heap_arena(&call), block);
        else if (call.busy != NULL)
            heap_free_remotely(&call, block);
        heap_leave(&call);
    }
    errno = saved;
}

/* A lane of whatever heap the block is in is tried first. */
static NOINLINE void free_anywhere(void *block, const char *function)
{
    struct dvsm_heap *heap;

    if (block == NULL)
        return;
    heap = heap_of(block);
    if (heap != NULL && unlikely(heap->read_only))
        errno = EROFS;
    else if (heap != NULL && unlikely(heap->hardened))
        hardened_free(heap, block, NULL, function);
    else if (heap == NULL || (!heap_free_fast(&heap->cache.view, HEAP_STAYS, block) &&
                              !heap_free_locked(&heap->cache.view, block)))
        free_slowly(heap, block, function);
}

static NOINLINE void free_locked(void *block, const char *function)
{
    if (!heap_free_locked(&heap_default_view, block))
        free_anywhere(block, function);
}

/* NB: what comes first here needs no stack, so that a block of the heap that the thread used last
 * is freed about as fast as one of the default heap. That heap may be gone by now, and another one
 * in its slot. But if the block lies in the slot's heap at one instant during the call, that heap
 * is the block's, and so stays until the call ends. */
NOINLINE void heap_free(void *block, const char *function)
{
    struct dvsm_heap *last = heap_last;

    if (last != NULL && heap_free_fast(&last->cache.view, HEAP_MAY_GO, block))
        return;
    if (heap_default_view.mode == LANES_LOCKED)
        free_locked(block, function);
    else
        free_anywhere(block, function);
}

/* A size that the block cannot have says that something is wrong with block or size: nothing is
 * freed. */
NOINLINE void heap_free_sized(void *block, size_t alignment, size_t size, const char *function)
{
    struct dvsm_heap *heap = block != NULL ? heap_of(block) : NULL;
    struct heap_place place = {0};
    int saved = errno;

    if (heap != NULL && unlikely(heap->read_only)) {
        errno = EROFS;
        return;
    }
    if (heap != NULL && unlikely(heap->hardened)) {
        hardened_free(heap, block, &(struct hardened_size){size, alignment}, function);
        return;
    }
    if (heap != NULL &&
        !heap_may_cache(&heap->cache.view, &heap->cache.view.covered, block, &place)) {
        size_t usable = heap_usable_by_look(heap, block);

        place.chunk = usable != 0 ? usable + CHUNK_OVERHEAD : 0;
    }
    if (place.chunk != 0 && !heap_can_be_of(place.chunk, size))
        heap_report(heap, &(struct fault){FAULT_ARGUMENT, "not the size of this block", block},
                    function);
    else
        heap_free(block, function);
    errno = saved;
}

/* Whether it makes sense to lock an arena for the block. Pointers from elsewhere are left alone. */
static bool may_be_block(const void *block)
{
    const struct dvsm_heap *heap = heap_of(block);

    return heap != NULL && chunk_is_aligned(block) &&
           segment_owner(heap->region->map, chunk_of_payload(block), NULL) != 0;
}

/* Frees blocks[0] and those further on that belong to the same arena. A wrong pointer further on
 * stops this; it is reported when its own turn comes. Damage is reported at once: the arena is set
 * aside, so another look would find nothing. False: a fault was reported. */
static bool free_with_the_first(void **blocks, size_t count, const char *function)
{
    struct heap_call call;

    if (!may_be_block(blocks[0]))
        return true;
    if (heap_enter_owner(&call, blocks[0], function) && !call.hold.slot->arena.damaged) {
        arena_bulk_free(heap_arena(&call), blocks, count);
    } else if (call.busy != NULL && !call.busy->arena.damaged) {
        heap_free_remotely(&call, blocks[0]);
        if (heap_arena(&call)->fault.kind == FAULT_NONE)
            blocks[0] = NULL;
    }
    if (blocks[0] == NULL && heap_arena(&call)->fault.kind == FAULT_ARGUMENT)
        heap_arena(&call)->fault.kind = FAULT_NONE;
    return heap_leave(&call);
}

/* Whether the entry is in the cache, and so free already; an arena would not notice that. */
static bool is_cached(const void *block)
{
    struct dvsm_heap *heap = block != NULL ? heap_of(block) : NULL;

    return heap != NULL && heap_look(heap, block) == BLOCK_FREED;
}

/* How many entries, from the first on, are not in the cache. */
static size_t count_not_cached(void *const *blocks, size_t count)
{
    size_t n = 0;

    while (n < count && !is_cached(blocks[n]))
        n++;
    return n;
}

static bool is_read_only(const void *block)
{
    const struct dvsm_heap *heap = block != NULL ? heap_of(block) : NULL;

    return heap != NULL && heap->read_only;
}

static bool is_hardened(const void *block)
{
    const struct dvsm_heap *heap = block != NULL ? heap_of(block) : NULL;

    return heap != NULL && heap->hardened;
}

static bool hardened_free_entry(void **block, const char *function)
{
    if (!hardened_free(heap_of(*block), *block, NULL, function))
        return false;
    *block = NULL;
    return true;
}

size_t heap_bulk_free(void **blocks, size_t count, const char *function)
{
    int saved = errno;
    size_t left = 0, end = 0;
    int error = 0;

    for (size_t i = 0; i < count; i++) {
        if (is_read_only(blocks[i])) {
            error = EROFS;
            left++;
            end = i + 1;
            continue;
        }
        if (is_hardened(blocks[i])) {
            if (!hardened_free_entry(&blocks[i], function))
                error = EINVAL;
            left += blocks[i] != NULL;
            end = i + 1;
            continue;
        }
        if (i >= end)
            end = i + count_not_cached(blocks + i, count - i);
        if (i < end && blocks[i] != NULL) {
            if (!free_with_the_first(blocks + i, end - i, function))
                error = EINVAL;
        } else if (i >= end) {
            heap_report_freed(heap_of(blocks[i]), blocks[i], function);
            error = EINVAL;
        }
        left += blocks[i] != NULL;
    }
    errno = error == 0 ? saved : error;
    return left;
}

size_t heap_usable_size(const void *block, const char *function)
{
    struct heap_call call;
    size_t usable = 0;
    struct dvsm_heap *heap = block != NULL ? heap_of(block) : NULL;

    if (block == NULL)
        return 0;
    if (heap != NULL && unlikely(heap->read_only))
        return heap_usable_by_look(heap, block);
    if (heap != NULL && unlikely(heap->hardened))
        return hardened_usable_size(heap, block, function);
    switch (heap != NULL ? heap_look(heap, block) : BLOCK_OTHER) {
    case BLOCK_PLAIN:
        return heap_chunk_size(block) - CHUNK_OVERHEAD;
    case BLOCK_FREED:
        heap_report_freed(heap, block, function);
        return 0;
    default:
        break;
    }
    if (heap_enter_owner(&call, block, function))
        usable = arena_usable(heap_arena(&call), block);
    else if (call.busy != NULL && (usable = heap_usable_by_look(heap, block)) == 0)
        heap_refuse(&call, "not a block in use, or its header is damaged", block);
    return heap_leave(&call) ? usable : 0;
}
