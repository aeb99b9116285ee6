/* fast.h - the part of malloc and free that a lane serves: all that most calls execute.
 *
 * Each is a few comparisons and one restartable sequence. A comparison that fails leads to the slow
 * path, which looks again. NB: count the instructions after a change, as
 * tests/unit/test_fast_path.c does.
 */
#ifndef DVSM_HEAP_FAST_H
#define DVSM_HEAP_FAST_H

#include "cache/lane_locked.h"
#include "heap/heap.h"
#include "segment/segment.h"

/* A copy of the default heap's view (view.c); closed until the heap exists. */
extern struct lane_view heap_default_view __attribute__((visibility("hidden")));

/* A block from this CPU's lane; NULL: the lane has none that fits. */
static inline __attribute__((always_inline)) void *heap_malloc_fast(const struct lane_view *view,
                                                                    size_t size)
{
    void *block;

    if (process_is_below())
        return NULL;
    if (likely(size < word_peek(&view->exact_limit))) {
        size_t least = CHUNK_MIN - CHUNK_OVERHEAD - CHUNK_ALIGN + 1; /* for a chunk of CHUNK_MIN */
        size_t request = size < least ? least : size;

        block = lane_pop(view, (request + CHUNK_OVERHEAD + CHUNK_ALIGN - 1) / CLASS_STEP,
                         LANE_MASK(MAGAZINE_BYTES));
    } else if (size < word_peek(&view->coarse_limit)) {
        block = lane_pop(view, class_coarse_above(size + CHUNK_OVERHEAD),
                         LANE_MASK(MAGAZINE_COARSE_BYTES));
    } else {
        return NULL;
    }
    if (likely(block != NULL))
        magazine_clear_mark(block);
    return block;
}

/* Tries the fast path, then the slow path. */
static inline void *heap_malloc_of(struct dvsm_heap *heap, size_t size, const char *function)
{
    void *block = heap != NULL ? heap_malloc_fast(&heap->cache.view, size) : NULL;

    return block != NULL ? block : heap_malloc(heap, size, function);
}

/* x / 16; if x is not a multiple of 16, the result is above any limit. */
static inline size_t heap_rotate(size_t x)
{
    return x >> 4 | x << (SIZE_BITS - 4);
}

static inline half_word heap_rotate_half(half_word x)
{
    return x >> 4 | x << (32 - 4);
}

/* Where a block belongs in the cache. */
struct heap_place {
    size_t cls;
    size_t magazine; /* bytes of the class's magazines */
    size_t chunk;    /* bytes of the block's chunk */
};

/* Whether the view's heap may go, and another one come in its place, while a call goes by the view:
 * so it is for a heap that the thread remembers. */
enum heap_stays { HEAP_STAYS, HEAP_MAY_GO };

/* Whether the block, which may be free already, belongs in the cache, and where. `span`: the
 * view's, or `covered`. The block's granule is known to belong to a segment before the block's
 * header is read, and the header is known to be true before anything else of the block is. */
static inline __attribute__((always_inline)) bool
heap_find_place(const struct lane_view *view, const size_t *span, enum heap_stays stays,
                const void *block, struct heap_place *place)
{
    uintptr_t base =
        stays == HEAP_STAYS ? view->base : __atomic_load_n(&view->base, __ATOMIC_ACQUIRE);
    size_t unit = heap_rotate((uintptr_t)block - base);

    if (unlikely(unit >= (stays == HEAP_STAYS ? word_peek(span)
                                              : __atomic_load_n(span, __ATOMIC_ACQUIRE))) ||
        unlikely(stays == HEAP_MAY_GO && __atomic_load_n(&view->base, __ATOMIC_RELAXED) != base) ||
        unlikely((word_peek(&view->words[unit >> (GRANULE_SHIFT - 4)]) & SEGMENT_CHUNKS) == 0))
        return false;

    half_word head = seal_lower(block), size = (head - CINUSE) & ~(half_word)PINUSE,
              step = heap_rotate_half(size);

    place->chunk = size;
    if (likely(step <= CLASS_EXACT_LAST)) {
        place->cls = step;
        place->magazine = MAGAZINE_BYTES;
        return likely(seal_vouches_small(view->key, unit, block, head));
    }
    if (unlikely(step > CLASS_COARSE_MOST / CLASS_STEP + 1))
        return false;
    place->cls = view->coarse[step / 8];
    place->magazine = MAGAZINE_COARSE_BYTES;
    return likely(seal_vouches_small(view->key, unit, block, head));
}

