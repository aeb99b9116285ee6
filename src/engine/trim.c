/* trim.c - giving memory back: the end of top, and segments that hold nothing. */
#include "engine/arena_internal.h"

/* Ends the change under way, in which the run left the arena's segments, and gives it back. */
static void give_back(struct arena_call *call, struct run run)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);

    journal_store(j, &a->footprint, a->footprint - run.bytes);
    journal_store(j, &a->pending.start, run.start);
    journal_store(j, &a->pending.bytes, run.bytes);
    journal_commit(j);
    call->source->give(call->source, a, (struct run){0});
}

/* Whether the segment is one free chunk up to its foot (or to its record and fences). If top was
 * too small for a chunk when the segment was closed, the record begins before the foot by the size
 * of top. The reference never gives such a segment back; an arena that grows ahead does. */
static bool is_unused(const struct arena_call *call, const struct arena_segment *s)
{
    const struct chunk *c = arena_first_chunk(s);
    size_t lead = call->arena->growth_most != 0 ? CHUNK_ALIGN : 0;

    return call->source != NULL && !s->foreign && chunk_is_free(c) &&
           (char *)chunk_next(c) >= s->base + s->size - ARENA_FOOT - lead;
}

static bool take_out_first(struct arena_call *call, const struct arena_segment *s)
{
    struct arena *a = call->arena;
    struct chunk *c = arena_first_chunk(s);

    if (unlikely(!bins_is_sound(&a->bins, c)))
        return fault_raise(&call->fault, FAULT_DAMAGE, "damaged header of a free chunk", c);
    if (c == a->dv) {
        arena_set_victim(call, NULL, 0);
        return true;
    }
    return bins_remove(&a->bins, arena_journal(call), c, chunk_size(c), &call->fault);
}

bool arena_release_unused(struct arena_call *call)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);
    struct arena_segment *newer = &a->segment, *older;
    size_t count = 0, left = a->footprint;
    bool released = false;

    for (struct arena_segment *s = arena_older(a, newer, &left, &call->fault); s != NULL;
         s = older) {
        older = arena_older(a, s, &left, &call->fault);
        count++;
        if (!is_unused(call, s)) {
            newer = s;
            continue;
        }
        struct run run = {s->base, s->size};
        if (!arena_faulted(call) && take_out_first(call, s)) {
            journal_store(j, &newer->next, older);
            journal_store(j, &a->closed, a->closed - 1);
            journal_store(j, &a->fence_bytes, a->fence_bytes - arena_fence_bytes(s));
            give_back(call, run);
            released = true;
        }
        if (unlikely(arena_faulted(call) || a->pending.bytes != 0))
            break; /* the source could not take it back just now, and only one run can be pending */
    }
    journal_store(j, &a->release_countdown,
                  count > POLICY_RELEASE_INTERVAL ? count : POLICY_RELEASE_INTERVAL);
    arena_finish(call);
    return released;
}

/* Whether an older segment's record lies in the newest segment, which then cannot shrink. */
static bool holds_record(struct arena_call *call)
{
    const struct arena *a = call->arena;
    const struct arena_segment *s = &a->segment;
    size_t left = a->footprint;

    while ((s = arena_older(a, s, &left, &call->fault)) != NULL)
        if (arena_segment_holds(&a->segment, s))
            return true;
    return arena_faulted(call);
}

static bool shrink_top(struct arena_call *call, size_t pad)
{
    struct arena *a = call->arena;
    size_t unit = a->granularity;

    if (call->source == NULL || a->segment.foreign || a->top_size <= pad)
        return false;
    if (unit < call->source->unit)
        unit = call->source->unit;

    size_t bytes = ((a->top_size - pad + unit - 1) / unit - 1) * unit;
    if (bytes == 0 || a->segment.size < bytes || holds_record(call))
        return false;
    /* The foot's new place may be a hole. */
    if (!arena_fill_holes(call, (char *)a->top + a->top_size - bytes, ARENA_FOOT, ARENA_FOOT))
        return false;

    struct run run = {a->segment.base + a->segment.size - bytes, bytes};
    journal_store(arena_journal(call), &a->segment.size, a->segment.size - bytes);
    arena_set_top(call, a->top, a->top_size - bytes);
    give_back(call, run);
    return true;
}

bool arena_trim(struct arena_call *call, size_t pad)
{
    struct arena *a = call->arena;
    bool released = false;

    if (a->damaged || pad >= REQUEST_LIMIT || a->top_size == 0)
        return false;
    released = shrink_top(call, pad + ARENA_FOOT);
    if (call->source != NULL && a->pending.bytes == 0)
        released |= arena_release_unused(call);
    if (!released && a->top_size > a->trim_check && !arena_faulted(call)) {
        journal_store(arena_journal(call), &a->trim_check, ARENA_NEVER);
        journal_commit(arena_journal(call));
    }
    return released;
}

void arena_trim_if_due(struct arena_call *call)
{
    if (unlikely(call->arena->top_size > call->arena->trim_check))
        arena_trim(call, 0);
}
