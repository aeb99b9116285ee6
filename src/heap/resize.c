/* resize.c - the realloc family. */
#include <errno.h>
#include <string.h>

#include "heap/fast.h"
#include "heap/hardened.h"

/* Bytes: from here on an arena grows behind a block; its least step. */
#define AT_TOP_LEAST GRANULE

enum advice { STAY, MOVE, RESIZE };

/* What is best for a block with a chunk of `have` bytes that needs `need`, if the cache serves
 * requests below `limit`. The block stays if it has room for `need` and little more. It moves if it
 * shrinks to a size that the cache serves; if it grows from a size for which a copy costs less than
 * the arena's lock and search; or if no free chunk lies behind it. Trimming blocks that the cache
 * recycles whole fragments the arena. */
static enum advice advise(const void *block, size_t have, size_t need, size_t limit)
{
    size_t smaller = have < need ? have : need;
    bool moves = smaller - CHUNK_OVERHEAD < limit &&
                 (need < have || have <= POLICY_COPY_MOST || heap_next_in_use(block, have));

    if (have >= need && have - need < (moves ? CHUNK_MIN + have / POLICY_SURPLUS_PART : CHUNK_MIN))
        return STAY;
    return moves ? MOVE : RESIZE;
}

/* ---- from lane to lane ----------------------------------------------------------------------- */

/* Resizes by the fast path alone; NULL: that is not possible, or the lane has no block. */
static void *realloc_fast(const struct lane_view *view, void *block, size_t size,
                          const char *function)
{
    struct heap_place place;

    if (!heap_may_cache(view, &view->span, block, &place) || size >= REQUEST_LIMIT)
        return NULL;

    size_t have = place.chunk;
    if (unlikely(have < CHUNK_MIN))
        return NULL;
    enum advice advice = advise(block, have, chunk_size_for(size), word_peek(&view->coarse_limit));
    if (advice != MOVE || (size >= POLICY_ROOMY_LEAST && size > have))
        return advice == STAY ? block : NULL;
    void *copy = heap_malloc_fast(view, size);
    if (copy == NULL)
        return NULL;
    memcpy(copy, block, size < have - CHUNK_OVERHEAD ? size : have - CHUNK_OVERHEAD);
    if (!heap_push(view, &place, block))
        heap_free(block, function);
    return copy;
}

/* ---- in general ------------------------------------------------------------------------------ */

/* What a look at the block found, most often under its arena's lock. */
struct resized {
    struct dvsm_heap *home; /* NULL: a fault, reported */
    void *block;            /* NULL: it could not be resized in place */
    size_t usable;          /* then: bytes to be copied at most */
    size_t growths;         /* then: how often the block has grown, 0 if it is no large one */
};

/* Whether a look without the arena settles the matter: the block is in the cache, which is
 * reported; or it stays as it is; or it must be moved. */
static bool is_settled(struct dvsm_heap *heap, bool stays, enum heap_attempt attempt, void *block,
                       size_t size, struct resized *result, const char *function)
{
    switch (heap_look(heap, block)) {
    case BLOCK_FREED:
        heap_report_freed(heap, block, function);
        return true;
    case BLOCK_PLAIN:
        break;
    default:
        return false;
    }
    if (size >= REQUEST_LIMIT)
        return false;

    size_t have = heap_chunk_size(block);
    size_t limit = attempt == BEFORE_COPY ? cache_limit(&heap->cache) : 0;

    if (limit > CLASS_COARSE_MOST) /* a larger block is resized where it is, if that can be */
        limit = CLASS_COARSE_MOST;
    enum advice advice = stays ? advise(block, have, chunk_size_for(size), limit) : MOVE;
    if (advice == STAY)
        *result = (struct resized){.home = heap, .block = block};
    else if (advice == MOVE)
        *result = (struct resized){.home = heap, .usable = have - CHUNK_OVERHEAD};
    return result->home != NULL;
}

void *heap_resize_chunk(struct arena_call *call, void *block, size_t size,
                        enum heap_attempt attempt)
{
    call->may_move = attempt == BEFORE_COPY;

    void *resized = arena_resize_in_place(call, block, size);
    if (resized != NULL || size >= REQUEST_LIMIT || attempt == NO_COPY ||
        call->fault.kind != FAULT_NONE ||
        (attempt == BEFORE_COPY && heap_chunk_size(block) < AT_TOP_LEAST))
        return resized;
    return arena_resize_at_top(call, block, size);
}

