/* block.c - what a block's header and mark tell, without a lock.
 *
 * The caller holds the block, so its size does not change; flags of its head and of the next chunk's
 * may, by one store each, when neighbours come and go. All of it may have been overwritten by the
 * user, and the pointer may be any: whatever is not as it should be is left to the block's arena, which
 * says what is wrong.
 */
#include "heap/heap.h"

static size_t head_of(const struct chunk *c)
{
    return word_peek(&c->head);
}

static bool in_segment(const struct dvsm_heap *heap, const void *address)
{
    return segment_has_chunks(heap->segments.map, address);
}

/* Whether the block's arena was set aside: the cache is to have none of its blocks. */
static NOINLINE bool is_set_aside(const struct dvsm_heap *heap, const void *block)
{
    segment_owner_id owner = segment_owner(heap->segments.map, chunk_of_payload(block), NULL);

    return owner == 0 || owner > region_arena_count(heap->region) ||
           region_arena(heap->region, owner - 1)->arena.damaged;
}

enum block_state heap_look(struct dvsm_heap *heap, const void *block)
{
    const struct chunk *c = chunk_of_payload(block);

    if (!chunk_is_aligned(block) || !in_segment(heap, c))
        return BLOCK_OTHER;

    size_t head = head_of(c), size = head & ~HEAD_FLAGS;
    const struct chunk *next = chunk_at(c, size);

    if (!chunk_flags_in_use(head) || size < CHUNK_MIN || next < c || !in_segment(heap, next) ||
        (head_of(next) & PINUSE) == 0)
        return BLOCK_OTHER;
    if (unlikely(word_peek(&heap->region->arenas.damaged) != 0) && is_set_aside(heap, block))
        return BLOCK_OTHER;
    if (unlikely(magazine_is_marked(block)) && cache_holds(&heap->cache, block))
        return BLOCK_FREED;
    return BLOCK_PLAIN;
}
