/* hardened_resize.c - the size of a hardened heap's block, and giving it another one. */
#include <errno.h>
#include <string.h>

#include "heap/fast.h"
#include "heap/hardened.h"

/* A block moves if it shrinks to less than one part in SHRINK_PART. */
enum { SHRINK_PART = 2, SHRINK_LEAST = 64 };

/* Bytes that an arena's block may have beyond what was asked for. */
enum { PAD_MOST = CHUNK_MIN + CHUNK_ALIGN };

/* A block that is to be resized, in use, by a call to `function`. */
struct resize {
    struct dvsm_heap *heap;
    char *block;
    const char *function;
    struct canary_block canary;
    struct canary_request asked; /* as it is now */
    size_t growths;              /* as in struct arena_call */
};

/* Finds out what was asked for. False: a fault, reported. */
static bool look(struct resize *r)
{
    size_t usable = heap_usable_by_look(r->heap, r->block);

    if (usable == 0) {
        struct heap_call call;

        if (heap_enter_owner(&call, r->block, r->function))
            usable = arena_usable(heap_arena(&call), r->block);
        if (!heap_leave(&call))
            return false;
    }
    if (usable < CANARY_LEAST)
        return hardened_report(r->heap, "not a block in use, or its header is damaged", r->block,
                               r->function);
    r->canary = hardened_block_of(r->heap, r->block, usable);
    const char *wrong = hardened_wrong_with(r->canary, &r->asked);
    return wrong == NULL || hardened_report(r->heap, wrong, r->block, r->function);
}

size_t hardened_usable_size(struct dvsm_heap *heap, const void *block, const char *function)
{
    struct resize r = {.heap = heap, .block = (char *)(uintptr_t)block, .function = function};

    return look(&r) ? r.asked.size : 0;
}

/* Ends the arena's change: writes tail and pad of the block that has grown. In a segment, fields of
 * what was free there may be in the same place, so each word goes through the journal; behind the
 * old end of a large block nothing was in use. */
static void end_block(struct arena_call *call, void *block)
{
    const struct chunk *c = chunk_of_payload(block);
    const struct canary_request *asked = call->resized_context;
    struct canary_block b = canary_block(block, chunk_usable(c), call->arena->seal.key);
    size_t pad = canary_pad_bytes(b, asked->size), bytes = bits_round_up(pad + CANARY_BYTES, WORD);
    word words[(PAD_MOST + CANARY_BYTES) / WORD];

    if (chunk_is_large(c) || bytes > sizeof words) {
        canary_rearm(b, *asked);
        return;
    }
    char *from = b.start + b.usable - bytes;
    memcpy(words, from, bytes);
    canary_compose(b, *asked, (char *)words + bytes);
    for (size_t i = 0; i < bytes / WORD; i++)
        journal_store(&call->arena->journal, (word *)(void *)from + i, words[i]);
}

/* Lets the block grow where it is, if its arena can; *grown says so. False: a fault, reported. */
static bool grow(struct resize *r, size_t size, enum heap_attempt attempt, bool *grown)
{
    size_t bytes = hardened_bytes(size);
    struct heap_call call;

    *grown = false;
    if (heap_enter_owner(&call, r->block, r->function)) {
        struct arena_call *arena = heap_arena(&call);

        arena->resized = end_block;
        arena->resized_context = &(struct canary_request){size, r->asked.alignment};
        *grown = heap_resize_chunk(arena, r->block, bytes, attempt) != NULL;
        r->growths = arena->growths;
    }
    if (!heap_leave(&call))
        return false;
    if (*grown)
        memset(r->block + r->asked.size, 0, size - r->asked.size);
    return true;
}

static bool has_room(const struct resize *r, size_t size)
{
    return size <= r->canary.usable - CANARY_BYTES;
}

static bool would_waste(const struct resize *r, size_t size)
{
    return r->canary.usable > SHRINK_LEAST && size < r->canary.usable / SHRINK_PART;
}

static void *resize_within(struct resize *r, size_t size)
{
    canary_resize(r->canary, r->asked, size);
    return r->block;
}

/* Moves the block to `heap`; NULL and errno: there is no memory. */
static void *move(struct resize *r, struct dvsm_heap *heap, size_t size)
{
    if (r->growths == 0 && size >= POLICY_ROOMY_LEAST && size > r->asked.size)
        r->growths = 1;
    void *copy = r->growths != 0 ? heap_malloc_grown(heap, size, r->growths, r->function)
                                 : heap_malloc_of(heap, size, r->function);

    if (copy == NULL)
        return NULL;
    memcpy(copy, r->block, size < r->asked.size ? size : r->asked.size);
    hardened_free(r->heap, r->block, NULL, r->function);
    return copy;
}

/* The last attempt, after memory for a copy was short. */
static void *stay(struct resize *r, size_t size, int saved)
{
    bool grown;

    if (has_room(r, size)) {
        errno = saved;
        return resize_within(r, size);
    }
    if (!grow(r, size, AFTER_COPY, &grown))
        return NULL;
    errno = grown ? saved : ENOMEM;
    return grown ? r->block : NULL;
}

/* To another heap, or to another size where the block's own has no room, or too much. */
static void *resize_or_move(struct resize *r, struct dvsm_heap *wanted, size_t size)
{
    bool stays = wanted == r->heap, grown = false;
    int saved = errno;

    r->asked.alignment = 0; /* what realloc returns may be freed as malloc's */
    if (stays && has_room(r, size) && !would_waste(r, size))
        return resize_within(r, size);
    if (stays && !has_room(r, size) && r->canary.usable > POLICY_COPY_MOST &&
        !grow(r, size, BEFORE_COPY, &grown))
        return NULL;
    if (grown)
        return r->block;
    void *copy = move(r, wanted, size);
    return copy == NULL && errno == ENOMEM && stays ? stay(r, size, saved) : copy;
}

static void *resize_in_place(struct resize *r, size_t size)
{
    bool grown;

    if (has_room(r, size))
        return resize_within(r, size);
    if (!grow(r, size, NO_COPY, &grown))
        return NULL;
    return grown ? r->block : heap_fail(ENOMEM);
}

void *hardened_realloc(struct dvsm_heap *heap, struct dvsm_heap *wanted, void *block, size_t size,
                       bool may_move, const char *function)
{
    struct resize r = {.heap = heap, .block = block, .function = function};

    if (!look(&r))
        return NULL;
    return may_move ? resize_or_move(&r, wanted != NULL ? wanted : heap, size)
                    : resize_in_place(&r, size);
}
