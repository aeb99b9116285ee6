/* cache.c - making and opening the cache, and the entrances to its slow paths. */
#include "cache/depot.h"
#include "sync/process.h"
#include "sync/tsan.h"

/* ---- making and opening ---------------------------------------------------------------------- */

/* How many classes lanes may use, counted from the smallest: as many as keep what one lane can hold
 * within `bytes`. 0: the cache is not used. */
static size_t classes_within(size_t bytes)
{
    unsigned cls = 2;

    for (size_t sum = 0; cls < CACHE_CLASSES; cls++) {
        sum += magazine_capacity(cls) * class_size(cls);
        if (sum > bytes)
            break;
    }
    return cls > 2 ? cls : 0;
}

static size_t bytes_a_lane(const struct cache_table *table)
{
    return table->bytes_a_cpu >> table->hardened;
}

/* In a small heap, the blocks in a lane that only its own CPU can empty could be the ones that are
 * wanted. So the lanes of a small heap are locked or, if the mode was chosen before the heap had a
 * limit, not used. A wide class of chunks beyond the large threshold is not used. */
static void apply_limit(struct cache_table *table, const struct policy *policy, size_t limit)
{
    size_t in_all = limit == SIZE_MAX ? SIZE_MAX : policy_part(limit, policy->cached_limit_part);
    size_t a_cpu = in_all / 2 / cache_lanes(table), classes;

    classes = classes_within(a_cpu < bytes_a_lane(table) ? a_cpu : bytes_a_lane(table));
    while (classes > CLASS_COARSE_LAST + 1 &&
           class_size((unsigned)classes - 1) > word_peek(&policy->large_threshold))
        classes--;
    if (limit < policy->small_limit && table->mode == LANES_SEQUENCES)
        classes = 0;
    table->bytes_in_all = in_all;
    table->classes = classes < table->classes_most ? classes : table->classes_most;
}

int cache_init(struct cache_table *table, const struct policy *policy, size_t bytes_a_cpu,
               size_t limit)
{
    bool small = limit < policy->small_limit;
    intptr_t ignored;
    int error = 0;

    table->mode = !small && lane_find_rseq(&ignored) ? LANES_SEQUENCES : LANES_LOCKED;
    table->bytes_a_cpu = bytes_a_cpu == 0 ? policy->cpu_bytes : bytes_a_cpu;
    table->classes_most = bytes_a_cpu == SIZE_MAX ? 0 : classes_within(bytes_a_lane(table));
    apply_limit(table, policy, limit);
    for (unsigned cls = 0; cls < CACHE_CLASSES && error == 0; cls++)
        error = lock_init(&table->depots[cls].lock, LOCK_DEPOT);
    return error;
}

void cache_set_limit(struct cache *cache, size_t limit, struct fault *fault)
{
    struct cache_table *table = cache->table;
    size_t classes = table->classes;

    cache_note_freed(cache); /* requests that were refused may be served now */
    if (table->classes_most == 0)
        return;
    apply_limit(table, policy_of(cache), limit);
    if (table->classes < classes)
        cache_drain(cache, DRAIN_ALL, fault);
    else
        stock_keep_bound(cache, fault);
}

/* The smallest request that the class does not serve any more. */
static size_t limit_after(unsigned cls)
{
    return class_size(cls) - CHUNK_OVERHEAD + 1;
}

static size_t limit_of(size_t classes)
{
    return classes == 0 ? 0 : limit_after((unsigned)classes - 1);
}

size_t cache_limit(const struct cache *cache)
{
    return limit_of(cache->table->classes);
}

void cache_open(struct cache *cache, struct cache_table *table, struct arenas *arenas,
                struct segments *segments, void *base)
{
    struct lane_view *view = &cache->view;

