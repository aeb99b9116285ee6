/* reap.c - repairs at once what the next user of each lock would otherwise repair. */
#include <errno.h>

#include "heap/heap.h"

/* Goes in the order in which the locks nest: repairing one also settles what it needs of the inner
 * ones. */
int dvsm_reap(dvsm_heap *heap)
{
    size_t before = lock_repairs();
    int saved = errno;

    if (registry_checked(heap) == NULL)
        return -1;
    cache_settle(&heap->cache);
    arenas_settle_all(&heap->arenas);
    segment_settle(&heap->segments);
    heap_report_noted(heap, "dvsm_reap");
    errno = saved;
    return (int)(lock_repairs() - before);
}
