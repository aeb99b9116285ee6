/* entry.c - from a public call into one arena and out again: choosing it, locking it, repairing
 * what a dead process left, reporting faults when no lock is held any more. */
#include <errno.h>

#include "heap/heap.h"

static void start(struct heap_call *call, struct dvsm_heap *heap, const char *function)
{
    *call = (struct heap_call){.heap = heap, .function = function};
}

/* False: the calling thread holds the lock already. A signal handler interrupted a call, or a
 * visitor called back. */
static bool lock_arena(struct heap_call *call, size_t index)
{
    struct arena_slot *slot = region_arena(call->heap->region, index);
    enum lock_state state = lock_acquire(&slot->lock);

    if (state == LOCK_REENTERED)
        return false;
    if (unlikely(state == LOCK_OWNER_DIED)) {
        arena_recover(&slot->arena, &call->heap->source.source);
        slot->recoveries++;
        lock_repaired(&slot->lock);
    }
    call->slot = slot;
    call->arena = (struct arena_call){.arena = &slot->arena, .source = &call->heap->source.source};
    return true;
}

static void unlock_arena(struct heap_call *call)
{
    lock_release(&call->slot->lock);
    call->slot = NULL;
}

/* The arena that is tried first. NB: the one place that will spread CPUs over several. */
static size_t preferred_arena(void)
{
    return 0;
}

/* Damaged arenas are passed by; where none is left, one more is made. */
bool heap_enter(struct heap_call *call, struct dvsm_heap *heap, const char *function)
{
    start(call, heap, function);
    for (size_t i = preferred_arena();; i++) {
        if (unlikely(i >= region_arena_count(heap->region)) &&
            !region_make_arena(&heap->segments, heap->region, i))
            return false;
        if (unlikely(!lock_arena(call, i)))
            continue;
        if (likely(!call->slot->arena.damaged))
            return true;
        unlock_arena(call);
    }
}

bool heap_enter_index(struct heap_call *call, struct dvsm_heap *heap, size_t index,
                      const char *function)
{
    start(call, heap, function);
    return lock_arena(call, index);
}

static bool refuse(struct heap_call *call, const char *what, const void *block)
{
    return fault_raise(&call->arena.fault, FAULT_ARGUMENT, what, block);
}

bool heap_enter_owner(struct heap_call *call, const void *block, const char *function)
{
    start(call, dvsm_heap_of(block), function);
    if (unlikely(call->heap == NULL))
        return refuse(call, "not a pointer from any heap mapped here", block);
    if (unlikely(!chunk_is_aligned(block)))
        return refuse(call, "not a pointer from this heap: misaligned", block);

    const struct region *region = call->heap->region;
    segment_owner_id owner = segment_owner(region->map, chunk_of_payload(block), NULL);
    if (unlikely(owner == 0 || owner > region_arena_count(region)))
        return refuse(call, "not a block of this heap", block);
    if (unlikely(!lock_arena(call, owner - 1)))
        return refuse(call, "called from inside a call that works on the block's arena", block);
    return true;
}

bool heap_leave(struct heap_call *call)
{
    const struct fault *fault = &call->arena.fault;

    if (call->slot != NULL)
        unlock_arena(call);
    if (likely(fault->kind == FAULT_NONE))
        return true;
    fault_report(fault, call->heap != NULL ? call->heap->label : "no heap", call->function);
    errno = EINVAL;
    return false;
}

void *heap_leave_with(struct heap_call *call, void *block)
{
    if (unlikely(!heap_leave(call)))
        return NULL;
    if (unlikely(block == NULL))
        errno = ENOMEM;
    return block;
}
