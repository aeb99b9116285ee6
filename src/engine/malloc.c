/* malloc.c - finding a chunk: exact small bin, victim, larger bins, trees, top; then grow. */
#include <string.h>

#include "engine/arena_internal.h"

enum { ROOMY_MOST = 4 }; /* the search is for at most so many times the needed room */

bool arena_bin(struct arena_call *call, struct chunk *c, size_t size)
{
    return bins_insert(&call->arena->bins, arena_journal(call), c, size, &call->fault);
}

void arena_set_victim(struct arena_call *call, struct chunk *c, size_t size)
{
    if (PLANTED(VICTIM_STORED_FIRST))
        call->arena->dv = c;
    journal_store(arena_journal(call), &call->arena->dv, c);
    journal_store(arena_journal(call), &call->arena->dv_size, size);
}

static bool unbin(struct arena_call *call, struct chunk *c, size_t size)
{
    return bins_remove(&call->arena->bins, arena_journal(call), c, size, &call->fault);
}

/* The newest chunk of a small bin that is not empty. It stays in the bin. */
static struct chunk *small_first(struct arena_call *call, unsigned index)
{
    struct chunk *c = bins_small_first(&call->arena->bins, index);

    if (likely(c->head == (bins_small_size(index) | PINUSE)))
        return c;
    fault_raise(&call->fault, FAULT_DAMAGE, "damaged header of a free chunk", c);
    return NULL;
}

/* Makes the whole of a chunk, just taken out of its bin, a chunk in use. */
static struct chunk *use_whole(struct arena_call *call, struct chunk *c, size_t size)
{
    chunk_set_cut(call->arena, c, size);
    chunk_set_next_prev_in_use(call->arena, chunk_at(c, size));
    return c;
}

/* Cuts `need` bytes from the low end of c. If the rest can be a chunk, it is *rest, of *rest_size
 * bytes; else c keeps it, and *rest_size is 0. */
static struct chunk *split(struct arena_call *call, struct chunk *c, size_t size, size_t need,
                           struct chunk **rest, size_t *rest_size)
{
    *rest_size = size - need;
    if (*rest_size < CHUNK_MIN) {
        *rest_size = 0;
        return use_whole(call, c, size);
    }
    *rest = chunk_at(c, need);
    chunk_set_cut(call->arena, c, need);
    chunk_set_free(arena_journal(call), *rest, *rest_size);
    return c;
}

/* Takes c out of its bin and cuts `need` bytes from it; the rest is the new designated victim. */
static struct chunk *split_to_victim(struct arena_call *call, struct chunk *c, size_t need)
{
    struct arena *a = call->arena;
    size_t size = chunk_size(c), rest_size;
    struct chunk *rest;

    if (!arena_fill_holes(call, c, size, need) || !unbin(call, c, size))
        return NULL;
    split(call, c, size, need, &rest, &rest_size);
    if (rest_size == 0)
        return c;
    if (a->dv_size != 0 && !arena_bin(call, a->dv, a->dv_size))
        return NULL;
    arena_set_victim(call, rest, rest_size);
    return c;
}

/* Takes a whole chunk from the exact small bin or the next one up. Failing that, if the victim is
 * too small, splits a chunk of the nearest larger small bin or the smallest chunk of all trees. */
static struct chunk *from_bins_small(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;
    unsigned index = bins_small_index(need);
    size_t map = a->bins.small_map >> index;
    struct chunk *c;

    if ((map & 3) != 0) {
        index += (map & 1) == 0;
        c = small_first(call, index);
        if (c == NULL || !unbin(call, c, bins_small_size(index)))
            return NULL;
        return use_whole(call, c, bins_small_size(index));
    }
    if (need <= a->dv_size)
        return NULL;
    if (map != 0)
        c = small_first(call, index + bits_lowest(map));
    else
        c = bins_smallest(&a->bins, &call->fault);
    return c == NULL ? NULL : split_to_victim(call, c, need);
}

/* The best fit from the trees, if it fits better than the victim. */
static struct chunk *best_fit(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;

    if (a->bins.tree_map == 0)
        return NULL;

    struct chunk *c = bins_best_fit(&a->bins, need, &call->fault);
    /* The surplus of a victim that is too small wraps to a huge number, so such a victim never
     * wins. */
    return c != NULL && chunk_size(c) - need < a->dv_size - need ? c : NULL;
}

/* Cuts `need` bytes from a chunk in a bin; the rest goes to a bin. */
static struct chunk *cut_binned(struct arena_call *call, struct chunk *c, size_t need)
{
    size_t size = chunk_size(c), rest_size;
    struct chunk *rest;

    if (!arena_fill_holes(call, c, size, need) || !unbin(call, c, size))
        return NULL;
    split(call, c, size, need, &rest, &rest_size);
    return rest_size == 0 || arena_bin(call, rest, rest_size) ? c : NULL;
}

static struct chunk *from_bins_large(struct arena_call *call, size_t need)
{
    struct chunk *c = best_fit(call, need);

    return c == NULL ? NULL : cut_binned(call, c, need);
}

