/* peek.c - what an arena's words tell without its lock. This saves a caller that is short of memory
 * from locking an arena in vain. A word may change a moment later, just as it may before a lock is
 * got.
 */
#include "bins/bins_internal.h"
#include "engine/arena_internal.h"

/* Pages of small chunks are left alone: they would be wanted again at once, and each time cost
 * calls into the system. The free chunk of an unused segment is smaller than the segment by the
 * foot, so LEAST_UNUSED is less than POLICY_GIVE_LEAST. */
enum { LEAST_UNUSED = POLICY_GIVE_LEAST * 3 / 4 };

static bool has_binned(const struct bins *b, size_t need)
{
    size_t trees = word_peek(&b->tree_map);

    if (need >= BINS_LARGE_FROM)
        return trees >> bins_tree_index(need) != 0;
    return trees != 0 || word_peek(&b->small_map) >> bins_small_index(need) != 0;
}

bool arena_may_serve(const struct arena *a, size_t bytes)
{
    size_t need = chunk_size_for(bytes);

    return word_peek(&a->top_size) > need || word_peek(&a->dv_size) >= need ||
           has_binned(&a->bins, need);
}

/* Bytes in free chunks and top that have memory. */
size_t arena_free_memory(const struct arena *a, size_t page)
{
    return bins_bytes(&a->bins) + word_peek(&a->dv_size) + word_peek(&a->top_size) -
           word_peek(&a->holes) * page;
}

/* If free memory has shrunk since the last punch, `unpunched` goes down with it: memory freed
 * elsewhere meanwhile may be whole pages. */
bool arena_may_give(struct arena *a, size_t page)
{
    size_t now = arena_free_memory(a, page), then = word_peek(&a->unpunched);

    if (now < then)
        __atomic_store_n(&a->unpunched, now, __ATOMIC_RELAXED);
    return now >= then + POLICY_GIVE_LEAST &&
           (word_peek(&a->top_size) >= POLICY_GIVE_LEAST ||
            word_peek(&a->dv_size) >= POLICY_GIVE_LEAST || has_binned(&a->bins, LEAST_UNUSED));
}
