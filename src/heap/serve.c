/* serve.c - serves one request from the arenas. This file decides where memory is looked for, in
 * which order, until there is none left.
 *
 *     what the arenas have     the CPU's own first, then the others
 *     what the cache has       if the depots have enough to make it worth while
 *     new granules             from the map; a large block takes them first of all
 *     ---- from here on memory is short
 *     all of the cache         as far as it can be reached from here
 *     what arenas can spare    unused segments, and whole pages inside free chunks and tops, if
 *                              some are large: others may grow by these
 *
 * A size that is refused in the end is remembered until something is freed (cache.h).
 */
#include <errno.h>

#include "heap/hardened.h"

static void *serve_malloc(struct arena_call *call, const struct heap_request *r)
{
    call->growths = r->growths;
    call->fresh = NULL;

    void *block = arena_malloc(call, r->size);
    if (r->fresh != NULL)
        *r->fresh = call->fresh;
    return block;
}

static void *serve(struct arena_call *call, const struct heap_request *r)
{
    switch (r->kind) {
    case HEAP_MEMALIGN:
        return arena_memalign(call, r->alignment, r->size);
    case HEAP_CALLOCS:
        return arena_independent_calloc(call, r->count, r->size, r->array);
    case HEAP_COMALLOCS:
        return arena_independent_comalloc(call, r->count, r->sizes, r->array);
    default:
        return serve_malloc(call, r);
    }
}

/* Bytes of address space that the request takes at least; SIZE_MAX: more than can be counted. */
static size_t least_bytes(const struct heap_request *r)
{
    size_t bytes = r->size > r->alignment ? r->size : r->alignment;

    if (r->kind == HEAP_CALLOCS && __builtin_mul_overflow(r->count, r->size, &bytes))
        return SIZE_MAX;
    if (r->kind == HEAP_COMALLOCS) {
        bytes = 0;
        for (size_t i = 0; i < r->count; i++)
            if (__builtin_add_overflow(bytes, r->sizes[i], &bytes))
                return SIZE_MAX;
    }
    return bytes;
}

/* Plain requests of this many bytes or more are refused if this request was. */
static size_t refused_bytes(const struct heap_request *r)
{
    size_t each = CHUNK_MIN + r->alignment;

    if (r->kind == HEAP_MALLOC)
        return r->size;
    return least_bytes(r) + each * (r->count != 0 ? r->count : 1);
}

enum outcome { SERVED, FAULTED, NO_MEMORY, WOULD_GROW };

/* A request on its way. */
struct search {
    struct dvsm_heap *heap;
    const struct heap_request *request;
    const char *function; /* the public one */
    void *block;          /* what it got */
};

/* AS_THEY_ARE: from what any arena has, the CPU's own first. GROW_ONE: from the CPU's arena, which
 * may grow. GROW_ANY: from any arena, which may grow. */
enum reach { AS_THEY_ARE, GROW_ONE, GROW_ANY };

static enum outcome attempt(struct search *s, enum reach reach)
{
    size_t bytes = reach == AS_THEY_ARE ? least_bytes(s->request) : 0;
    struct heap_call call;
    bool would_grow = false;

    s->block = NULL;
    if (heap_enter(&call, s->heap, s->function)) {
        do {
            heap_arena(&call)->no_growth = reach == AS_THEY_ARE;
            s->block = serve(heap_arena(&call), s->request);
            would_grow |= heap_arena(&call)->short_of_memory;
        } while (s->block == NULL && reach != GROW_ONE &&
                 heap_arena(&call)->fault.kind == FAULT_NONE &&
                 arenas_move_on(&s->heap->arenas, &call.hold, bytes));
        if (s->block != NULL && unlikely(s->heap->hardened))
            hardened_mark_new(s->heap, s->block);
    }
    if (unlikely(!heap_leave(&call)))
        return FAULTED;
    if (likely(s->block != NULL))
        return SERVED;
    return would_grow ? WOULD_GROW : NO_MEMORY;
}

static enum outcome usual_search(struct search *s, struct fault *fault)
{
    const struct heap_request *r = s->request;
    bool large =
        r->kind == HEAP_MALLOC && r->size >= POLICY_LARGE_THRESHOLD; /* granules of its own */
    enum outcome outcome = attempt(s, large ? GROW_ONE : AS_THEY_ARE);

    while (outcome == WOULD_GROW && cache_reduce_before_growth(&s->heap->cache, fault))
        outcome = attempt(s, AS_THEY_ARE);
    return outcome == WOULD_GROW ? attempt(s, GROW_ONE) : outcome;
}

/* Frees what was freed into the list of a hardened heap's arena, unless that is held for long.
 * Returns whether there was anything. */
