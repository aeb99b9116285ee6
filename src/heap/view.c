/* view.c - the default heap as dvsm_malloc() and dvsm_free() see it: a copy of its lanes' view,
 * which lies where no call has to look for it. It stays closed if that heap is hardened. */
#include "heap/fast.h"

struct lane_view heap_default_view;

static const struct dvsm_heap *_Atomic shown; /* the heap whose view was copied; NULL: none */

void view_show(const struct dvsm_heap *heap)
{
    if (!heap->hardened)
        lane_view_copy(&heap_default_view, &heap->cache.view);
    atomic_store(&shown, heap);
}

void view_hide(void)
{
    atomic_store(&shown, NULL);
    lane_view_close(&heap_default_view);
}

static void cover(struct dvsm_heap *heap, size_t units)
{
    lane_view_cover(&heap->cache.view, units);
    if (heap == atomic_load_explicit(&shown, memory_order_acquire))
        lane_view_cover(&heap_default_view, units);
}

void view_extend(struct dvsm_heap *heap, const void *block)
{
    const struct lane_view *view = &heap->cache.view;

    if (unlikely(word_peek(&heap->region->arenas.damaged) != 0)) {
        cover(heap, 0);
    } else if (((uintptr_t)block - view->base) >> 4 >= word_peek(&view->covered)) {
        cache_extend_view(&heap->cache);
        cover(heap, word_peek(&view->covered));
    }
}

void view_hide_frees(struct dvsm_heap *heap)
{
    cover(heap, 0);
}