_Static_assert(CLASS_COARSE_MOST + CLASS_STEP <= SEAL_SMALL_MOST,
               "the upper bytes of a larger size are not 0");

/* The same for a block without a mark, which is not free then. One with a mark, right or wrong, is
 * for the slow path. */
static inline bool heap_may_cache(const struct lane_view *view, const size_t *span,
                                  const void *block, struct heap_place *place)
{
    return heap_find_place(view, span, HEAP_STAYS, block, place) &&
           likely(!magazine_is_marked(block));
}

/* Whether this CPU's lane took the block; `place` is from heap_find_place(). The lane looks at the
 * mark. */
static inline __attribute__((always_inline)) bool
heap_push(const struct lane_view *view, const struct heap_place *place, void *block)
{
    return place->magazine == MAGAZINE_BYTES
               ? lane_push(view, place->cls, LANE_MASK(MAGAZINE_BYTES), block)
               : lane_push(view, place->cls, LANE_MASK(MAGAZINE_COARSE_BYTES), block);
}

static inline __attribute__((always_inline)) bool heap_free_fast(const struct lane_view *view,
                                                                 enum heap_stays stays, void *block)
{
    struct heap_place place;

    return likely(heap_find_place(view, &view->span, stays, block, &place)) &&
           heap_push(view, &place, block);
}

/* Whether a block whose chunk has so many bytes can have been asked for with that size. NB: how
 * much it may have beyond the size has no bound: pvalloc() rounds up to pages, say. */
static inline bool heap_can_be_of(size_t chunk, size_t size)
{
    return likely(size <= chunk - CHUNK_OVERHEAD);
}

static inline __attribute__((always_inline)) bool heap_free_sized_fast(const struct lane_view *view,
                                                                       void *block, size_t size)
{
    struct heap_place place;

    return likely(heap_find_place(view, &view->span, HEAP_STAYS, block, &place)) &&
           heap_can_be_of(place.chunk, size) && heap_push(view, &place, block);
}

/* ---- locked mode: the first thing that the slow paths try. Nothing here is called, so that it is
 * fast; the thread must be ready (lane_locked.h) */

static inline struct lane *heap_locked_lane(const struct lane_view *view)
{
    size_t cpu = lane_chosen();

    return &view->lanes[likely(cpu < view->cpus) ? cpu : 0];
}

static inline __attribute__((always_inline)) void *heap_malloc_locked(const struct lane_view *view,
                                                                      size_t size)
{
    if (view->mode != LANES_LOCKED || process_is_below() || size >= view->limit ||
        !lane_locked_is_ready())
        return NULL;

    void *block = lane_locked_pop(heap_locked_lane(view), class_above(chunk_size_for(size)));
    if (likely(block != NULL))
        magazine_clear_mark(block);
    return block;
}

/* A block of a wide class from this CPU's lane. */
static inline void *heap_malloc_wide(const struct lane_view *view, size_t size)
{
    if (view->mode != LANES_SEQUENCES || size < word_peek(&view->coarse_limit) ||
        size >= view->limit)
        return NULL;

    void *block = lane_pop_any(view, class_above(chunk_size_for(size)));
    if (likely(block != NULL))
        magazine_clear_mark(block);
    return block;
}

static inline __attribute__((always_inline)) bool heap_free_locked(const struct lane_view *view,
                                                                   void *block)
{
    struct heap_place place;

    return view->mode == LANES_LOCKED &&
           heap_find_place(view, &view->covered, HEAP_STAYS, block, &place) &&
           lane_locked_is_ready() && lane_locked_push(heap_locked_lane(view), place.cls, block);
}

/* Alignments up to this one are served from the cache, by the class whose size is the next
 * multiple. Arenas then cut that class's blocks at multiples of the alignment, so in the long run
 * all cached blocks are aligned. With larger alignments too much of a block would remain unused. */
enum { CACHED_ALIGNMENT_MOST = 128 };

/* Whether this CPU's lane took a block of whatever class, for the slow paths. */
static inline bool heap_push_any(const struct lane_view *view, unsigned cls, void *block)
{
    switch (view->mode) {
    case LANES_SEQUENCES:
        return lane_push_any(view, cls, block);
    case LANES_LOCKED:
        return lane_locked_get_ready() && lane_locked_push(heap_locked_lane(view), cls, block);
    default:
        return false;
    }
}

#endif