/* For a block whose arena is busy: it stays if it has room, and is copied otherwise. */
static struct resized resize_by_look(struct dvsm_heap *heap, bool stays, void *block, size_t size)
{
    size_t usable = heap_usable_by_look(heap, block);

    if (usable == 0)
        return (struct resized){0};
    return (struct resized){
        .home = heap, .block = stays && usable >= size ? block : NULL, .usable = usable};
}

static struct resized resize_in_place(const struct dvsm_heap *wanted, void *block, size_t size,
                                      enum heap_attempt attempt, const char *function)
{
    struct dvsm_heap *heap = heap_of(block);
    bool stays = wanted == NULL || wanted == heap;
    struct resized result = {0};
    struct heap_call call;

    if (heap != NULL && is_settled(heap, stays, attempt, block, size, &result, function))
        return result;
    if (heap_enter_owner(&call, block, function)) {
        struct arena_call *arena = heap_arena(&call);

        result.home = heap;
        if (stays)
            result.block = heap_resize_chunk(arena, block, size, attempt);
        if (result.block == NULL && arena->fault.kind == FAULT_NONE) {
            result.usable = arena_usable(arena, block);
            result.growths = arena->growths;
        }
    } else if (call.busy != NULL) {
        result = resize_by_look(heap, stays, block, size);
        if (result.home == NULL)
            heap_refuse(&call, "not a block in use, or its header is damaged", block);
    }
    if (!heap_leave(&call))
        result = (struct resized){0};
    return result;
}

/* The same, as a final attempt: if it fails, returns NULL and sets errno, whatever the system left
 * in errno on the way. */
static void *resize_or_fail(const struct dvsm_heap *wanted, void *block, size_t size,
                            enum heap_attempt attempt, const char *function)
{
    struct resized result = resize_in_place(wanted, block, size, attempt, function);

    if (result.home != NULL && result.block == NULL)
        errno = ENOMEM;
    return result.block;
}

/* `wanted`: the heap that the result must be in; NULL: the block's own. The copy is made outside
 * the lock: nobody else may touch the old block, and nobody else knows the new one. A fault before
 * the copy fails the call, without a second attempt. A fault after the copy, while the old block is
 * freed, is reported, but the call succeeds. */
static void *heap_realloc(struct dvsm_heap *wanted, void *block, size_t size, const char *function)
{
    int saved = errno;
    struct dvsm_heap *home = heap_of(block);

    if (home != NULL && unlikely(home->read_only))
        return heap_fail(EROFS);
    if (home != NULL && unlikely(home->hardened))
        return hardened_realloc(home, wanted, block, size, true, function);
    struct resized result = resize_in_place(wanted, block, size, BEFORE_COPY, function);

    if (result.home == NULL || result.block != NULL)
        return result.block;
    struct dvsm_heap *heap = wanted != NULL ? wanted : result.home;
    if (result.growths == 0 && size >= POLICY_ROOMY_LEAST && size > result.usable)
        result.growths = 1;
    void *copy = result.growths != 0 ? heap_malloc_grown(heap, size, result.growths, function)
                                     : heap_malloc_of(heap, size, function);
    if (copy == NULL && errno == ENOMEM) {
        copy = resize_or_fail(wanted, block, size, AFTER_COPY, function);
        if (copy != NULL)
            errno = saved;
        return copy;
    }
    if (copy == NULL)
        return NULL;
    memcpy(copy, block, size < result.usable ? size : result.usable);
    heap_free(block, function);
    return copy;
}

void *heap_realloc_default(void *block, size_t size, const char *function)
{
    void *result = realloc_fast(&heap_default_view, block, size, function);

    if (result != NULL)
        return result;
    if (block == NULL)
        return heap_malloc_of(heap_default(), size, function);
    return heap_realloc(NULL, block, size, function);
}

void *heap_realloc_given(struct dvsm_heap *heap, void *block, size_t size, const char *function)
{
    if (heap == NULL || block == NULL)
        return heap_malloc_of(heap, size, function);
    return heap_realloc(heap, block, size, function);
}

void *heap_realloc_in_place(void *block, size_t size, const char *function)
{
    if (block == NULL)
        return heap_fail(EINVAL);
    struct dvsm_heap *heap = heap_of(block);
    if (heap != NULL && unlikely(heap->read_only))
        return heap_fail(EROFS);
    if (heap != NULL && unlikely(heap->hardened))
        return hardened_realloc(heap, NULL, block, size, false, function);
    return resize_or_fail(NULL, block, size, NO_COPY, function);
}
