/* lane_view.c - opening, covering, closing. What the fast path compares with is written last. */
#include "cache/lane_view.h"

#include <string.h>

void lane_view_open(struct lane_view *view, enum lane_mode mode, size_t limit, bool hardened)
{
    size_t exact = CLASS_EXACT_MOST - CHUNK_OVERHEAD + 1;
    size_t coarse = CLASS_COARSE_MOST - CHUNK_OVERHEAD + 1;

    view->mode = limit != 0 ? mode : LANES_NONE;
    view->limit = view->mode != LANES_NONE ? limit : 0;
    if (view->mode != LANES_SEQUENCES || hardened)
        return;
    word_show(&view->coarse_limit, coarse < limit ? coarse : limit);
    word_show(&view->exact_limit, exact < limit ? exact : limit);
}

void lane_view_cover(struct lane_view *view, size_t units)
{
    if (view->mode == LANES_NONE)
        return;
    word_show(&view->covered, units);
    if (word_peek(&view->exact_limit) != 0)
        __atomic_store_n(&view->span, units, __ATOMIC_RELEASE);
}

void lane_view_close(struct lane_view *view)
{
    word_show(&view->exact_limit, 0);
    word_show(&view->coarse_limit, 0);
    __atomic_store_n(&view->span, 0, __ATOMIC_SEQ_CST);
    view->mode = LANES_NONE;
    view->limit = view->covered = 0;
}

void lane_view_copy(struct lane_view *view, const struct lane_view *from)
{
    memcpy(&view->lanes, &from->lanes, sizeof *view - offsetof(struct lane_view, lanes));
    word_show(&view->span, word_peek(&from->span));
    word_show(&view->coarse_limit, word_peek(&from->coarse_limit));
    word_show(&view->exact_limit, word_peek(&from->exact_limit));
}
