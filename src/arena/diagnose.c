/* diagnose.c - what is wrong with a pointer that was handed to free or realloc.
 *
 * Slow and exact: the segment is walked from its start, so that a chunk's true borders are known, and a wrong
 * pointer (the caller's fault, the heap is sound) is told from a damaged header.
 */
#include "arena/arena_internal.h"

static const struct arena_segment *segment_of(const struct arena *a, const void *address)
{
    for (const struct arena_segment *s = &a->segment; s != NULL && s->size != 0; s = s->next)
        if (arena_segment_holds(s, address))
            return s;
    return NULL;
}

/* The last chunk of the segment that does not begin after c. Stops at a header that leads nowhere. */
static const struct chunk *chunk_around(const struct arena *a, const struct arena_segment *s,
                                        const struct chunk *c)
{
    const struct chunk *at = arena_first_chunk(s);

    while (at != a->top && at->head != CHUNK_FENCE) {
        const struct chunk *next = chunk_next(at);

        if (next > c || chunk_size(at) < CHUNK_MIN || !chunk_is_aligned(next) ||
            !arena_segment_holds(s, next))
            break;
        at = next;
    }
    return at;
}

/* Whether `at`, reached by walking, can be believed where a walk stopped. */
static bool is_sound(const struct arena *a, const struct chunk *at)
{
    const struct chunk *next = chunk_next(at);

    if (at == a->top || at->head == CHUNK_FENCE)
        return true;
    if (chunk_is_free(at))
        return bins_is_sound(&a->bins, at);
    return chunk_marked_in_use(at) && chunk_size(at) >= CHUNK_MIN &&
           bins_in_range(&a->bins, next) && next > at && chunk_prev_in_use(next);
}

void arena_diagnose(struct arena_call *call, const struct chunk *c)
{
    const struct arena *a = call->arena;
    const struct arena_segment *s = segment_of(a, c);
    const void *block = chunk_payload(c);

    if (s == NULL) {
        fault_raise(&call->fault, FAULT_ARGUMENT, "not a block of this heap", block);
        return;
    }
    const struct chunk *at = chunk_around(a, s, c);
    if (!is_sound(a, at))
        fault_raise(&call->fault, FAULT_DAMAGE, "damaged header", chunk_payload(at));
    else if (at == a->top || at->head == CHUNK_FENCE)
        fault_raise(&call->fault, FAULT_ARGUMENT, "double free, or never allocated", block);
    else if (chunk_is_free(at))
        fault_raise(&call->fault, FAULT_ARGUMENT,
                    at == c ? "double free" : "pointer into free memory", block);
    else
        fault_raise(&call->fault, FAULT_ARGUMENT, "pointer into a block", block);
}
