/* entry.c - from a public call into one arena and out again. Faults are reported after the lock is
 * released. */
#include <errno.h>

#include "arena/remote.h"
#include "heap/heap.h"

static void start(struct heap_call *call, struct dvsm_heap *heap, const char *function)
{
    call->heap = heap;
    call->function = function;
    call->busy = NULL;
    call->may_free = false;
    arena_hold_none(&call->hold); /* the rest is set when an arena is entered */
}

bool heap_enter(struct heap_call *call, struct dvsm_heap *heap, const char *function)
{
    start(call, heap, function);
    return arenas_enter(&heap->arenas, &call->hold);
}

bool heap_enter_index(struct heap_call *call, struct dvsm_heap *heap, size_t index,
                      const char *function)
{
    start(call, heap, function);
    return arenas_enter_patiently(&heap->arenas, &call->hold, index);
}

bool heap_refuse(struct heap_call *call, const char *what, const void *block)
{
    return fault_raise(&heap_arena(call)->fault, FAULT_ARGUMENT, what, block);
}

bool heap_enter_owner(struct heap_call *call, const void *block, const char *function)
{
    start(call, heap_of(block), function);
    if (unlikely(call->heap == NULL))
        return heap_refuse(call, "not a pointer from any heap mapped here", block);
    if (unlikely(!chunk_is_aligned(block)))
        return heap_refuse(call, "not a pointer from this heap: misaligned", block);

    const struct region *region = call->heap->region;
    segment_owner_id owner = segment_owner(region->map, chunk_of_payload(block), NULL);
    if (unlikely(owner == 0 || owner > region_arena_count(region)))
        return heap_refuse(call, "not a block of this heap", block);
    if (unlikely(!arenas_enter_index(&call->heap->arenas, &call->hold, owner - 1))) {
        call->busy = region_arena(region, owner - 1);
        return false;
    }
    call->may_free = true;
    if (unlikely(arenas_have_remote(call->hold.slot)) &&
        segment_owner(region->map, block, NULL) == owner && remote_is_marked(block))
        arenas_work_off(&call->heap->arenas,
                        &call->hold); /* the list may say that it was freed already */
    return true;
}

/* Nothing is stored before the block is, by all signs, known to be in use. NB: a mark alone does
 * not say that the block was freed: a thread may have been killed after it set the mark and before
 * it put the block on the list. */
void heap_free_remotely(struct heap_call *call, void *block)
{
    struct arena_slot *slot = call->busy;

    if (slot->arena.damaged)
        return;
    if (heap_usable_by_look(call->heap, block) == 0)
        heap_refuse(call, "not a block in use, or its header is damaged", block);
    else if (remote_is_marked(block) && remote_has(slot, call->heap->region->map, block))
        heap_refuse(call, "double free", block);
    else
        remote_push(slot, block);
}

/* An arena was set aside: the cache drops the arena's blocks, and from now on each free is looked
 * at one by one. */
static NOINLINE void set_aside(struct dvsm_heap *heap)
{
    struct fault ignored = {0};

    view_hide_frees(heap);
    cache_drain(&heap->cache, DRAIN_HERE, &ignored);
}

static NOINLINE void report(struct dvsm_heap *heap, const struct fault *fault, const char *function)
{
    if (fault->kind == FAULT_DAMAGE && heap != NULL &&
        word_peek(&heap->region->arenas.damaged) != 0)
        set_aside(heap);
    fault_report(fault, heap != NULL ? heap->label : "no heap", function);
}

/* Leaves errno alone: the call may have done its work with another part of the heap, and goes
 * on. */
void heap_report_noted(struct dvsm_heap *heap, const char *function)
{
    struct fault noted;
    int saved = errno;

    while (unlikely(fault_take_noted(&noted)))
        report(heap, &noted, function);
    errno = saved;
}

NOINLINE bool heap_report_found(struct dvsm_heap *heap, const struct fault *fault,
                                const char *function)
{
    if (unlikely(fault_noted.kind != FAULT_NONE))
        heap_report_noted(heap, function);
    if (likely(fault->kind == FAULT_NONE))
        return false;
    report(heap, fault, function);
    errno = EINVAL;
    return true;
}

void heap_report_freed(struct dvsm_heap *heap, const void *block, const char *function)
{
    heap_report(heap, &(struct fault){FAULT_ARGUMENT, "double free", block}, function);
}

bool heap_leave(struct heap_call *call)
{
    if (call->hold.slot != NULL)
        arenas_leave(&call->heap->arenas, &call->hold);
    if (call->may_free)
        cache_note_freed(&call->heap->cache);
    if (unlikely(call->hold.found.kind != FAULT_NONE)) { /* others' block, not this call's */
        int saved = errno;

        heap_report(call->heap, &call->hold.found, call->function);
        errno = saved;
    }
    return !heap_report(call->heap, &heap_arena(call)->fault, call->function);
}
