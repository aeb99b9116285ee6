/* diagnose.c - what is wrong with a pointer that was handed to free or realloc.
 *
 * Slow and exact: the segment is walked from its start, so that each chunk's true borders are
 * known. That tells a wrong pointer (the caller's fault; the heap is sound) from a damaged header.
 */
#include "engine/arena_internal.h"

const struct arena_segment *arena_segment_of(const struct arena *a, const void *address)
{
    size_t left = a->footprint;

    if (a->segment.size == 0)
        return NULL;
    for (const struct arena_segment *s = &a->segment; s != NULL; s = arena_older(a, s, &left, NULL))
        if (arena_segment_holds(s, address))
            return s;
    return NULL;
}

/* The last chunk of the segment that does not begin after c. Stops at a header that leads
 * nowhere, or to a wrong place. */
static const struct chunk *chunk_around(const struct arena *a, const struct arena_segment *s,
                                        const struct chunk *c)
{
    const struct chunk *at = arena_first_chunk(s);

    while (at != a->top && arena_leads_on(s, at) && arena_is_sealed(a, at) && chunk_next(at) <= c)
        at = chunk_next(at);
    return at;
}

/* What is wrong with an address outside all segments. No chunk lies next to a large block, so
 * damage to its header loses only the block itself. */
static void diagnose_outside(struct arena_call *call, const struct chunk *c)
{
    bool large = call->source != NULL && call->source->owns(call->source, call->arena, c);

    fault_raise(&call->fault, FAULT_ARGUMENT,
                large ? "not the start of a large block, or its header is damaged"
                      : "not a block of this heap",
                chunk_payload(c));
}

/* Whether the chunk's own header is true: then it is the next one's that says something else. */
static bool is_true(const struct arena *a, const struct chunk *c, bool leads_on)
{
    return HEADS_ARE_SEALED && leads_on && chunk_marked_in_use(c) && arena_is_sealed(a, c);
}

void arena_diagnose(struct arena_call *call, const struct chunk *c)
{
    const struct arena *a = call->arena;
    const struct arena_segment *s = arena_segment_of(a, c);
    const void *block = chunk_payload(c);

    if (s == NULL) {
        diagnose_outside(call, c);
        return;
    }
    const struct chunk *at = chunk_around(a, s, c);
    bool leads_on = arena_leads_on(s, at); /* if not, the next chunk may not even be memory */
    if (at != a->top && (const void *)s == chunk_payload(at))
        fault_raise(&call->fault, FAULT_ARGUMENT, "one of the allocator's own records", block);
    else if (at == a->top || arena_is_fence(s, at))
        fault_raise(&call->fault, FAULT_ARGUMENT, "double free, or never allocated", block);
    else if (leads_on && chunk_is_free(at) && bins_is_sound(&a->bins, at))
        fault_raise(&call->fault, FAULT_ARGUMENT,
                    at == c ? "double free" : "pointer into free memory", block);
    else if (leads_on && at != c && arena_header_is_sound(call, at))
        fault_raise(&call->fault, FAULT_ARGUMENT, "pointer into a block", block);
    else
        fault_raise(&call->fault, FAULT_DAMAGE, "damaged header",
                    chunk_payload(is_true(a, at, leads_on) ? chunk_next(at) : at));
}
