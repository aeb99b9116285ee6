/* reading.c - looking at a heap that this process joined with DVSM_READ_ONLY.
 *
 * The heap is mapped as private memory that can only be read: a page shows what others write, until
 * this process writes to it. While the heap is looked at it can be written to. So the functions
 * that look work as in any heap: what they store on their way, locks and lists of blocks to be
 * freed, they store into copies of the pages, of which nobody knows. In the end the copies are
 * dropped, and what others wrote meanwhile is seen again. The locks are not taken: whoever holds
 * one in truth would never release the copy. So what is found is what was there just then, and a
 * change that was under way may look like damage.
 * */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "heap/heap.h"

/* One thread at a time looks at a heap. Another one that finds it taken waits; in a signal handler,
 * which may have interrupted that one, it fails. A parent's mark means nothing in a child. */
static bool claim(struct dvsm_heap *heap)
{
    pid_t self = getpid(), found = 0;

    for (int tries = 0; tries < LOOK_TRIES; tries++) {
        found = atomic_load(&heap->looker);
        if (found != self && atomic_compare_exchange_strong(&heap->looker, &found, self))
            return true;
        sched_yield();
    }
    return false;
}

bool heap_begin_look(struct dvsm_heap *heap)
{
    const dvsm_mapping *mapping = &heap->mapping;

    if (likely(!heap->read_only))
        return true;
    if (!claim(heap))
        return heap_fail(EBUSY) != NULL;
    if (mprotect(mapping->base, mapping->bytes, PROT_READ | PROT_WRITE) != 0) {
        atomic_store(&heap->looker, 0);
        return false;
    }
    lock_pass_over(mapping->base, mapping->bytes);
    return true;
}

void heap_end_look(struct dvsm_heap *heap)
{
    const dvsm_mapping *mapping = &heap->mapping;
    int saved = errno;

    if (likely(!heap->read_only))
        return;
    lock_pass_over(NULL, 0);
    mprotect(mapping->base, mapping->bytes, PROT_READ);
    madvise(mapping->base, mapping->bytes, MADV_DONTNEED);
    atomic_store(&heap->looker, 0);
    errno = saved;
}
