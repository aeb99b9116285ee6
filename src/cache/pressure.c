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
static word sum_of_words(const struct cache *cache, size_t cpu)
{
    word sum = 0;

    if (!lane_is_filled(cache, cpu))
        return 0;
    for (unsigned cls = 0; cls < cache->table->classes_most; cls++)
        sum += lane_word(cache, cpu, cls) * (2 * cls + 1);
    return sum;
}

static bool is_as_noted(const struct cache *cache, size_t cpu)
{
    return word_peek(&cache->table->lanes[cpu].noted) == sum_of_words(cache, cpu);
}

/* Only the lanes that cache_drain(DRAIN_HERE) would empty count. */
static bool are_lanes_as_noted(const struct cache *cache)
{
    if (cache->table->mode == LANES_SEQUENCES)
        return is_as_noted(cache, cache_cpu(cache));
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++)
        if (!is_as_noted(cache, cpu))
            return false;
    return true;
}

bool cache_is_bare(const struct cache *cache)
{
    const struct cache_table *table = cache->table;

    if (word_peek(&table->tight) == 0 ||
        (table->classes_most != 0 && word_peek(&table->drained) == 0))
        return false;
    if (table->mode == LANES_SEQUENCES)
        return table->classes_most == 0 || !lane_is_filled(cache, cache_cpu(cache));
    for (size_t cpu = 0; cpu < table->cpus && table->classes_most != 0; cpu++)
        if (lane_is_filled(cache, cpu))
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

    for (size_t cpu = 0; cpu < table->cpus && table->classes_most != 0; cpu++)
        word_show(&table->lanes[cpu].noted, sum_of_words(cache, cpu));
    word_show(&table->tight, policy_of(cache)->tight_requests);
    word_show(&table->short_of, bytes != 0 ? bytes : 1);
}
