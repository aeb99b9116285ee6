/* pressure.c - what the heap remembers when memory is short.
 *
 * A program at its limit frees and asks by turns. Two things keep both cheap. The heap remembers
 * the size that was refused until something is freed. And the cache is not used for as long as
 * requests keep being refused: then a freed block joins its neighbours at once, and no request need
 * empty lanes and depots. A push onto a lane frees a block without telling anybody; so the lanes'
 * words are noted, and looked at again. All of these are hints: a wrong one costs time, or a
 * request one more look.
 */
#include "cache/depot.h"

/* The sum changes with every block that comes to the lane or leaves it. */
static word sum_of_words(const struct cache *cache, size_t lane)
{
    word sum = 0;

    if (!lane_is_filled(cache, lane))
        return 0;
    for (unsigned cls = 0; cls < cache->table->classes_most; cls++)
        sum += lane_word(cache, lane, cls) * (2 * cls + 1);
    return sum;
}

static bool is_as_noted(const struct cache *cache, size_t lane)
{
    return word_peek(&cache->table->lanes[lane].noted) == sum_of_words(cache, lane);
}

/* The lanes that cache_drain(DRAIN_HERE) would empty: this CPU's, or all if they are locked. */
struct reach {
    size_t first, step;
};

static struct reach reach_from_here(const struct cache *cache)
{
    if (cache->table->mode == LANES_SEQUENCES)
        return (struct reach){cache_cpu(cache), cache->table->cpus};
    return (struct reach){0, 1};
}

static bool are_lanes_as_noted(const struct cache *cache)
{
    struct reach reach = reach_from_here(cache);

    for (size_t lane = reach.first; lane < cache_lanes(cache->table); lane += reach.step)
        if (!is_as_noted(cache, lane))
            return false;
    return true;
}

bool cache_is_bare(const struct cache *cache)
{
    const struct cache_table *table = cache->table;

    if (word_peek(&table->tight) == 0 ||
        (table->classes_most != 0 && word_peek(&table->drained) == 0))
        return false;
    if (table->classes_most == 0)
        return true;
    struct reach reach = reach_from_here(cache);
    for (size_t lane = reach.first; lane < cache_lanes(table); lane += reach.step)
        if (lane_is_filled(cache, lane))
            return false;
    return true;
}

bool cache_is_short_of(struct cache *cache, size_t bytes)
{
    size_t short_of = word_peek(&cache->table->short_of);

    return unlikely(short_of != 0) && bytes >= short_of &&
           (cache->table->classes_most == 0 || are_lanes_as_noted(cache));
}

void cache_note_short_of(struct cache *cache, size_t bytes)
{
    struct cache_table *table = cache->table;

    for (size_t lane = 0; lane < cache_lanes(table) && table->classes_most != 0; lane++)
        word_show(&table->lanes[lane].noted, sum_of_words(cache, lane));
    word_show(&table->tight, policy_of(cache)->tight_requests);
    word_show(&table->short_of, bytes != 0 ? bytes : 1);
}
