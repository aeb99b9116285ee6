/* large.c - large blocks: each has a run of units of its own, outside all segments and bins.
 *
 *     run  | (alignment) | header | payload ................................ |
 *                        chunk    size reaches to the run's end; flags clear
 *
 * The header always lies in the run's first unit. The low bits of its prev_foot say how far it is
 * from the run's start; the bits above say how often the block has grown. The run's first word,
 * most often the same word, says the former too. If a block that grew twice must move, it moves to
 * a place with as much room again free behind it. So a buffer that grows piece by piece is copied
 * when its size has doubled, not at each piece.
 */
#include "engine/arena_internal.h"

/* Bytes of a large block that stands for a chunk of `need` bytes: no next chunk lends it its first
 * word. */
static size_t large_size(size_t need)
{
    return need + CHUNK_HEADER - CHUNK_OVERHEAD;
}

static char *run_start(const struct arena_call *call, const struct chunk *c)
{
    return (char *)bits_round_down((size_t)(uintptr_t)c, call->source->unit);
}

enum { GROWTHS_SHIFT = 16, GROWTHS_ROOMY = 2, GROWTHS_MOST = 3 };

static size_t growths_of(const struct chunk *c)
{
    size_t growths = c->prev_foot >> GROWTHS_SHIFT;

    return growths < GROWTHS_MOST ? growths : GROWTHS_MOST;
}

/* Takes a run whose second unit, where the payload begins, is aligned to `alignment`. If the block
 * has grown often enough, prefers a run with room behind it. */
static bool take(struct arena_call *call, size_t bytes, size_t alignment)
{
    struct arena *a = call->arena;
    const struct arena_source *source = call->source;
    bool roomy = call->growths >= GROWTHS_ROOMY && a->growth_most != 0;
    struct run_place place = {.alignment = alignment, .room = bytes};

    if (arena_over_limit(a, bytes))
        return false;
    if (roomy && source->take_placed(source, a, RUN_LARGE, bytes, place))
        return true;
    place.room = 0;
    return source->take_placed(source, a, RUN_LARGE, bytes, place);
}

static void count_large(struct arena_call *call, size_t bytes, size_t blocks)
{
    struct arena *a = call->arena;
    struct journal *j = arena_journal(call);

    journal_store(j, &a->large_bytes, a->large_bytes + bytes);
    journal_store(j, &a->large_count, a->large_count + blocks);
    arena_count_footprint(call, bytes);
}

/* How far a block's header lies from its run's start. The payload is then aligned, and the header
 * in the first unit. */
static size_t lead_for(size_t alignment, size_t unit)
{
    return (alignment < unit ? alignment : unit) - CHUNK_HEADER;
}

NOINLINE struct chunk *arena_large_allocate(struct arena_call *call, size_t need)
{
    struct arena *a = call->arena;
    const struct arena_source *source = call->source;
    size_t alignment = call->large_alignment != 0 ? call->large_alignment : CHUNK_ALIGN;
    size_t size = large_size(call->large_alignment != 0 ? call->large_need : need);
    size_t lead = lead_for(alignment, source->unit);
    size_t bytes = bits_round_up(lead + size, source->unit);

    if (bytes < size || !take(call, bytes, alignment))
        return NULL;

    struct run run = a->pending;
    struct chunk *c = chunk_at(run.start, lead);
    char *end = run.start + run.bytes;
    call->fresh = end - source->fresh(source, a);
    if (!source->commit(source, a, RUN_LARGE)) {
        source->give(source, a, (struct run){0});
        return NULL;
    }
    /* The run's first word also says where the header is, for code that walks the map. Most often
     * it is the same word as prev_foot. */
    journal_store(arena_journal(call), (size_t *)(void *)run.start, lead);
    journal_store(arena_journal(call), &c->prev_foot, lead | call->growths << GROWTHS_SHIFT);
    chunk_set_head(a, c, (size_t)(end - (char *)c));
    journal_store(arena_journal(call), &a->pending.bytes, 0);
    count_large(call, run.bytes, 1);
    return c;
}

/* Ends the change under way, in which the run left the arena, and gives it back. */
static void give_back(struct arena_call *call, struct run run)
{
    struct arena *a = call->arena;

    journal_store(arena_journal(call), &a->pending.start, run.start);
    journal_store(arena_journal(call), &a->pending.bytes, run.bytes);
    journal_commit(arena_journal(call));
    call->source->give(call->source, a, (struct run){0});
}

void arena_large_free(struct arena_call *call, struct chunk *c)
{
    char *start = run_start(call, c);
    struct run run = {start, (size_t)((char *)chunk_next(c) - start)};

    count_large(call, -run.bytes, -(size_t)1);
    give_back(call, run);
}

static struct chunk *grow_in_place(struct arena_call *call, struct chunk *c, size_t more)
{
    struct arena *a = call->arena;
    const struct arena_source *source = call->source;

    call->growths = growths_of(c) + 1;
    if (arena_over_limit(a, more) ||
        !source->extend(source, a, RUN_LARGE_TAIL, chunk_next(c), more))
        return NULL;
    if (!source->commit(source, a, RUN_LARGE_TAIL)) {
        source->give(source, a, (struct run){0});
        return NULL;
    }
    if (call->growths <= GROWTHS_MOST)
        journal_store(arena_journal(call), &c->prev_foot,
                      c->prev_foot + ((size_t)1 << GROWTHS_SHIFT));
    call->growths = 0;
    chunk_set_head(a, c, chunk_size(c) + more);
    journal_store(arena_journal(call), &a->pending.bytes, 0);
    count_large(call, more, 0);
    return c;
}

struct chunk *arena_large_resize(struct arena_call *call, struct chunk *c, size_t need)
{
    size_t size = chunk_size(c), least = large_size(need);

    /* As in the reference, a block that has become small moves if it can: it would waste most of a
     * unit. */
    if (call->may_move && need < call->source->unit / 2)
        return NULL;
    if (size >= least && size - need <= 2 * call->arena->granularity)
        return c;
    if (least > SIZE_MAX - (size_t)(uintptr_t)c - call->source->unit)
        return NULL; /* beyond the end of all addresses */

    char *end = (char *)bits_round_up((size_t)(uintptr_t)c + least, call->source->unit);
    if (end > (char *)chunk_next(c))
        return grow_in_place(call, c, (size_t)(end - (char *)chunk_next(c)));

    struct run rest = {end, (size_t)((char *)chunk_next(c) - end)};
    if (rest.bytes == 0)
        return c;
    chunk_set_head(call->arena, c, size - rest.bytes);
    count_large(call, -rest.bytes, 0);
    give_back(call, rest);
    return c;
}
