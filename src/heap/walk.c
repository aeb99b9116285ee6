/* walk.c - visits every chunk of a heap. */
#include <errno.h>

#include "heap/hardened.h"

struct walk {
    dvsm_visit_fn visit;
    void *context;
    const struct arena *arena; /* the one being walked, locked */
    const struct dvsm_heap *heap;
    struct cached_set set; /* what is in the cache */
    bool whole;            /* no damaged header was met, nor what a hardened heap does not expect */
    size_t broken;         /* tails of the arena's blocks; hardened heaps only */
};

static dvsm_chunk_state public_state(enum arena_chunk_state state)
{
    switch (state) {
    case ARENA_CHUNK_USED:
        return DVSM_CHUNK_USED;
    case ARENA_CHUNK_RECORD:
        return DVSM_CHUNK_OVERHEAD;
    default:
        return DVSM_CHUNK_FREE;
    }
}

/* In a hardened heap, a block that by its tail is free, and is not in the cache, is on its way into
 * the cache or out of it. Or the process that it was on its way with has died, and it is lost. */
static void look_at_tail(struct walk *walk, const struct chunk *c, dvsm_chunk *chunk)
{
    struct canary_request asked = {0};

    enum canary_state state =
        canary_look(cache_canary(&walk->heap->cache, chunk_payload(c)), &asked);

    chunk->usable = state == CANARY_IN_USE ? asked.size : 0;
    if (state == CANARY_FREE && chunk->state == DVSM_CHUNK_USED)
        chunk->state = DVSM_CHUNK_CACHED;
    walk->broken += state == CANARY_BROKEN;
}

static void visit_chunk(void *context, const struct chunk *c, size_t bytes,
                        enum arena_chunk_state state)
{
    struct walk *walk = context;
    dvsm_chunk chunk = {
        .size = sizeof chunk,
        .block = chunk_payload(c),
        .bytes = bytes,
        .usable = state == ARENA_CHUNK_USED ? bytes - CHUNK_OVERHEAD : 0,
        .state = public_state(state),
        .arena = (unsigned)walk->arena->id - 1,
    };

    if (state == ARENA_CHUNK_USED && cached_set_has(&walk->set, chunk.block)) {
        chunk.state = DVSM_CHUNK_CACHED;
        chunk.usable = 0;
    }
    if (chunk.state == DVSM_CHUNK_USED && walk->heap->hardened)
        look_at_tail(walk, c, &chunk);

    walk->visit(&chunk, walk->context);
}

static void visit_large(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    struct walk *walk = context;

    if (owner != walk->arena->id || kind != RUN_LARGE)
        return;
    const struct chunk *c = heap_large_chunk(&walk->arena->seal, run);
    if (c == NULL) {
        walk->whole = false;
        return;
    }
    dvsm_chunk chunk = {
        .size = sizeof chunk,
        .block = chunk_payload(c),
        .bytes = run.bytes,
        .usable = chunk_usable(c),
        .state = DVSM_CHUNK_LARGE,
        .arena = owner - 1,
    };
    if (walk->heap->hardened)
        look_at_tail(walk, c, &chunk);
    walk->visit(&chunk, walk->context);
}

/* The set of all that is in the cache at one instant, provided that the heap is quiet. */
static void take_cached_set(struct dvsm_heap *heap, struct cached_set *set)
{
    set->block = NULL;
    if (!cache_lock_all(&heap->cache))
        return;
    cached_set_take(set, &heap->cache);
    cache_unlock_all(&heap->cache);
}

/* Leaves out damaged arenas. */
void heap_walk(struct dvsm_heap *heap, dvsm_visit_fn visit, void *context, const char *function)
{
    struct walk walk = {.visit = visit, .context = context, .heap = heap, .whole = true};

    take_cached_set(heap, &walk.set);
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        if (heap_enter_index(&call, heap, i, function) && !call.hold.slot->arena.damaged) {
            walk.arena = &call.hold.slot->arena;
            walk.whole &= arena_walk(walk.arena, visit_chunk, &walk);
            segment_walk(&heap->segments, visit_large, &walk);
            walk.whole &= walk.broken <= call.hold.slot->recoveries;
            walk.broken = 0;
        }
        heap_leave(&call);
    }
    cached_set_end(&walk.set);
    if (!walk.whole)
        errno = EINVAL;
}
