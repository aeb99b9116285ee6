/* resize.c - the realloc family. */
#include <errno.h>
#include <string.h>

#include "heap/fast.h"

enum {
    COPY_MOST = 2 << 10, /* bytes of a chunk that is copied rather than grown where it is */
    SURPLUS_PART = 8,    /* what could be copied keeps up to this part unused, and CHUNK_MIN */
    ROOMY_LEAST =
        48 << 10, /* bytes: from here on a block that grows moves to where it can grow on */
    AT_TOP_LEAST = GRANULE, /* from here on an arena grows behind a block: its least step */
};

enum advice { STAY, MOVE, RESIZE };

/* What is best for a block of a chunk of `have` bytes that is to have `need`, where the cache
 * serves requests below `limit`. It stays where it has room for little more than that. It moves
 * where it shrinks to a size of the cache's, or grows from one for which a copy costs less than the
 * arena's lock and search, or where nothing is free behind it: trimming blocks that the cache
 * recycles whole fragments the arena. */
static enum advice advise(const void *block, size_t have, size_t need, size_t limit)
{
    size_t smaller = have < need ? have : need;
    bool moves = smaller - CHUNK_OVERHEAD < limit &&
                 (need < have || have <= COPY_MOST || heap_next_in_use(block, have));

    if (have >= need && have - need < (moves ? CHUNK_MIN + have / SURPLUS_PART : CHUNK_MIN))
        return STAY;
    return moves ? MOVE : RESIZE;
}

/* ---- from lane to lane ----------------------------------------------------------------------- */

/* NULL: not as easy as that. */
static void *realloc_fast(const struct lane_view *view, void *block, size_t size,
                          const char *function)
{
    size_t class, bytes;

    if (!heap_may_cache(view, block, &class, &bytes) || size >= REQUEST_LIMIT)
        return NULL;

    size_t have = heap_chunk_size(block);
    if (unlikely(have < CHUNK_MIN))
        return NULL;
    enum advice advice = advise(block, have, chunk_size_for(size), word_peek(&view->coarse_limit));
    if (advice != MOVE || (size >= ROOMY_LEAST && size > have))
        return advice == STAY ? block : NULL;
    void *copy = heap_malloc_fast(view, size);
    if (copy == NULL)
        return NULL;
    memcpy(copy, block, size < have - CHUNK_OVERHEAD ? size : have - CHUNK_OVERHEAD);
    if (!heap_push(view, class, bytes, block))
        heap_free(block, function);
    return copy;
}

/* ---- in general ------------------------------------------------------------------------------ */

/* What is tried without a copy: before one, instead of one, or after memory for one was short. */
enum attempt { BEFORE_COPY, NO_COPY, AFTER_COPY };

/* What a look at the block brought, most often under its arena's lock. */
struct resized {
    struct dvsm_heap *home; /* NULL: a fault, reported */
    void *block;            /* NULL: it could not be resized where it is */
    size_t usable;          /* then: bytes to be copied at most */
    size_t growths;         /* then: how often the block has grown, 0 if it is no large one */
};

/* Whether a look without the arena is enough: the block is in the cache, which is reported; it has
 * room for just that; or it is to be moved. */
static bool is_settled(struct dvsm_heap *heap, bool stays, enum attempt attempt, void *block,
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
    enum advice advice = stays ? advise(block, have, chunk_size_for(size), limit) : MOVE;
    if (advice == STAY)
        *result = (struct resized){.home = heap, .block = block};
    else if (advice == MOVE)
        *result = (struct resized){.home = heap, .usable = have - CHUNK_OVERHEAD};
    return result->home != NULL;
}

/* In the arena; where top begins behind the block the arena may grow. */
static void *resize_chunk(struct arena_call *call, void *block, size_t size, enum attempt attempt)
{
    call->may_move = attempt == BEFORE_COPY;

    void *resized = arena_resize_in_place(call, block, size);
    if (resized != NULL || size >= REQUEST_LIMIT || attempt == NO_COPY ||
        call->fault.kind != FAULT_NONE ||
        (attempt == BEFORE_COPY && heap_chunk_size(block) < AT_TOP_LEAST))
        return resized;
    return arena_resize_at_top(call, block, size);
}