static bool end_quarantine(struct dvsm_heap *heap, const struct arena_slot *slot, size_t index,
                           const char *function)
{
    struct arena_hold hold;

    arena_hold_none(&hold);
    if (!arenas_have_remote(slot) || !arenas_enter_index(&heap->arenas, &hold, index))
        return false;
    arenas_work_off(&heap->arenas, &hold);
    arenas_leave(&heap->arenas, &hold);
    heap_report(heap, &hold.found, function);
    return true;
}

/* Gives back what arenas can do without. Returns whether there was anything. */
static bool squeeze(struct dvsm_heap *heap, const char *function)
{
    bool given = false;

    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        struct arena_slot *slot = region_arena(heap->region, i);

        if (unlikely(heap->hardened))
            given |= end_quarantine(heap, slot, i, function);
        if (!arena_may_give(&slot->arena, heap->arenas.source.source.page))
            continue;
        if (heap_enter_index(&call, heap, i, function)) {
            given |= arena_trim(heap_arena(&call), 0);
            given |= arena_punch(heap_arena(&call), 0);
        }
        heap_leave(&call);
    }
    return segment_release(&heap->segments, 0) > 0 || given;
}

static bool is_refused(enum outcome outcome)
{
    return outcome == NO_MEMORY || outcome == WOULD_GROW;
}

/* Searches on when the usual search found nothing. NB: do not repeat an attempt that must end the
 * same way: a program at its limit comes here with every other request. */
static enum outcome last_search(struct search *s, struct fault *fault)
{
    enum outcome outcome = NO_MEMORY;

    if (cache_drain(&s->heap->cache, DRAIN_HERE, fault))
        outcome = attempt(s, AS_THEY_ARE);
    else if (s->request->kind == HEAP_MALLOC && s->request->size >= POLICY_LARGE_THRESHOLD)
        outcome = attempt(s, AS_THEY_ARE); /* so far it only asked for granules */
    if (!is_refused(outcome) || !squeeze(s->heap, s->function))
        return outcome;
    outcome = attempt(s, AS_THEY_ARE); /* holes can be filled now */
    return is_refused(outcome) ? attempt(s, GROW_ANY) : outcome;
}

/* Whether, by all signs, an arena would have to grow and cannot. Reads only a few words of each
 * arena: a program at its limit asks in vain with every other request. */
static bool is_in_vain(const struct dvsm_heap *heap, const struct heap_request *r)
{
    const struct arenas *arenas = &heap->arenas;
    size_t need = bits_round_up(r->size + ARENA_FOOT + 2 * CHUNK_ALIGN, GRANULE);

    if (r->kind != HEAP_MALLOC || !cache_is_bare(&heap->cache) ||
        !segment_is_full(heap->segments.map, need))
        return false;
    for (size_t i = 0; i < arenas_count(arenas->table); i++) {
        struct arena_slot *slot = arenas_slot(arenas->table, i);

        if (arenas_have_remote(slot) || arena_may_serve(&slot->arena, r->size) ||
            arena_may_give(&slot->arena, arenas->source.source.page))
            return false;
    }
    return true;
}

/* Whether the request is refused at once, and no memory given back for it: no state of the heap
 * could grant it, or it was refused already and nothing has been freed since. */
static bool is_hopeless(struct dvsm_heap *heap, size_t bytes)
{
    return bytes >= REQUEST_LIMIT || !segment_might_take(heap->segments.map, bytes) ||
           cache_is_short_of(&heap->cache, bytes);
}

/* Whether the same request would be refused the next time. It might not be if the system may have
 * memory by then, or if an arena was not looked at because a stopped process, or the call that this
 * one interrupted, holds it. */
static bool is_final(const struct dvsm_heap *heap, size_t bytes)
{
    return segment_is_full(heap->segments.map, bytes + 2 * GRANULE) && !lock_holds_any() &&
           !arenas_are_stuck(&heap->region->arenas);
}

void *heap_serve(struct dvsm_heap *heap, const struct heap_request *r, const char *function)
{
    struct search s = {.heap = heap, .request = r, .function = function};
    struct fault fault = {0};
    size_t bytes = least_bytes(r);
    enum outcome outcome = NO_MEMORY;

    if (likely(!is_hopeless(heap, bytes)) && likely(!is_in_vain(heap, r))) {
        outcome = usual_search(&s, &fault);
        if (is_refused(outcome))
            outcome = last_search(&s, &fault);
        if (outcome == WOULD_GROW)
            outcome = NO_MEMORY;
        if (unlikely(outcome == NO_MEMORY) && is_final(heap, bytes))
            cache_note_short_of(&heap->cache, refused_bytes(r));
        else if (outcome == SERVED)
            cache_note_served(&heap->cache);
        heap_report(heap, &fault, function);
    }
    if (unlikely(outcome == NO_MEMORY))
        errno = ENOMEM;
    return s.block;
}
