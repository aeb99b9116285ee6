/* hardened_free.c - what hardened heaps expect of a block that is freed. */
#include <errno.h>
#include <string.h>

#include "arena/remote.h"
#include "heap/fast.h"
#include "heap/hardened.h"

bool hardened_report(struct dvsm_heap *heap, const char *what, const void *block,
                     const char *function)
{
    heap_report(heap, &(struct fault){FAULT_ARGUMENT, what, block}, function);
    return false;
}

/* ---- what is wrong with a block -------------------------------------------------------------- */

/* Whether the header behind a block in use can be true. It may change at any moment, by one
 * store. */
static bool is_next_sound(const struct dvsm_heap *heap, const void *block, size_t chunk)
{
    const struct chunk *next = chunk_at(chunk_of_payload(block), chunk);
    size_t head = word_peek(&next->head);

    if ((head & PINUSE) == 0)
        return false;
    if ((head & CINUSE) != 0)
        return head == CHUNK_FENCE || seal_holds(&heap->arenas.seal, next, head);
    return (head & ~(HEAD_SIZE | HEAD_FLAGS)) == 0 && (head & HEAD_SIZE) != 0;
}

/* What is wrong with a block that is to be freed, and was asked for as `expected` says; NULL:
 * nothing. Then the block has the tail of a free one from now on, and is the caller's to fill: of
 * two calls that free it at once, one finds it free. */
static inline __attribute__((always_inline)) const char *claim(struct canary_block b,
                                                               const struct hardened_size *expected)
{
    struct canary_request asked;
    const char *wrong = hardened_wrong_with(b, &asked);

    if (wrong != NULL)
        return wrong;
    if (expected != NULL && asked.size != expected->size)
        return "not the size of this block";
    if (expected != NULL && expected->alignment != 0 &&
        asked.alignment != hardened_exponent(expected->alignment))
        return "not the alignment of this block";
    return canary_claim(b, asked) ? NULL : "double free";
}

/* ---- free ------------------------------------------------------------------------------------ */

/* Looks at a block and puts it onto its arena's list. `filled`: this call has found it good and
 * filled it already. */
static bool free_to_arena(struct dvsm_heap *heap, void *block, bool filled,
                          const struct hardened_size *expected, const char *function)
{
    struct arena_slot *slot = NULL;
    struct canary_block b = {0};
    struct heap_call call;

    if (heap_enter_owner(&call, block, function)) {
        slot = call.hold.slot;
        arenas_work_off(&heap->arenas, &call.hold); /* what was freed before */
        b = hardened_block_of(heap, block, arena_usable(heap_arena(&call), block));
    } else if (call.busy != NULL && !call.busy->arena.damaged) {
        slot = call.busy;
        b = hardened_block_of(heap, block, heap_usable_by_look(heap, block));
        if (b.usable == 0)
            heap_refuse(&call, "not a block in use, or its header is damaged", block);
    }
    bool good = b.usable >= CANARY_LEAST;
    if (good && !filled) {
        const char *wrong = claim(b, expected);

        good = wrong == NULL || heap_refuse(&call, wrong, block);
    }
    good &= heap_leave(&call);
    if (!good)
        return false;
    if (!filled)
        canary_fill(b);
    remote_push(slot, block);
    cache_note_freed(&heap->cache);
    return true;
}

bool hardened_put_back(struct dvsm_heap *heap, void *block, const char *function)
{
    return free_to_arena(heap, block, true, NULL, function);
}

/* For a block in a segment, by all signs in use and not uncached. */
static bool free_to_cache(struct dvsm_heap *heap, void *block, size_t chunk,
                          const struct hardened_size *expected, const char *function)
{
    struct canary_block b = hardened_block_of(heap, block, chunk - CHUNK_OVERHEAD);
    struct fault fault = {0};
    const char *wrong =
        is_next_sound(heap, block, chunk) ? claim(b, expected) : "the header behind it is damaged";

    if (unlikely(wrong != NULL))
        return hardened_report(heap, wrong, block, function);

    unsigned cls = class_below(chunk);
    canary_fill(b);
    if (likely(cls < CACHE_CLASSES && heap_push_any(&heap->cache.freeing, cls, block)))
        return true;
    bool taken = cls < CACHE_CLASSES && cache_free(&heap->cache, cls, block, &fault);
    heap_report(heap, &fault, function);
    return taken || hardened_put_back(heap, block, function);
}

static NOINLINE bool free_slowly(struct dvsm_heap *heap, void *block,
                                 const struct hardened_size *expected, const char *function)
{
    view_extend(heap, block);
    switch (heap_look(heap, block)) {
    case BLOCK_FREED:
        heap_report_freed(heap, block, function);
        return false;
    case BLOCK_PLAIN:
        if (!heap_is_uncached(block))
            return free_to_cache(heap, block, heap_chunk_size(block), expected, function);
        break;
    default:
        break;
    }
    return free_to_arena(heap, block, false, expected, function);
}

bool hardened_free(struct dvsm_heap *heap, void *block, const struct hardened_size *expected,
                   const char *function)
{
    const struct lane_view *view = &heap->cache.view;
    struct heap_place place;
    int saved = errno;
    bool freed;

    if (likely(heap_may_cache(view, &view->covered, block, &place)))
        freed = free_to_cache(heap, block, place.chunk, expected, function);
    else
        freed = free_slowly(heap, block, expected, function);
    errno = saved;
    return freed;
}

/* ---- looking at the whole heap --------------------------------------------------------------- */

void hardened_check(struct dvsm_heap *heap, const char *function)
{
    if (heap->hardened && !lock_holds_any() && heap_check(heap, stderr) > 0)
        hardened_report(heap, "the hardened heap is not sound", NULL, function);
}
