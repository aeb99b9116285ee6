/* walk.c - visits every chunk of every segment, and reads the totals from counters. */
#include "engine/arena_internal.h"

/* Whether a record lies where it can in its segment: at the foot; or, if it lies on a top that was
 * too small for a chunk, one step before that. */
static bool is_record_place(const struct arena_segment *s, const void *record)
{
    size_t from_end = (size_t)((uintptr_t)s->base + s->size - (uintptr_t)record);

    return from_end == ARENA_FOOT - CHUNK_HEADER ||
           from_end == ARENA_FOOT - CHUNK_HEADER + CHUNK_ALIGN;
}

struct arena_segment *arena_older(const struct arena *a, const struct arena_segment *s,
                                  size_t *left, struct fault *fault)
{
    struct arena_segment *older = s->next;

    *left -= s->size;
    if (older == NULL)
        return NULL;
    if (likely(bins_in_range(&a->bins, older) && bins_in_range(&a->bins, older->base) &&
               older->size >= CHUNK_MIN + ARENA_FOOT && older->size <= *left &&
               is_record_place(older, older)))
        return older;
    if (fault != NULL)
        fault_raise(fault, FAULT_DAMAGE, "damaged record of a segment", older);
    return NULL;
}

static enum arena_chunk_state state_of(const struct arena *a, const struct arena_segment *s,
                                       const struct chunk *c)
{
    if (c == a->dv)
        return ARENA_CHUNK_DV;
    if (chunk_is_free(c))
        return ARENA_CHUNK_FREE;
    if (chunk_payload(c) == (const void *)s)
        return ARENA_CHUNK_RECORD;
    return ARENA_CHUNK_USED;
}

/* False: a chunk with a damaged header ended the walk. A size is read before the visit and believed
 * after it, whatever the program writes meanwhile. */
static bool walk_segment(const struct arena *a, const struct arena_segment *s, arena_visit visit,
                         void *context)
{
    const struct chunk *c = arena_first_chunk(s);

    while (c != a->top && arena_leads_on(s, c) && arena_is_sealed(a, c)) {
        size_t bytes = chunk_size(c);

        visit(context, c, bytes, state_of(a, s, c));
        c = chunk_at(c, bytes);
    }
    if (c != a->top)
        return arena_is_fence(s, c);
    visit(context, c, a->top_size, ARENA_CHUNK_TOP);
    return true;
}

bool arena_walk(const struct arena *a, arena_visit visit, void *context)
{
    size_t left = a->footprint;
    bool whole = true;

    if (a->segment.size == 0)
        return true;
    for (const struct arena_segment *s = &a->segment; s != NULL; s = arena_older(a, s, &left, NULL))
        whole &= walk_segment(a, s, visit, context);
    return whole;
}

void arena_usage(const struct arena *a, struct arena_usage *usage)
{
    size_t there = a->segment.size != 0;

    *usage = (struct arena_usage){
        .footprint = a->footprint,
        .footprint_most = a->footprint_most,
        .segment_bytes = a->footprint - a->large_bytes,
        .segments = a->closed + there,
        .records = a->closed,
        .record_bytes = a->closed * (ARENA_FOOT - CHUNK_MIN),
        .used_chunks = a->used_chunks + a->closed,
        .free_bytes = bins_bytes(&a->bins) + a->dv_size + a->top_size,
        .free_chunks = bins_count(&a->bins) + (a->dv_size != 0) + there,
        .large_bytes = a->large_bytes,
        .large_count = a->large_count,
        .top_bytes = a->top_size,
    };
    usage->used_bytes =
        usage->segment_bytes - usage->free_bytes - a->fence_bytes - there * ARENA_FOOT;
}
