/* block.c - what a block's header and mark say, read without a lock.
 *
 * The caller holds the block, so its size does not change. A flag in its head and the seal may
 * change, by one store, when neighbours come and go. The user may have overwritten
 * all of it, and the pointer may be anything. If something is not as it should be, the block is
 * left to its arena, which says what is wrong.
 */
#include "arena/remote.h"
#include "heap/heap.h"

static size_t head_of(const struct chunk *c)
{
    return word_peek(&c->head);
}

static bool in_segment(const struct dvsm_heap *heap, const void *address)
{
    return segment_has_chunks(heap->segments.map, address);
}

/* Whether the block's arena was set aside; the cache must have none of its blocks. */
static NOINLINE bool is_set_aside(const struct dvsm_heap *heap, const void *block)
{
    segment_owner_id owner = segment_owner(heap->segments.map, chunk_of_payload(block), NULL);

    return owner == 0 || owner > region_arena_count(heap->region) ||
           region_arena(heap->region, owner - 1)->arena.damaged;
}

/* A segment's record has U set, and is followed by a fence with P clear. */
static bool is_record(size_t head, const struct chunk *next)
{
    return (head & CHUNK_UNCACHED) != 0 && (head_of(next) & PINUSE) == 0;
}

enum block_state heap_look(struct dvsm_heap *heap, const void *block)
{
    const struct chunk *c = chunk_of_payload(block);

    if (!chunk_is_aligned(block) || !in_segment(heap, c))
        return BLOCK_OTHER;

    size_t head = head_of(c), size = head & HEAD_SIZE;
    const struct chunk *next = chunk_at(c, size);

    if (!chunk_flags_in_use(head) || size < CHUNK_MIN || next < c || !in_segment(heap, next) ||
        !seal_vouches(&heap->arenas.seal, c, head) || is_record(head, next))
        return BLOCK_OTHER;
    if (unlikely(word_peek(&heap->region->arenas.damaged) != 0) && is_set_aside(heap, block))
        return BLOCK_OTHER;
    if (likely(!magazine_is_marked(block)))
        return BLOCK_PLAIN;
    if (cache_holds(&heap->cache, block))
        return BLOCK_FREED;
    return remote_is_marked(block) ? BLOCK_REMOTE : BLOCK_PLAIN;
}

/* Whether the granules of [c, end) are one large block, as far as c's holder can see: the memory
 * behind it may come and go meanwhile. */
static bool is_large_run(const struct segment_map *map, const struct chunk *c, const char *end)
{
    enum run_kind kind;
    segment_owner_id owner = segment_owner(map, c, &kind);
    const char *at = (const char *)bits_round_down((uintptr_t)c, GRANULE);

    if (owner == 0 || kind != RUN_LARGE || end <= at || (uintptr_t)end % GRANULE != 0)
        return false;
    for (at += GRANULE; at < end; at += GRANULE)
        if (segment_owner(map, at, &kind) != owner || kind != RUN_LARGE_TAIL)
            return false;
    return true;
}

const struct chunk *heap_large_chunk(const struct seal *seal, struct run run)
{
    size_t lead = *(const word *)(const void *)run.start & (GRANULE - 1);
    const struct chunk *c = chunk_at(run.start, lead);

    if (!chunk_is_aligned(c) || !seal_is_large(seal, c) ||
        (const char *)chunk_next(c) != run.start + run.bytes)
        return NULL;
    return c;
}

static size_t large_usable(const struct dvsm_heap *heap, const void *block)
{
    const struct chunk *c = chunk_of_payload(block);

    if (segment_owner(heap->segments.map, c, NULL) == 0 || !seal_is_large(&heap->arenas.seal, c) ||
        !is_large_run(heap->segments.map, c, (const char *)chunk_next(c)))
        return 0;
    return chunk_usable(c);
}

size_t heap_usable_by_look(struct dvsm_heap *heap, const void *block)
{
    if (!chunk_is_aligned(block))
        return 0;
    switch (heap_look(heap, block)) {
    case BLOCK_PLAIN:
    case BLOCK_REMOTE:
        return heap_chunk_size(block) - CHUNK_OVERHEAD;
    case BLOCK_OTHER:
        return large_usable(heap, block);
    default:
        return 0;
    }
}