/* For when the best fit, or the victim, has holes that cannot be filled. A small chunk has none. */
static struct chunk *from_filled(struct arena_call *call, size_t need)
{
    const struct arena *a = call->arena;
    size_t map = need < BINS_LARGE_FROM ? a->bins.small_map >> bins_small_index(need) : 0;
    struct chunk *c = NULL;

    if (a->holes == 0)
        return NULL;
    if (map != 0)
        c = small_first(call, bins_small_index(need) + bits_lowest(map));
    else
        c = arena_find_filled(call, need);
    return c == NULL ? NULL : cut_binned(call, c, need);
}

static struct chunk *from_victim(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;
    struct chunk *c = a->dv, *rest = NULL;
    size_t rest_size;

    if (need > a->dv_size || !arena_fill_holes(call, c, a->dv_size, need))
        return NULL;
    split(call, c, a->dv_size, need, &rest, &rest_size);
    arena_set_victim(call, rest, rest_size);
    return c;
}

struct chunk *arena_cut_top(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);
    struct chunk *c = a->top;

    if (need >= a->top_size || !arena_fill_holes(call, c, a->top_size, need))
        return NULL;

    struct chunk *rest = chunk_at(c, need);
    journal_store(j, &a->top, rest);
    journal_store(j, &a->top_size, a->top_size - need);
    journal_store(j, &rest->head, a->top_size | PINUSE);
    chunk_set_cut(a, c, need);
    return c;
}

static inline struct chunk *find(struct arena_call *call, size_t need)
{
    struct chunk *c =
        need < BINS_LARGE_FROM ? from_bins_small(call, need) : from_bins_large(call, need);

    if (c != NULL || unlikely(arena_faulted(call)))
        return c;
    c = from_victim(call, need);
    if (c == NULL)
        c = arena_cut_top(call, need);
    if (c == NULL && !arena_faulted(call))
        c = from_filled(call, need);
    if (c == NULL && !arena_faulted(call))
        c = arena_grow(call, need);
    return c;
}

struct chunk *arena_allocate(struct arena_call *call, size_t need)
{
    struct chunk *c = find(call, need);

    if (likely(c != NULL) && likely(!chunk_is_large(c)))
        arena_count_used(call, 1);
    return c;
}

struct chunk *arena_find(struct arena_call *call, size_t room, size_t need)
{
    struct arena *a = call->arena;
    struct chunk *c = best_fit(call, room);

    if (arena_faulted(call) || (c != NULL && arena_fill_holes(call, c, chunk_size(c), need)))
        return c;
    if (room <= a->dv_size && arena_fill_holes(call, a->dv, a->dv_size, need))
        return a->dv;
    if (room < a->top_size && arena_fill_holes(call, a->top, a->top_size, need))
        return a->top;
    return room == need ? arena_find_filled(call, need) : NULL;
}

struct chunk *arena_cut(struct arena_call *call, struct chunk *c, size_t need)
{
    if (c == call->arena->top)
        c = arena_cut_top(call, need);
    else
        c = c == call->arena->dv ? from_victim(call, need) : cut_binned(call, c, need);
    if (c != NULL)
        arena_count_used(call, 1);
    return c;
}

struct chunk *arena_exact(struct arena_call *call, size_t size, size_t alignment)
{
    struct arena *a = call->arena;
    struct chunk *c = NULL;

    if (size < BINS_LARGE_FROM) {
        if ((a->bins.small_map >> bins_small_index(size) & 1) != 0)
            c = small_first(call, bins_small_index(size));
    } else if (a->bins.tree_map != 0) {
        c = bins_best_fit(&a->bins, size, &call->fault);
    }
    if (c == NULL || chunk_size(c) != size ||
        ((uintptr_t)chunk_payload(c) & (alignment - 1)) != 0 ||
        !arena_fill_holes(call, c, size, size) || !unbin(call, c, size))
        return NULL;
    arena_count_used(call, 1);
    return use_whole(call, c, size);
}

/* For a block that has grown and will grow again: looks for a place where it can grow without
 * moving. */
static struct chunk *allocate_roomy(struct arena_call *call, size_t need)
{
    struct chunk *c = NULL;

    for (size_t times = ROOMY_MOST; times > 1 && c == NULL && !arena_faulted(call); times /= 2)
        c = arena_find(call, times * need, need);
    return c != NULL ? arena_cut(call, c, need) : NULL;
}

void *arena_malloc(struct arena_call *call, size_t bytes)
{
    if (unlikely(bytes >= REQUEST_LIMIT || call->arena->damaged))
        return NULL;

    size_t need = chunk_size_for(bytes);
    struct chunk *c = NULL;

    if (call->growths != 0 && call->arena->growth_most != 0 && need < POLICY_LARGE_THRESHOLD)
        c = allocate_roomy(call, need);
    if (c == NULL && !arena_faulted(call))
        c = arena_allocate(call, need);
    return arena_finish(call) && c != NULL ? chunk_payload(c) : NULL;
}

void *arena_calloc(struct arena_call *call, size_t count, size_t bytes)
{
    size_t total;

    if (__builtin_mul_overflow(count, bytes, &total))
        return NULL;
    call->fresh = NULL;
    void *block = arena_malloc(call, total);
    return block == NULL ? NULL : memset(block, 0, bytes_to_clear(block, total, call->fresh));
}
