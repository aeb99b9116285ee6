/* remote.c - blocks freed by threads that could not get the arena's lock: the list, and working it
 * off. */
#include "arena/remote.h"

#include "arena/canary.h"
#include "engine/arena_internal.h"
#include "sync/tsan.h"

/* No magazine's word looks like this mark: those are 1 more than a multiple of 8
 * (cache/magazine.h). */
enum { MARK_LOW = 4, MARK_BYTES = 8, LINK_END = MARK_BYTES + 8 };

static half_word mark_low(const void *block)
{
    return (half_word)(uintptr_t)block | MARK_LOW;
}

bool remote_is_marked(const void *block)
{
    const half_word *mark = block;

    return mark[1] == CHUNK_FREED_MARK && mark[0] == mark_low(block);
}

static void set_mark(void *block)
{
    half_word *mark = block;

    mark[0] = mark_low(block);
    compiler_barrier();
    mark[1] = CHUNK_FREED_MARK;
}

static word *link_of(const void *block)
{
    return (word *)((uintptr_t)block + MARK_BYTES);
}

void remote_push(struct arena_slot *slot, void *block)
{
    word head = __atomic_load_n(&slot->remote, __ATOMIC_RELAXED);

    set_mark(block);
    tsan_release(&slot->remote);
    do
        __atomic_store_n(link_of(block), head, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&slot->remote, &head, (word)block, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED));
}

/* ---- looking through a list ------------------------------------------------------------------ */

/* Whether the address can be a block of the arena, and so can be read. */
static bool is_readable(const struct arena_slot *slot, const struct segment_map *map, word block)
{
    const struct chunk *c = chunk_of_payload((const void *)block);

    return block != 0 && chunk_is_aligned(c) &&
           segment_owner(map, c, NULL) == (segment_owner_id)slot->arena.id &&
           segment_owner(map, (const void *)block, NULL) == (segment_owner_id)slot->arena.id;
}

/* Users could overwrite the links, and other threads may change the list. So a walk gives up when
 * it meets more blocks than the arena can have. */
static bool is_in_list(const struct arena_slot *slot, const struct segment_map *map, word list,
                       word block)
{
    size_t left = word_peek(&slot->arena.footprint) / CHUNK_MIN;

    for (; is_readable(slot, map, list) && left > 0; left--) {
        if (list == block)
            return true;
        list = word_peek(link_of((const void *)list));
    }
    return false;
}

bool remote_has(const struct arena_slot *slot, const struct segment_map *map, const void *block)
{
    return is_in_list(slot, map, word_peek(&slot->remote), (word)block) ||
           is_in_list(slot, map, word_peek(&slot->reaping), (word)block);
}

void remote_recover(struct arena_slot *slot, const struct segment_map *map)
{
    if (slot->reaping != 0 && is_in_list(slot, map, word_peek(&slot->remote), slot->reaping))
        word_show(&slot->reaping, 0);
    compiler_barrier();
}

/* ---- working it off -------------------------------------------------------------------------- */

/* Moves the whole list to `reaping`; false: there is none. */
static bool take_list(struct arena_slot *slot)
{
    word head = __atomic_load_n(&slot->remote, __ATOMIC_RELAXED);

    while (head != 0) {
        if (!PLANTED(REMOTE_TAKEN_BEFORE_NOTED))
            word_show(&slot->reaping, head);
        compiler_barrier();
        if (__atomic_compare_exchange_n(&slot->remote, &head, 0, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) {
            if (PLANTED(REMOTE_TAKEN_BEFORE_NOTED))
                word_show(&slot->reaping, head);
            tsan_acquire(&slot->remote);
            return true;
        }
        word_show(&slot->reaping, 0);
        compiler_barrier();
    }
    return false;
}

/* Reports that somebody wrote to a block that is filled. It is freed all the same. */
static void check_fill(const struct arena_call *call, void *block, struct fault *fault)
{
    struct canary_block b =
        canary_block(block, chunk_usable(chunk_of_payload(block)), call->arena->seal.key);

    if (fault->kind == FAULT_NONE && !canary_is_filled(b, LINK_END))
        fault_raise(fault, FAULT_ARGUMENT, CANARY_FREE_WRITTEN, block);
}

/* Frees the first block in `reaping`. Its mark is cleared, because a left-over mark makes others
 * look twice. After a fault the block is passed over. */
static void free_first(struct arena_call *call, struct arena_slot *slot, bool hardened,
                       struct fault *fault)
{
    void *block = (void *)slot->reaping;
    word next = *link_of(block);
    struct chunk *c = arena_block_chunk(call, block);

    if (c != NULL && hardened)
        check_fill(call, block, fault);
    if (c != NULL) {
        if (!PLANTED(REMOTE_PASSED_WHEN_DONE))
            journal_store(arena_journal(call), &slot->reaping, next);
        journal_store(arena_journal(call), link_of(block) - 1, 0); /* where the mark ends */
        arena_free_chunk(call, c);
        if (PLANTED(REMOTE_PASSED_WHEN_DONE))
            word_show(&slot->reaping, next);
    }
    if (arena_faulted(call)) {
        arena_finish(call);
        word_show(&slot->reaping, next);
    }
}

/* Whether the block can be read, and its mark was not overwritten since it was pushed. */
static bool can_be_freed(const struct arena_source *source, const struct arena *a,
                         const void *block)
{
    return source->owns(source, a, chunk_of_payload(block)) && source->owns(source, a, block) &&
           remote_is_marked(block);
}

/* The links of the blocks in `reaping` cannot be trusted any more. The blocks stay in use for
 * good. */
static void give_up(struct arena_call *call, struct arena_slot *slot)
{
    fault_raise(&call->fault, FAULT_ARGUMENT, CANARY_FREE_WRITTEN, (const void *)slot->reaping);
    word_show(&slot->reaping, 0);
}

void remote_work_off(struct arena_slot *slot, const struct arenas *arenas, size_t most,
                     struct fault *fault)
{
    const struct arena_source *source = &arenas->source.source;
    const struct arena *a = &slot->arena;

    for (; most > 0 && !a->damaged && a->pending.bytes == 0; most--) {
        struct arena_call call = {.arena = &slot->arena, .source = source};

        if (slot->reaping == 0 && !take_list(slot))
            return;
        if (can_be_freed(source, a, (const void *)slot->reaping))
            free_first(&call, slot, arenas->hardened, fault);
        else
            give_up(&call, slot);
        if (arena_faulted(&call) && fault->kind == FAULT_NONE)
            *fault = call.fault;
    }
}
