/* inspect.c - visits every chunk of a heap, and reports the totals. */
#include <errno.h>
#include <stdio.h>

#include "heap/heap.h"
#include "sync/cancel.h"

/* ---- one by one */

struct walk {
    dvsm_visit_fn visit;
    void *context;
    const struct arena *arena; /* the one being walked, locked */
    struct cached_set set;     /* what is in the cache */
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

static void visit_chunk(void *context, const struct chunk *c, size_t bytes,
                        enum arena_chunk_state state)
{
    const struct walk *walk = context;
    dvsm_chunk chunk = {
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

    walk->visit(&chunk, walk->context);
}

/* The header of a large block: the low bits of the word at its run's start say where it is. NULL:
 * damaged. */
static const struct chunk *large_chunk(struct run run)
{
    size_t lead = *(const word *)(const void *)run.start & (GRANULE - 1);
    const struct chunk *c = chunk_at(run.start, lead);

    if (!chunk_is_aligned(c) || !chunk_is_large(c) ||
        (const char *)chunk_next(c) != run.start + run.bytes)
        return NULL;
    return c;
}

static void visit_large(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    const struct walk *walk = context;

    if (owner != walk->arena->id || kind != RUN_LARGE)
        return;
    const struct chunk *c = large_chunk(run);
    if (c == NULL)
        return;
    dvsm_chunk chunk = {
        .block = chunk_payload(c),
        .bytes = run.bytes,
        .usable = chunk_usable(c),
        .state = DVSM_CHUNK_LARGE,
        .arena = owner - 1,
    };
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
static void heap_walk(struct dvsm_heap *heap, dvsm_visit_fn visit, void *context,
                      const char *function)
{
    struct walk walk = {.visit = visit, .context = context};

    take_cached_set(heap, &walk.set);
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        if (heap_enter_index(&call, heap, i, function) && !call.hold.slot->arena.damaged) {
            walk.arena = &call.hold.slot->arena;
            arena_walk(walk.arena, visit_chunk, &walk);
            segment_walk(&heap->segments, visit_large, &walk);
        }
        heap_leave(&call);
    }
    cached_set_end(&walk.set);
}

void dvsm_walk(dvsm_heap *heap, dvsm_visit_fn visit, void *context)
{
    if (registry_checked(heap) != NULL)
        heap_walk(heap, visit, context, "dvsm_walk");
}

struct inspection {
    void (*handler)(void *start, void *end, size_t used_bytes, void *context);
    void *context;
};

/* Bytes of a free chunk that the allocator itself uses for links. */
static size_t links_of(const dvsm_chunk *chunk)
{
    return (chunk->bytes < BINS_LARGE_FROM ? CHUNK_MIN : sizeof(struct chunk)) - CHUNK_HEADER;
}

static void inspect_chunk(const dvsm_chunk *chunk, void *context)
{
    const struct inspection *inspection = context;
    bool is_free = chunk->state == DVSM_CHUNK_FREE || chunk->state == DVSM_CHUNK_CACHED;
    char *block = chunk->block;
    char *start = is_free ? block + links_of(chunk) : block;
    char *end = chunk->state == DVSM_CHUNK_LARGE ? block + chunk->usable
                                                 : block - CHUNK_HEADER + chunk->bytes;

    if (start < end && chunk->state != DVSM_CHUNK_OVERHEAD)
        inspection->handler(start, end, chunk->usable, inspection->context);
}

void dvsm_malloc_inspect_all(void (*handler)(void *start, void *end, size_t used_bytes,
                                             void *context),
                             void *context)
{
    struct inspection inspection = {handler, context};

    if (heap_default() != NULL)
        heap_walk(heap_default(), inspect_chunk, &inspection, "dvsm_malloc_inspect_all");
}

/* ---- added up */

/* Adds what an arena counts. */
static void add_usage(struct arena_usage *sum, const struct arena *arena)
{
    struct arena_usage usage;

    arena_usage(arena, &usage);
    sum->footprint += usage.footprint;
    sum->footprint_most += usage.footprint_most;
    sum->segment_bytes += usage.segment_bytes;
    sum->used_bytes += usage.used_bytes - usage.record_bytes;
    sum->used_chunks += usage.used_chunks - usage.records;
    sum->free_bytes += usage.free_bytes;
    sum->free_chunks += usage.free_chunks;
    sum->large_bytes += usage.large_bytes;
    sum->large_count += usage.large_count;
    sum->top_bytes += usage.top_bytes;
}

/* Adds up what all arenas count, each at its own instant; arenas that were set aside are left out.
 * To the arenas, cached blocks are in use, so `cached` is cut down to what is in use, should that
 * have changed meanwhile. If all blocks are cached, so are all bytes: some chunks are larger than
 * their class. */
static void add_up(struct dvsm_heap *heap, struct arena_usage *sum, struct cache_count *cached,
                   const char *function)
{
    *sum = (struct arena_usage){0};
    cache_count(&heap->cache, cached);
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        if (heap_enter_index(&call, heap, i, function) && !call.hold.slot->arena.damaged)
            add_usage(sum, &call.hold.slot->arena);
        heap_leave(&call);
    }
    if (cached->blocks >= sum->used_chunks)
        *cached = (struct cache_count){sum->used_chunks, sum->used_bytes};
    if (cached->bytes > sum->used_bytes)
        cached->bytes = sum->used_bytes;
}

static void add_blocks(struct dvsm_heap *heap, dvsm_stats_t *stats)
{
    struct arena_usage sum;
    struct cache_count cached;

    add_up(heap, &sum, &cached, "dvsm_stats");
    stats->large_bytes = sum.large_bytes;
    stats->large_blocks = sum.large_count;
    stats->used_bytes = sum.used_bytes - cached.bytes + sum.large_bytes;
    stats->used_blocks = sum.used_chunks - cached.blocks + sum.large_count;
    stats->free_bytes = sum.free_bytes;
    stats->free_chunks = sum.free_chunks;
    stats->cached_bytes = cached.bytes;
    stats->cached_blocks = cached.blocks;
}

static void add_arenas(const struct region *region, dvsm_stats_t *stats)
{
    stats->arenas = region_arena_count(region);
    for (size_t i = 0; i < stats->arenas; i++) {
        stats->arenas_damaged += region_arena(region, i)->arena.damaged;
        stats->recoveries += region_arena(region, i)->recoveries;
    }
}

int dvsm_stats(dvsm_heap *heap, dvsm_stats_t *stats)
{
    struct segment_usage usage;

    if (registry_checked(heap) == NULL)
        return -1;
    *stats = (dvsm_stats_t){
        .reserved_bytes = heap->region->bytes,
    };
    segment_usage(&heap->segments, &usage);
    stats->limit_bytes = usage.limit;
    stats->metadata_bytes = usage.overhead;
    stats->committed_bytes = usage.footprint;
    stats->committed_most_bytes = usage.footprint_most;
    stats->retained_bytes = usage.retained;
    add_blocks(heap, stats);
    add_arenas(heap->region, stats);
    return 0;
}

static struct dvsm_mallinfo heap_mallinfo(struct dvsm_heap *heap, const char *function)
{
    struct arena_usage sum;
    struct cache_count cached;

