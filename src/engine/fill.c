/* fill.c - blocks for the cache: allocated many at once, a magazine's worth, and taken back one by
 * one.
 *
 * A block leaves or enters the arena in the same change that counts it in the caller's word. So a
 * thread that dies leaves each block in exactly one place.
 */
#include "engine/arena_internal.h"

static void count_blocks(struct arena_call *call, word *count, size_t blocks)
{
    if (PLANTED(FILLED_WITHOUT_JOURNAL))
        *count += blocks * WORD;
    else
        journal_store(arena_journal(call), count, *count + blocks * WORD);
}

/* Splits c into `n` chunks of `size`; the last one takes the slack. */
static void split_evenly(struct arena_call *call, struct chunk *c, size_t size, size_t n,
                         void **blocks)
{
    size_t whole = chunk_size(c);

    blocks[0] = chunk_payload(c);
    for (size_t i = 1; i < n; i++) {
        struct chunk *part = chunk_at(c, i * size);

        arena_write_inner_head(call, c, part, i + 1 < n ? size : whole - i * size);
        blocks[i] = chunk_payload(part);
    }
    compiler_barrier();
    if (n > 1) {
        chunk_set_size(call->arena, c, size);
        arena_count_used(call, n - 1);
    }
}

/* Cuts a chunk whose payload is aligned from a free chunk, without growing. The part of the free
 * chunk before it stays free. */
static struct chunk *cut_aligned(struct arena_call *call, size_t need, size_t alignment)
{
    size_t room = need + arena_alignment_slack(alignment);
    struct chunk *c = arena_find(call, room, room);

    if (c == NULL)
        return NULL;

    struct chunk *place = arena_aligned_place(c, alignment);
    size_t lead = (size_t)((char *)place - (char *)c);

    if (arena_cut(call, c, lead + need) == NULL)
        return NULL;
    if (lead == 0)
        return c;
    chunk_set_head(call->arena, place, (chunk_size(c) - lead) | CINUSE);
    chunk_set_free(arena_journal(call), c, lead);
    return arena_bin(call, c, lead) ? place : NULL;
}

/* Grows the arena, in a change of its own that leaves the new memory free. */
static bool grow(struct arena_call *call, size_t need)
{
    struct chunk *c = arena_grow(call, need);

    return c != NULL && arena_dispose(call, c, chunk_size(c)) != FREED_FAULT && arena_finish(call);
}

static struct chunk *find_run(struct arena_call *call, size_t need, size_t alignment)
{
    if (alignment <= CHUNK_ALIGN)
        return arena_allocate(call, need);

    struct chunk *c = cut_aligned(call, need, alignment);
    if (c != NULL || arena_faulted(call) || !grow(call, need + arena_alignment_slack(alignment)))
        return c;
    return cut_aligned(call, need, alignment);
}

/* Cuts one run for `n` blocks, or for fewer if no run for `n` can be had. */
static size_t fill_from_run(struct arena_call *call, size_t size, size_t alignment, size_t n,
                            void **blocks, word *count)
{
    struct chunk *c = NULL;

    for (; n > 0; n /= 2) {
        call->no_large = true;
        c = find_run(call, n * size, alignment);
        call->no_large = false;
        if (c != NULL || arena_faulted(call))
            break;
    }
    if (c != NULL) {
        split_evenly(call, c, size, n, blocks);
        count_blocks(call, count, n);
    }
    return arena_finish(call) && c != NULL ? n : 0;
}

size_t arena_fill(struct arena_call *call, size_t bytes, size_t alignment, size_t most,
                  void **blocks, word *count)
{
    size_t size = chunk_size_for(bytes), n = 0;

    if (bytes >= REQUEST_LIMIT / 64 || most > 64 || call->arena->damaged)
        return 0;
    for (; n < most; n++) {
        struct chunk *c = arena_exact(call, size, alignment);

        if (c == NULL)
            break;
        blocks[n] = chunk_payload(c);
        count_blocks(call, count, 1);
        if (!arena_finish(call))
            return n;
    }
    if (n < most && arena_finish(call))
        n += fill_from_run(call, size, alignment, most - n, blocks + n, count);
    return n;
}

bool arena_take_back(struct arena_call *call, void *block, word *count)
{
    if (call->arena->damaged)
        return false;

    struct chunk *c = arena_block_chunk(call, block);
    enum arena_freed where = FREED_FAULT;

    if (c != NULL && chunk_is_large(c))
        fault_raise(&call->fault, FAULT_ARGUMENT, "large block in the cache", block);
    else if (c != NULL)
        where = arena_dispose(call, c, chunk_size(c));
    if (where != FREED_FAULT) {
        count_blocks(call, count, -(size_t)1);
        arena_count_used(call, -(size_t)1);
    }
    if (!arena_finish(call))
        return false;
    arena_after_free(call, where);
    return true;
}
