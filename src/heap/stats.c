/* stats.c - a heap's totals. */
#include <stdio.h>

#include "heap/heap.h"
#include "sync/cancel.h"

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

static void add_blocks(struct dvsm_heap *heap, dvsm_stats_t *stats, const char *function)
{
    struct arena_usage sum;
    struct cache_count cached;

    add_up(heap, &sum, &cached, function);
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

void heap_stats(struct dvsm_heap *heap, dvsm_stats_t *stats, const char *function)
{
    struct segment_usage usage;

    *stats = (dvsm_stats_t){
        .size = sizeof *stats,
        .reserved_bytes = heap->region->bytes,
    };
    segment_usage(&heap->segments, &usage);
    stats->limit_bytes = usage.limit;
    stats->metadata_bytes = usage.overhead;
    stats->committed_bytes = usage.footprint;
    stats->committed_most_bytes = usage.footprint_most;
    stats->retained_bytes = usage.retained;
    add_blocks(heap, stats, function);
    add_arenas(heap->region, stats);
}

struct dvsm_mallinfo heap_mallinfo(struct dvsm_heap *heap, const char *function)
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

void heap_print_stats(struct dvsm_heap *heap, const char *function)
{
    struct dvsm_mallinfo info = heap_mallinfo(heap, function);
    int cancel = cancel_put_off();

    fprintf(stderr,
            "max system bytes = %10zu\n"
            "system bytes     = %10zu\n"
            "in use bytes     = %10zu\n",
            heap_footprint_most(heap), heap_footprint(heap), info.uordblks);
    cancel_restore(cancel);
}
