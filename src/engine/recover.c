/* recover.c - undoes the change that a dead holder left half done, after checking that the journal
 * is plausible. */
#include "engine/arena_internal.h"

struct arena_guard {
    struct journal_guard guard;
    const struct arena *arena;
    const struct arena_source *source;
};

static bool is_within(const void *address, const void *start, size_t bytes)
{
    return (uintptr_t)address - (uintptr_t)start < bytes;
}

/* A change may store to the arena's own words, except the journal itself and the words that are set
 * once, and to the words that its source allows. */
static bool guards(const struct journal_guard *guard, const word *address)
{
    const struct arena_guard *g = (const struct arena_guard *)guard;
    const struct arena *a = g->arena;

    if (is_within(address, a, sizeof *a))
        return !is_within(address, &a->journal, sizeof a->journal) &&
               !is_within(address, &a->trim_threshold,
                          offsetof(struct arena, segment) - offsetof(struct arena, trim_threshold));
    return g->source->may_store(g->source, a, address);
}

/* Whether the run shares no byte with a segment that is in use. */
static bool is_outside_segments(const struct arena *a, struct run run)
{
    size_t left = a->footprint;

    if (a->segment.size == 0)
        return true;
    for (const struct arena_segment *s = &a->segment; s != NULL; s = arena_older(a, s, &left, NULL))
        if (is_within(run.start, s->base, s->size) || is_within(s->base, run.start, run.bytes))
            return false;
    return true;
}

static bool give_back_pending(struct arena *a, const struct arena_source *source)
{
    if (source->recover == NULL) {
        source->give(source, a, (struct run){0});
        return true;
    }
    return (a->pending.bytes == 0 || is_outside_segments(a, a->pending)) &&
           source->recover(source, a);
}

/* Asks the source even if nothing seems pending: it may have a change of the dead holder to
 * undo. */
bool arena_recover(struct arena *a, const struct arena_source *source)
{
    struct arena_guard guard = {{guards, NULL, 0}, a, source};
    bool known = source != NULL && source->may_store != NULL;
    bool sound = journal_recover(&a->journal, known ? &guard.guard : NULL);

    if (sound && source != NULL && !PLANTED(PENDING_LEFT))
        sound = give_back_pending(a, source);
    if (sound)
        return true;
    a->damaged = 1;
    compiler_barrier();
    a->pending.bytes = 0;
    journal_commit(&a->journal);
    return false;
}
