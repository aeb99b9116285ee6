/* free.c - giving a chunk back: checks, merging with its neighbours, bins. */
#include "engine/arena_internal.h"

/* Without a source the whole range is one segment. */
static bool in_segment(const struct arena_call *call, const struct chunk *c)
{
    if (call->source != NULL)
        return call->source->in_segment(call->source, call->arena, c);
    return bins_in_range(&call->arena->bins, c);
}

/* Whether `next`, which is in the range, is in a segment, as c is. Between two segments of the
 * range there may be large blocks, memory of other arenas, or no memory. A `next` in the same unit
 * as c is in c's segment and needs no look-up. */
static bool in_segment_too(const struct arena_call *call, const struct chunk *c,
                           const struct chunk *next)
{
    return call->source == NULL || ((uintptr_t)c ^ (uintptr_t)next) < call->source->unit ||
           in_segment(call, next);
}

bool arena_header_is_sound(const struct arena_call *call, const struct chunk *c)
{
    const struct chunk *next = chunk_next(c);

    return chunk_flags_in_use(c->head) && chunk_size(c) >= CHUNK_MIN &&
           bins_in_range(&call->arena->bins, next) && next > c && in_segment_too(call, c, next) &&
           seal_holds(&call->arena->seal, c, c->head) && chunk_prev_in_use(next);
}

static bool is_large_block(const struct arena_call *call, const struct chunk *c)
{
    const struct arena_source *source = call->source;

    return source != NULL && source->owns(source, call->arena, c) &&
           seal_is_large(&call->arena->seal, c) &&
           source->is_large_block(source, call->arena, c, chunk_next(c));
}

struct chunk *arena_block_chunk(struct arena_call *call, const void *block)
{
    struct chunk *c = chunk_of_payload(block);

    if (likely(chunk_is_aligned(c))) {
        bool segment = in_segment(call, c);

        if (likely(segment ? arena_header_is_sound(call, c) : is_large_block(call, c)))
            return c;
    }
    arena_diagnose(call, c);
    return NULL;
}

/* Joins c with the chunk before it, which is free. Returns the start of the joint chunk; NULL after
 * a fault. */
static struct chunk *merge_backward(struct arena_call *call, struct chunk *c, size_t *size)
{
    struct arena *a = call->arena;
    struct chunk *before = chunk_at(c, -c->prev_foot);

    if (unlikely(!bins_in_range(&a->bins, before) || before >= c ||
                 before->head != (c->prev_foot | PINUSE))) {
        fault_raise(&call->fault, FAULT_DAMAGE, "damaged header before a block", c);
        return NULL;
    }
    if (before != a->dv &&
        !bins_remove(&a->bins, arena_journal(call), before, c->prev_foot, &call->fault))
        return NULL;
    *size += c->prev_foot;
    /* A second free of the same block is noticed for as long as nobody overwrites this. */
    journal_store(arena_journal(call), &c->head, 0);
    return before;
}

static enum arena_freed merge_into_top(struct arena_call *call, struct chunk *c, size_t size)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);

    journal_store(j, &a->top, c);
    journal_store(j, &a->top_size, a->top_size + size);
    journal_store(j, &c->head, a->top_size | PINUSE);
    if (c == a->dv)
        arena_set_victim(call, NULL, 0);
    return FREED_TO_TOP;
}

static enum arena_freed become_victim(struct arena_call *call, struct chunk *c, size_t size)
{
    chunk_set_free(arena_journal(call), c, size);
    arena_set_victim(call, c, size);
    return FREED_TO_VICTIM;
}

enum arena_freed arena_dispose(struct arena_call *call, struct chunk *c, size_t size)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);
    struct chunk *next = chunk_at(c, size);

    if (!chunk_prev_in_use(c)) {
        c = merge_backward(call, c, &size);
        if (unlikely(c == NULL))
            return FREED_FAULT;
    }
    if (chunk_marked_in_use(next)) {
        if (unlikely(!arena_is_sealed(a, next))) {
            fault_raise(&call->fault, FAULT_DAMAGE, "damaged header after a block",
                        chunk_payload(next));
            return FREED_FAULT;
        }
        chunk_set_free_before(a, c, size);
    } else if (next == a->top) {
        return merge_into_top(call, c, size);
    } else if (next == a->dv) {
        return become_victim(call, c, size + a->dv_size);
    } else {
        size_t next_size = chunk_size(next);

        if (unlikely(!bins_is_sound(&a->bins, next))) {
            fault_raise(&call->fault, FAULT_DAMAGE, "damaged header of a free chunk", next);
            return FREED_FAULT;
        }
        if (!bins_remove(&a->bins, j, next, next_size, &call->fault))
            return FREED_FAULT;
        size += next_size;
        chunk_set_free(j, c, size);
    }
    if (c == a->dv) {
        journal_store(j, &a->dv_size, size);
        return FREED_TO_VICTIM;
    }
    if (!arena_bin(call, c, size))
        return FREED_FAULT;
    return size < BINS_LARGE_FROM ? FREED_TO_SMALL_BIN : FREED_TO_TREE;
}

/* The further work that a free may cause: trimming, and every so often a look for unused
 * segments. */
void arena_after_free(struct arena_call *call, enum arena_freed where)
{
    struct arena *a = call->arena;

    if (where == FREED_TO_TOP) {
        arena_trim_if_due(call);
    } else if (where == FREED_TO_TREE) {
        journal_store(arena_journal(call), &a->release_countdown, a->release_countdown - 1);
        journal_commit(arena_journal(call));
        if (a->release_countdown == 0)
            arena_release_unused(call);
    }
}

void arena_free_chunk(struct arena_call *call, struct chunk *c)
{
    if (chunk_is_large(c)) {
        arena_large_free(call, c);
        return;
    }
    arena_count_used(call, -(size_t)1);
    enum arena_freed where = arena_dispose(call, c, chunk_size(c));
    if (arena_finish(call))
        arena_after_free(call, where);
}

void arena_free(struct arena_call *call, void *block)
{
    if (unlikely(block == NULL || call->arena->damaged))
        return;

    struct chunk *c = arena_block_chunk(call, block);
    if (unlikely(c == NULL)) {
        arena_finish(call);
        return;
    }
    arena_free_chunk(call, c);
}

size_t arena_usable(struct arena_call *call, const void *block)
{
    const struct chunk *c = arena_block_chunk(call, block);

    if (unlikely(c == NULL)) {
        arena_finish(call);
        return 0;
    }
    return chunk_usable(c);
}
