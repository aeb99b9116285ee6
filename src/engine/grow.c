/* grow.c - more memory from the source: it is appended to top's segment, prepended to another
 * segment, or becomes a new segment. */
#include "engine/arena_internal.h"

void arena_set_top(struct arena_call *call, struct chunk *c, size_t size)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);

    journal_store(j, &a->top, c);
    journal_store(j, &a->top_size, size);
    journal_store(j, &a->trim_check, a->trim_threshold);
    journal_store(j, &c->head, size | PINUSE);
    journal_store(j, &chunk_at(c, size)->head, ARENA_FOOT);
}

void arena_count_footprint(struct arena_call *call, size_t bytes)
{
    struct arena *a = call->arena;

    journal_store(arena_journal(call), &a->footprint, a->footprint + bytes);
    if (a->footprint > a->footprint_most)
        journal_store(arena_journal(call), &a->footprint_most, a->footprint);
}

/* Writes a fence to every word that can be a head, from the end of a record's chunk to the end of
 * its segment. */
static void set_fences(struct journal *j, struct chunk *c, const char *end)
{
    journal_store(j, &c->head, CHUNK_FIRST_FENCE);
    while ((char *)&(c = chunk_at(c, WORD))->head < end)
        journal_store(j, &c->head, CHUNK_FENCE);
}

/* Writes the end of the segment that holds top: the segment's record, in a chunk in use, then
 * fences. The part of top before the record goes to a bin. If top is smaller than a chunk, the
 * record lies on top itself. */
static bool close_segment(struct arena_call *call)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);
    size_t record_size = ARENA_FOOT - CHUNK_MIN;
    char *end = a->segment.base + a->segment.size;
    struct chunk *old_top = a->top;
    struct chunk *record = (struct chunk *)(void *)(end - ARENA_FOOT);

    if ((char *)record < (char *)old_top + CHUNK_MIN)
        record = old_top;

    struct arena_segment *segment = chunk_payload(record);
    chunk_set_cut(a, record, record_size | CHUNK_UNCACHED);
    journal_store(j, &segment->base, a->segment.base);
    journal_store(j, &segment->size, a->segment.size);
    journal_store(j, &segment->next, a->segment.next);
    journal_store(j, &segment->foreign, a->segment.foreign);
    journal_store(j, &a->segment.next, segment);
    journal_store(j, &a->closed, a->closed + 1);
    journal_store(j, &a->fence_bytes, a->fence_bytes + arena_fence_bytes(segment));
    set_fences(j, chunk_at(record, record_size), end);
    if (record == old_top)
        return true;

    size_t left = (size_t)((char *)record - (char *)old_top);
    chunk_set_free_before(a, old_top, left);
    return arena_bin(call, old_top, left);
}

static bool add_segment(struct arena_call *call, struct run fresh)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);

    if (a->segment.size != 0 && !close_segment(call))
        return false;
    journal_store(j, &a->segment.base, fresh.start);
    journal_store(j, &a->segment.size, fresh.bytes);
    journal_store(j, &a->segment.foreign, 0);
    arena_set_top(call, arena_first_chunk(&a->segment), fresh.bytes - ARENA_FOOT);
    return true;
}

static void append(struct arena_call *call, struct run fresh)
{
    struct arena *a = call->arena;

    journal_store(arena_journal(call), &a->segment.size, a->segment.size + fresh.bytes);
    arena_set_top(call, a->top, a->top_size + fresh.bytes);
}

/* Puts the fresh memory before a segment. `need` bytes are cut from its low end; the rest joins the
 * chunk that follows. */
static struct chunk *prepend(struct arena_call *call, struct arena_segment *segment,
                             struct run fresh, size_t need)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);
    struct chunk *first = arena_first_chunk(segment);
    struct chunk *c = (struct chunk *)(void *)fresh.start, *rest = chunk_at(c, need);
    size_t rest_size = fresh.bytes - need;

    journal_store(j, &segment->base, fresh.start);
    journal_store(j, &segment->size, segment->size + fresh.bytes);
    chunk_set_cut(a, c, need);
    if (first == a->top) {
        journal_store(j, &a->top, rest);
        journal_store(j, &a->top_size, a->top_size + rest_size);
        journal_store(j, &rest->head, a->top_size | PINUSE);
        return c;
    }
    if (first == a->dv) {
        arena_set_victim(call, rest, a->dv_size + rest_size);
        chunk_set_free(j, rest, a->dv_size);
        return c;
    }
    if (unlikely(!arena_is_sealed(a, first))) {
        fault_raise(&call->fault, FAULT_DAMAGE, "damaged header", chunk_payload(first));
        return NULL;
    }
    if (chunk_marked_in_use(first)) {
        chunk_set_free_before(a, rest, rest_size);
    } else {
        size_t first_size = chunk_size(first);

        if (!bins_is_sound(&a->bins, first)) {
            fault_raise(&call->fault, FAULT_DAMAGE, "damaged header of a free chunk", first);
            return NULL;
        }
        if (!bins_remove(&a->bins, j, first, first_size, &call->fault))
            return NULL;
        rest_size += first_size;
        chunk_set_free(j, rest, rest_size);
    }
    return arena_bin(call, rest, rest_size) ? c : NULL;
}

