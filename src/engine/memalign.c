/* memalign.c - blocks at multiples of more than 16: more is allocated than needed, then lead and
 * rest are freed.
 *
 * The block is marked CHUNK_UNCACHED, so that when it is freed, lead and block become one free
 * chunk again. A large block needs no such mark.
 */
#include "engine/arena_internal.h"

struct chunk *arena_aligned_place(struct chunk *c, size_t alignment)
{
    size_t payload = bits_round_up((size_t)(uintptr_t)chunk_payload(c), alignment);
    struct chunk *place = chunk_of_payload((void *)payload);

    if (place != c && (size_t)((char *)place - (char *)c) < CHUNK_MIN)
        place = chunk_at(place, alignment);
    return place;
}

/* Frees the part of c before `place`, and makes `place` a chunk in use. */
static void free_lead(struct arena_call *call, struct chunk *c, struct chunk *place)
{
    struct arena *a = call->arena;
    size_t lead = (size_t)((char *)place - (char *)c);

    chunk_set_head(a, place, (chunk_size(c) - lead) | PINUSE | CINUSE | CHUNK_UNCACHED);
    chunk_set_head(a, c, (c->head & PINUSE) | lead | CINUSE);
    arena_dispose(call, c, lead);
}

static void free_rest(struct arena_call *call, struct chunk *c, size_t need)
{
    struct chunk *rest = chunk_at(c, need);
    size_t rest_size = chunk_size(c) - need;

    chunk_set_size(call->arena, c, need);
    chunk_set_cut(call->arena, rest, rest_size);
    arena_dispose(call, rest, rest_size);
}

/* Freeing lead and rest are changes of their own, so that none needs more than the journal holds.
 * Until the last one the block is merely larger than it will be. */
static void *align(struct arena_call *call, struct chunk *c, size_t alignment, size_t need)
{
    struct chunk *place = arena_aligned_place(c, alignment);

    if (place != c) {
        free_lead(call, c, place);
        if (!arena_finish(call))
            return NULL;
    }
    if (chunk_size(place) > need + CHUNK_MIN) {
        free_rest(call, place, need);
        if (!arena_finish(call))
            return NULL;
    }
    return chunk_payload(place);
}

void *arena_memalign(struct arena_call *call, size_t alignment, size_t bytes)
{
    if (alignment <= CHUNK_ALIGN)
        return arena_malloc(call, bytes);

    alignment = bits_power_of_two_above(alignment < CHUNK_MIN ? CHUNK_MIN : alignment);
    if (alignment == 0 || alignment >= REQUEST_LIMIT || bytes >= REQUEST_LIMIT - alignment ||
        call->arena->damaged)
        return NULL;

    size_t need = chunk_size_for(bytes);
    size_t more = chunk_size_for(need + alignment + CHUNK_MIN - CHUNK_OVERHEAD);
    call->large_alignment = alignment;
    call->large_need = need;
    struct chunk *c = arena_allocate(call, more);
    if (c != NULL && !chunk_is_large(c))
        chunk_set_head(call->arena, c,
                       chunk_size(c) | (c->head & PINUSE) | CINUSE | CHUNK_UNCACHED);
    if (!arena_finish(call) || c == NULL)
        return NULL;
    return chunk_is_large(c) ? chunk_payload(c) : align(call, c, alignment, need);
}
