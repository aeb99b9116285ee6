/* registry.c - the table of the heaps mapped in this process. */
#include <errno.h>

#include "heap/heap.h"

struct dvsm_heap *_Atomic heap_the_default;

struct dvsm_heap registry_heaps[HEAPS_MOST];
static atomic_size_t heaps_used; /* slots from this index on were never claimed */

size_t registry_used(void)
{
    return atomic_load_explicit(&heaps_used, memory_order_acquire);
}

struct dvsm_heap *registry_slot(size_t index)
{
    return &registry_heaps[index];
}

static void note_used(size_t count)
{
    size_t used = atomic_load(&heaps_used);

    while (used < count && !atomic_compare_exchange_weak(&heaps_used, &used, count))
        ;
}

struct dvsm_heap *registry_claim(void)
{
    for (size_t i = 0; i < HEAPS_MOST; i++) {
        unsigned state = atomic_load_explicit(&registry_heaps[i].state, memory_order_relaxed);

        if (state == HEAP_FREE &&
            atomic_compare_exchange_strong(&registry_heaps[i].state, &state, HEAP_CLAIMED)) {
            note_used(i + 1);
            return &registry_heaps[i];
        }
    }
    return NULL;
}

void registry_publish(struct dvsm_heap *heap)
{
    atomic_store(&heap->base, (uintptr_t)heap->mapping.base);
    atomic_store(&heap->span, heap->mapping.bytes);
    atomic_store_explicit(&heap->state, HEAP_LIVE, memory_order_release);
    locate_update();
}

bool registry_withdraw(struct dvsm_heap *heap)
{
    unsigned state = HEAP_LIVE;

    if (!atomic_compare_exchange_strong(&heap->state, &state, HEAP_CLAIMED))
        return false;
    atomic_store(&heap->span, 0);
    locate_update();
    return true;
}

void registry_free(struct dvsm_heap *heap)
{
    atomic_store_explicit(&heap->state, HEAP_FREE, memory_order_release);
}

void registry_each(void (*visit)(struct dvsm_heap *heap))
{
    size_t used = atomic_load_explicit(&heaps_used, memory_order_acquire);

    for (size_t i = 0; i < used; i++)
        if (registry_is_live(&registry_heaps[i]))
            visit(&registry_heaps[i]);
}

void *heap_fail(int error)
{
    errno = error;
    return NULL;
}