    *cache = (struct cache){.table = table, .arenas = arenas, .segments = segments};
    process_start();
    view->base = (uintptr_t)base + CHUNK_HEADER;
    view->lanes = table->lanes;
    view->cpus = table->cpus;
    view->words = segment_words(segments->map);
    view->key = arenas->seal.key;
    class_fill_table(view->coarse);
    arenas->source.counters.first = (const char *)&table->depots[0].transit_new;
    arenas->source.counters.stride = sizeof(struct depot);
    arenas->source.counters.count = table->classes_most > 0 ? CACHE_CLASSES : 0;
    bool entered = table->mode != LANES_SEQUENCES || lane_find_rseq(&view->rseq);
    if (entered && !tsan_watches()) /* ThreadSanitizer sees nothing of lanes */
        lane_view_open(view, (enum lane_mode)table->mode, limit_of(table->classes_most),
                       table->hardened);
    cache->freeing = *view;
    cache->freeing.lanes += cache_freeing_lane(cache, 0);
    cache_extend_view(cache);
}

/* NB: without seals the last granule stays out: then the fast path looks at the chunk after a
 * block. */
void cache_extend_view(struct cache *cache)
{
    size_t granules = segment_ready(cache->segments->map);

    if (!HEADS_ARE_SEALED && granules > 0)
        granules--;
    lane_view_cover(&cache->view, granules << (GRANULE_SHIFT - 4));
}

/* ---- slow paths ------------------------------------------------------------------------------ */

/* Whether the cache serves the class just now. */
static bool is_served(const struct cache *cache, unsigned cls)
{
    return cls < cache->table->classes && word_peek(&cache->table->tight) == 0;
}

void *cache_malloc(struct cache *cache, unsigned cls, struct fault *fault)
{
    return is_served(cache, cls) ? cache_refill(cache, cls, fault) : NULL;
}

bool cache_free(struct cache *cache, unsigned cls, void *block, struct fault *fault)
{
    if (!is_served(cache, cls) || !cache_spill(cache, cls, block))
        return false;
    cache_note_freed(cache);

    const struct depot *d = depot_of(cache, cls);
    size_t bound = stock_bound(cache);
    if (bound < policy_of(cache)->large_bound ||
        word_peek(&d->stock_magazines) % POLICY_MAGAZINES == 0 || depot_bytes(d, cls) > bound)
        stock_keep_bound(cache, fault);
    return true;
}

/* ---- whether a block is here ----------------------------------------------------------------- */

/* Whether the word does not count the slot. */
static bool counts_not(void *slot, unsigned cls, word w)
{
    word wanted = *(const word *)slot;

    return magazine_of(cls, w) != magazine_of(cls, wanted) || wanted >= w;
}

static bool is_counted(const struct cache *cache, unsigned cls, word slot)
{
    return !depot_walk(cache, cls, counts_not, &slot);
}

/* The word by which the block was pushed, if its mark can be right; 0: it cannot. */
static word marked_word(const struct cache *cache, const void *block)
{
    return place_of_mark(cache, *magazine_mark(block));
}

static bool is_in_slot(const void *block, word slot)
{
    return word_peek(magazine_next(slot)) == (word)block;
}

/* NB: the slot is checked again after the walk: the lane may have changed meanwhile. It is checked
 * before the walk, too: most false marks end there, without a walk. */
bool cache_has(const struct cache *cache, unsigned cls, const void *block)
{
    word mark = marked_word(cache, block);

    return depot_has(cache, cls, mark) && is_in_slot(block, mark) && is_counted(cache, cls, mark) &&
           is_in_slot(block, mark);
}

/* The mark is read again under the lock: a split may just have moved the block. If the depot is not
 * to be had (its holder is stopped, or was interrupted by this call), the walk goes without the
 * lock; then it does not find blocks that are in transit. */
bool cache_holds(struct cache *cache, const void *block)
{
    word mark = magazine_is_marked(block) ? marked_word(cache, block) : 0;
    unsigned cls = mark != 0 ? place_class(cache, mark) : CACHE_CLASSES;

    if (cls == 0 || cls >= cache->table->classes_most)
        return false;

    struct depot *d = depot_of(cache, cls);
    bool locked = depot_enter_any(cache, cls);
    bool held = cache_has(cache, cls, block);

    if (locked)
        depot_leave(d);
    return held;
}
