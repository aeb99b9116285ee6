/* resize.c - realloc: in place if the neighbours allow it, else by a copy. */
#include <string.h>

#include "engine/arena_internal.h"

/* Gives c the size `need`. The rest of c is freed if it can be a chunk. */
static struct chunk *cut_surplus(struct arena_call *call, struct chunk *c, size_t size, size_t need)
{
    struct arena *a = call->arena;
    size_t surplus = size - need;

    if (surplus < CHUNK_MIN) {
        chunk_set_in_use(a, c, size);
        return c;
    }
    struct chunk *rest = chunk_at(c, need);
    chunk_set_size(a, c, need);
    chunk_set_cut(a, rest, surplus);
    chunk_set_next_prev_in_use(a, chunk_at(rest, surplus));
    return arena_dispose(call, rest, surplus) == FREED_FAULT ? NULL : c;
}

static struct chunk *grow_into_top(struct arena_call *call, struct chunk *c, size_t need)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);
    size_t together = chunk_size(c) + a->top_size;

    if (together <= need || !arena_fill_holes(call, c, together, need))
        return NULL;
    struct chunk *rest = chunk_at(c, need);
    chunk_set_size(a, c, need);
    journal_store(j, &a->top, rest);
    journal_store(j, &a->top_size, together - need);
    journal_store(j, &rest->head, a->top_size | PINUSE);
    return c;
}

static struct chunk *grow_into_victim(struct arena_call *call, struct chunk *c, size_t need)
{
    struct arena *a = call->arena;
    size_t together = chunk_size(c) + a->dv_size;

    if (together < need || !arena_fill_holes(call, c, together, need))
        return NULL;
    if (together - need < CHUNK_MIN) {
        chunk_set_in_use(a, c, together);
        arena_set_victim(call, NULL, 0);
        return c;
    }
    struct chunk *rest = chunk_at(c, need);
    chunk_set_size(a, c, need);
    chunk_set_free(arena_journal(call), rest, together - need);
    arena_set_victim(call, rest, together - need);
    return c;
}

static struct chunk *grow_into_next(struct arena_call *call, struct chunk *c, struct chunk *next,
                                    size_t need)
{
    struct arena *a = call->arena;
    size_t next_size = chunk_size(next);

    if (chunk_size(c) + next_size < need)
        return NULL;
    if (unlikely(!bins_is_sound(&a->bins, next))) {
        fault_raise(&call->fault, FAULT_DAMAGE, "damaged header of a free chunk", next);
        return NULL;
    }
    if (!arena_fill_holes(call, c, chunk_size(c) + next_size, need) ||
        !bins_remove(&a->bins, arena_journal(call), next, next_size, &call->fault))
        return NULL;
    return cut_surplus(call, c, chunk_size(c) + next_size, need);
}

struct chunk *arena_resize_chunk(struct arena_call *call, struct chunk *c, size_t need)
{
    struct arena *a = call->arena;
    struct chunk *next = chunk_next(c);

    if (chunk_is_large(c))
        return arena_large_resize(call, c, need);
    if (chunk_size(c) >= need)
        return chunk_size(c) - need < CHUNK_MIN ? c : cut_surplus(call, c, chunk_size(c), need);
    if (next == a->top)
        return grow_into_top(call, c, need);
    if (next == a->dv)
        return grow_into_victim(call, c, need);
    if (!chunk_marked_in_use(next))
        return grow_into_next(call, c, next, need);
    return NULL;
}

void *arena_resize_in_place(struct arena_call *call, void *block, size_t bytes)
{
    if (block == NULL || bytes >= REQUEST_LIMIT || call->arena->damaged)
        return NULL;

    struct chunk *c = arena_block_chunk(call, block);
    if (c != NULL)
        c = arena_resize_chunk(call, c, chunk_size_for(bytes));
    if (c != NULL && call->resized != NULL)
        call->resized(call, block);
    return arena_finish(call) && c != NULL ? block : NULL;
}

void *arena_resize_at_top(struct arena_call *call, void *block, size_t bytes)
{
    if (bytes >= REQUEST_LIMIT || call->arena->damaged)
        return NULL;

    struct chunk *c = arena_block_chunk(call, block);
    size_t need = chunk_size_for(bytes);
    if (!arena_finish(call) || c == NULL || chunk_is_large(c) ||
        chunk_next(c) != call->arena->top || need <= chunk_size(c))
        return NULL;
    if (!arena_grow_top(call, need - chunk_size(c)))
        return NULL;
    return arena_resize_in_place(call, block, bytes);
}

static void *move(struct arena_call *call, void *block, size_t bytes)
{
    void *copy = arena_malloc(call, bytes);

    if (copy == NULL)
        return NULL;
    size_t old = chunk_usable(chunk_of_payload(block));
    memcpy(copy, block, old < bytes ? old : bytes);
    arena_free(call, block);
    return copy;
}

void *arena_realloc(struct arena_call *call, void *block, size_t bytes)
{
    if (block == NULL)
        return arena_malloc(call, bytes);
    call->may_move = true;
    void *result = arena_resize_in_place(call, block, bytes);
    call->may_move = false;
    if (result == NULL && !arena_faulted(call))
        result = move(call, block, bytes);
    if (result == NULL && !arena_faulted(call))
        result = arena_resize_in_place(call, block, bytes); /* no copy: it may stay after all */
    return result;
}
