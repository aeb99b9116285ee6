/* reap.c - repairs at once what the next user of each lock would otherwise repair. */
#include <errno.h>

#include "heap/heap.h"

/* Goes in the order in which the locks nest: repairing one also settles what it needs of the inner
 * ones. */
int heap_reap(struct dvsm_heap *heap, const char *function)
{
    size_t before = lock_repairs();
    int saved = errno;

    roots_settle(&heap->region->roots, &heap->segments);
    cache_settle(&heap->cache);
    arenas_settle_all(&heap->arenas);
    segment_settle(&heap->segments);
    heap_report_noted(heap, function);
    errno = saved;
    return (int)(lock_repairs() - before);
}