/* The segment that begins where the fresh memory ends, if it may be joined. The source is asked
 * first: most often there is no such segment, and reading the records touches pages all over the
 * arena. */
static struct arena_segment *segment_after(struct arena_call *call, struct run fresh)
{
    struct arena *a = call->arena;
    const char *end = fresh.start + fresh.bytes;
    size_t left = a->footprint;

    if (a->segment.size == 0 || !call->source->in_segment(call->source, a, end))
        return NULL;
    for (struct arena_segment *s = &a->segment; s != NULL;
         s = arena_older(a, s, &left, &call->fault))
        if (s->base == end)
            return s->foreign ? NULL : s;
    return NULL;
}

static bool borders_on_top(const struct arena *a, struct run fresh)
{
    return a->segment.size != 0 && !a->segment.foreign &&
           a->segment.base + a->segment.size == fresh.start;
}

/* Makes fresh memory part of the arena, and cuts a chunk of `need` bytes. */
static struct chunk *absorb(struct arena_call *call, struct run fresh, size_t need)
{
    struct arena *a = call->arena;
    bool borders = borders_on_top(a, fresh);

    /* The new chunk will take all of a top that was too small, so all of top's holes are filled
     * first, before any store. */
    if (borders && !arena_fill_holes(call, a->top, a->top_size, a->top_size)) {
        call->source->give(call->source, a, (struct run){0});
        return NULL;
    }
    if (!PLANTED(ABSORBED_STAYS_PENDING))
        journal_store(arena_journal(call), &a->pending.bytes, 0);
    arena_count_footprint(call, fresh.bytes);
    bins_extend_range(&a->bins, arena_journal(call), fresh.start, fresh.bytes);
    if (borders) {
        append(call, fresh);
        return arena_cut_top(call, need);
    }

    struct arena_segment *after = segment_after(call, fresh);
    if (unlikely(arena_faulted(call)))
        return NULL;
    if (after != NULL)
        return prepend(call, after, fresh, need);
    return add_segment(call, fresh) ? arena_cut_top(call, need) : NULL;
}

static bool take(struct arena_call *call, size_t bytes)
{
    struct arena *a = call->arena;
    const struct arena_source *source = call->source;

    if (arena_over_limit(a, bytes) || !source->take(source, a, RUN_SEGMENT, bytes))
        return false;
    if (source->commit(source, a, RUN_SEGMENT))
        return true;
    source->give(source, a, (struct run){0});
    return false;
}

/* A growing arena will grow again. In larger steps, fresh memory borders on the arena's own more
 * often, and the pages come in fewer calls. A step ahead is at most `growth_most`, and at most one
 * part in POLICY_GROWTH_PART of the footprint. */
static size_t step_ahead(const struct arena *a, size_t unit)
{
    size_t ahead = a->footprint / POLICY_GROWTH_PART;

    return bits_round_down(ahead < a->growth_most ? ahead : a->growth_most, unit);
}

NOINLINE struct chunk *arena_grow(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;
    const struct arena_source *source = call->source;

    if (source == NULL)
        return NULL;
    if (call->no_growth) {
        call->short_of_memory = true;
        return NULL;
    }
    if (arena_wants_large(call, need)) {
        struct chunk *c = arena_large_allocate(call, need);
        if (c != NULL)
            return c;
    }

    size_t unit = a->granularity > source->unit ? a->granularity : source->unit;
    size_t bytes = bits_round_up(need + ARENA_FOOT + CHUNK_ALIGN, unit);
    size_t ahead = step_ahead(a, unit);
    if (bytes <= need || !((ahead > bytes && take(call, ahead)) || take(call, bytes)))
        return NULL;
    return absorb(call, a->pending, need);
}

NOINLINE bool arena_grow_top(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;
    const struct arena_source *source = call->source;
    char *end = a->segment.base + a->segment.size;

    if (source == NULL || a->segment.foreign || need <= a->top_size)
        return false;

    size_t unit = a->granularity > source->unit ? a->granularity : source->unit;
    size_t bytes = bits_round_up(need - a->top_size + CHUNK_ALIGN, unit);
    if (bytes < need - a->top_size || arena_over_limit(a, bytes) ||
        !source->extend(source, a, RUN_SEGMENT, end, bytes))
        return false;
    if (!source->commit(source, a, RUN_SEGMENT)) {
        source->give(source, a, (struct run){0});
        return false;
    }
    struct run fresh = a->pending;
    journal_store(arena_journal(call), &a->pending.bytes, 0);
    arena_count_footprint(call, fresh.bytes);
    bins_extend_range(&a->bins, arena_journal(call), fresh.start, fresh.bytes);
    append(call, fresh);
    return arena_finish(call);
}