/* Where the arena is busy the block stays if it has room, and is copied otherwise. */
static struct resized resize_by_look(struct dvsm_heap *heap, bool stays, void *block, size_t size)
{
    size_t usable = heap_usable_by_look(heap, block);

    if (usable == 0)
        return (struct resized){0};
    return (struct resized){
        .home = heap, .block = stays && usable >= size ? block : NULL, .usable = usable};
}

static struct resized resize_in_place(const struct dvsm_heap *wanted, void *block, size_t size,
                                      enum attempt attempt, const char *function)
{
    struct dvsm_heap *heap = dvsm_heap_of(block);
    bool stays = wanted == NULL || wanted == heap;
    struct resized result = {0};
    struct heap_call call;

    if (heap != NULL && is_settled(heap, stays, attempt, block, size, &result, function))
        return result;
    if (heap_enter_owner(&call, block, function)) {
        struct arena_call *arena = &call.hold.call;

        result.home = heap;
        if (stays)
            result.block = resize_chunk(arena, block, size, attempt);
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

/* The same for good: NULL with errno. What the system said on the way is not the user's. */
static void *resize_or_fail(const struct dvsm_heap *wanted, void *block, size_t size,
                            enum attempt attempt, const char *function)
{
    struct resized result = resize_in_place(wanted, block, size, attempt, function);

    if (result.home != NULL && result.block == NULL)
        errno = ENOMEM;
    return result.block;
}

/* `wanted`: the heap that the result is to be in; NULL: the block's own. Copied outside the lock:
 * nobody else may touch the old block, nobody else knows the new one. A call that met a fault
 * before the copy has failed: no second attempt. One that meets it after, freeing the old block,
 * reports it and has done what it was called for. */
static void *heap_realloc(struct dvsm_heap *wanted, void *block, size_t size, const char *function)
{
    int saved = errno;
    struct resized result = resize_in_place(wanted, block, size, BEFORE_COPY, function);

    if (result.home == NULL || result.block != NULL)
        return result.block;
    struct dvsm_heap *heap = wanted != NULL ? wanted : result.home;
    if (result.growths == 0 && size >= ROOMY_LEAST && size > result.usable)
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

/* SIZE_MAX, which no heap grants, where the product overflows. */
static size_t product(size_t count, size_t size)
{
    size_t bytes;

    return __builtin_mul_overflow(count, size, &bytes) ? SIZE_MAX : bytes;
}

static void *default_realloc(void *block, size_t size, const char *function)
{
    void *result = realloc_fast(&heap_default_view, block, size, function);

    if (result != NULL)
        return result;
    if (block == NULL)
        return heap_malloc_of(heap_default(), size, function);
    return heap_realloc(NULL, block, size, function);
}

void *dvsm_realloc(void *block, size_t size)
{
    return default_realloc(block, size, "dvsm_realloc");
}

void *dvsm_reallocarray(void *block, size_t count, size_t size)
{
    return default_realloc(block, product(count, size), "dvsm_reallocarray");
}

void *dvsm_realloc_in_place(void *block, size_t size)
{
    if (block == NULL) {
        errno = EINVAL;
        return NULL;
    }
    return resize_or_fail(NULL, block, size, NO_COPY, "dvsm_realloc_in_place");
}

static void *given_realloc(struct dvsm_heap *heap, void *block, size_t size, const char *function)
{
    if (heap == NULL || block == NULL)
        return heap_malloc_of(heap, size, function);
    return heap_realloc(heap, block, size, function);
}

void *dvsm_heap_realloc(dvsm_heap *heap, void *block, size_t size)
{
    return given_realloc(registry_checked(heap), block, size, "dvsm_heap_realloc");
}

void *dvsm_heap_reallocarray(dvsm_heap *heap, void *block, size_t count, size_t size)
{
    return given_realloc(registry_checked(heap), block, product(count, size),
                         "dvsm_heap_reallocarray");
}
