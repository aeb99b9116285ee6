/* walk.c - every chunk of every segment, and what they add up to. */
#include "arena/arena_internal.h"

/* A record's payload is the record itself, of one of the segments. */
static bool is_record(const struct arena *a, const struct chunk *c)
{
    for (const struct arena_segment *s = a->segment.next; s != NULL; s = s->next)
        if (chunk_payload(c) == (const void *)s)
            return true;
    return false;
}

/* Whether c may be the segment's last chunk but for fences: records lie in the last bytes only. */
static bool may_be_record(const struct arena_segment *s, const struct chunk *c)
{
    return (size_t)(s->base + s->size - (const char *)c) <= ARENA_FOOT + CHUNK_ALIGN;
}

static enum arena_chunk_state state_of(const struct arena *a, const struct arena_segment *s,
                                       const struct chunk *c)
{
    if (c == a->dv)
        return ARENA_CHUNK_DV;
    if (chunk_is_free(c))
        return ARENA_CHUNK_FREE;
    if (may_be_record(s, c) && is_record(a, c))
        return ARENA_CHUNK_RECORD;
    return ARENA_CHUNK_USED;
}

static void walk_segment(const struct arena *a, const struct arena_segment *s, arena_visit visit,
                         void *context)
{
    const struct chunk *c = arena_first_chunk(s);

    while (c != a->top && c->head != CHUNK_FENCE && arena_segment_holds(s, c)) {
        size_t size = chunk_size(c);
        if (size < CHUNK_MIN)
            return; /* damaged: arena_check says so */
        visit(context, c, size, state_of(a, s, c));
        c = chunk_at(c, size);
    }
    if (c == a->top)
        visit(context, c, a->top_size, ARENA_CHUNK_TOP);
}

void arena_walk(const struct arena *a, arena_visit visit, void *context)
{
    for (const struct arena_segment *s = &a->segment; s != NULL && s->size != 0; s = s->next)
        walk_segment(a, s, visit, context);
}

static void add_chunk(void *context, const struct chunk *c, size_t bytes,
                      enum arena_chunk_state state)
{
    struct arena_usage *usage = context;

    (void)c;
    if (state == ARENA_CHUNK_USED || state == ARENA_CHUNK_RECORD) {
        usage->used_bytes += bytes;
        usage->used_chunks++;
    } else {
        usage->free_bytes += bytes;
        usage->free_chunks++;
    }
}

void arena_usage(const struct arena *a, struct arena_usage *usage)
{
    *usage = (struct arena_usage){
        .footprint = a->footprint,
        .footprint_most = a->footprint_most,
        .large_bytes = a->large_bytes,
        .large_count = a->large_count,
        .top_bytes = a->top_size,
    };
    for (const struct arena_segment *s = &a->segment; s != NULL && s->size != 0; s = s->next) {
        usage->segment_bytes += s->size;
        usage->segments++;
    }
    arena_walk(a, add_chunk, usage);
}
