/* release.c - the functions that take a block back, and the one that measures it. */
#include <errno.h>

#include "heap/heap.h"

/* NB: the one place where a lane will be asked first. */
void heap_free(void *block, const char *function)
{
    struct heap_call call;
    int saved = errno;

    if (block == NULL)
        return;
    if (heap_enter_owner(&call, block, function))
        arena_free(&call.arena, block);
    heap_leave(&call);
    errno = saved;
}

void dvsm_free(void *block)
{
    heap_free(block, "dvsm_free");
}

void dvsm_free_sized(void *block, size_t size)
{
    (void)size;
    heap_free(block, "dvsm_free_sized");
}

void dvsm_free_aligned_sized(void *block, size_t alignment, size_t size)
{
    (void)alignment;
    (void)size;
    heap_free(block, "dvsm_free_aligned_sized");
}

/* Whether it makes sense to lock an arena for it: pointers from elsewhere are left alone. */
static bool may_be_block(const void *block)
{
    const struct dvsm_heap *heap = dvsm_heap_of(block);

    return heap != NULL && chunk_is_aligned(block) &&
           segment_owner(heap->region->map, chunk_of_payload(block), NULL) != 0;
}

/* Frees blocks[0] and those further on that are of the same arena. A wrong pointer further on ends
 * this; it is reported when its own turn comes. Damage is reported at once: the arena is set aside,
 * and nothing would come of another look. False: a fault was reported. */
static bool free_with_the_first(void **blocks, size_t count)
{
    struct heap_call call;

    if (!may_be_block(blocks[0]))
        return true;
    if (heap_enter_owner(&call, blocks[0], "dvsm_bulk_free") && !call.slot->arena.damaged)
        arena_bulk_free(&call.arena, blocks, count);
    if (blocks[0] == NULL && call.arena.fault.kind == FAULT_ARGUMENT)
        call.arena.fault.kind = FAULT_NONE;
    return heap_leave(&call);
}

size_t dvsm_bulk_free(void **blocks, size_t count)
{
    int saved = errno;
    size_t left = 0;
    bool sound = true;

    for (size_t i = 0; i < count; i++) {
        if (blocks[i] == NULL)
            continue;
        sound &= free_with_the_first(blocks + i, count - i);
        left += blocks[i] != NULL;
    }
    errno = sound ? saved : EINVAL;
    return left;
}

size_t dvsm_malloc_usable_size(void *block)
{
    struct heap_call call;
    size_t usable = 0;

    if (block == NULL)
        return 0;
    if (heap_enter_owner(&call, block, "dvsm_malloc_usable_size"))
        usable = arena_usable(&call.arena, block);
    return heap_leave(&call) ? usable : 0;
}