    if (heap == NULL)
        return (struct dvsm_mallinfo){0};
    add_up(heap, &sum, &cached, function);
    return (struct dvsm_mallinfo){
        .arena = sum.segment_bytes,
        .ordblks = sum.free_chunks,
        .smblks = cached.blocks,
        .hblks = sum.large_count,
        .hblkhd = sum.large_bytes,
        .usmblks = sum.footprint_most,
        .fsmblks = cached.bytes,
        .uordblks = sum.footprint - sum.free_bytes - cached.bytes,
        .fordblks = sum.free_bytes + cached.bytes,
        .keepcost = sum.top_bytes,
    };
}

struct dvsm_mallinfo dvsm_mallinfo(void)
{
    return heap_mallinfo(heap_default(), "dvsm_mallinfo");
}

struct dvsm_mallinfo dvsm_heap_mallinfo(dvsm_heap *heap)
{
    return heap_mallinfo(registry_checked(heap), "dvsm_heap_mallinfo");
}

void dvsm_malloc_stats(void)
{
    struct dvsm_mallinfo info = dvsm_mallinfo();
    int cancel = cancel_put_off();

    fprintf(stderr,
            "max system bytes = %10zu\n"
            "system bytes     = %10zu\n"
            "in use bytes     = %10zu\n",
            dvsm_malloc_max_footprint(), dvsm_malloc_footprint(), info.uordblks);
    cancel_restore(cancel);
}
