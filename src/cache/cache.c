/* cache.c - making and opening the cache, its doors for what is not fast, emptying it. */
#define _GNU_SOURCE
#include "base/process.h"
#include "cache/depot.h"

#include <sched.h>

enum {
    BYTES_A_CPU = 32 << 20, /* what a CPU may have cached, if nobody says how much */
    AREA_PART = 4096,       /* a class's magazines have this part of the region's addresses ... */
    AREA_LEAST = 8 << 10,   /* ... but at least so much ... */
    AREA_MOST = 16 << 20,   /* ... and at most so much: a million blocks */
    STRIPES_MOST = 64,      /* beyond the CPUs one more, and at most so many ... */
    STRIPES_PART = 64,      /* ... and this part of the region's addresses */
    LOOK_AT_BOUND = 16      /* a look at all depots each time that one got so many magazines more */
};

/* ---- making and opening ---------------------------------------------------------------------- */

static size_t class_area(size_t region_bytes)
{
    size_t area = bits_power_of_two_above(region_bytes / AREA_PART);

    return area < AREA_LEAST ? AREA_LEAST : area > AREA_MOST ? AREA_MOST : area;
}

static size_t stripes_for(size_t region_bytes, size_t cpus)
{
    size_t most = region_bytes / STRIPES_PART / STRIPE_BYTES;

    if (most > STRIPES_MOST)
        most = STRIPES_MOST;
    return cpus + 1 < most ? cpus + 1 : most;
}

size_t cache_magazine_area(size_t region_bytes, size_t cpus)
{
    return stripes_for(region_bytes, cpus) * STRIPE_BYTES +
           class_area(region_bytes) * CACHE_CLASSES;
}

_Static_assert(STRIPES_MOST *(size_t)STRIPE_BYTES + CACHE_CLASSES * (size_t)AREA_MOST <= UINT32_MAX,
               "a mark has the lower half of a word");

/* What a lane can hold of all classes up to that one must be within the bound. */
static size_t classes_within(size_t bytes)
{
    unsigned class = 2;

    for (size_t sum = 0; class < CACHE_CLASSES; class ++) {
        sum += magazine_capacity(class) * class_size(class);
        if (sum > bytes)
            break;
    }
    return class > 2 ? class : 0;
}

int cache_init(struct cache_table *table, size_t region_bytes, size_t bytes_a_cpu)
{
    intptr_t ignored;
    int error = 0;

    table->mode = lane_find_rseq(&ignored) ? CACHE_SEQUENCES : CACHE_LOCKED;
    table->area = class_area(region_bytes);
    table->stripes = stripes_for(region_bytes, table->cpus);
    if (bytes_a_cpu == 0)
        bytes_a_cpu = BYTES_A_CPU;
    table->classes = bytes_a_cpu == SIZE_MAX ? 0 : classes_within(bytes_a_cpu);
    table->bound = bytes_a_cpu <= SIZE_MAX / table->cpus ? bytes_a_cpu * table->cpus : SIZE_MAX;
    for (unsigned class = 0; class < CACHE_CLASSES && error == 0; class ++)
        error = lock_init(&table->depots[class].lock, LOCK_DEPOT);
    return error;
}

/* The smallest request that the class does not serve any more. */
static size_t limit_after(unsigned class)
{
    return class_size(class) - CHUNK_OVERHEAD + 1;
}

size_t cache_limit(const struct cache *cache)
{
    size_t classes = cache->table->classes;

    return classes == 0 ? 0 : limit_after((unsigned)classes - 1);
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
    class_fill_table(view->coarse);
    cache->locked = *view;
    if (table->classes == 0)
        return;
    if (table->mode == CACHE_LOCKED)
        view = &cache->locked;
    else if (!lane_find_rseq(&view->rseq))
        return;
    size_t exact = limit_after(CLASS_EXACT_LAST);
    view->coarse_limit = cache_limit(cache);
    view->exact_limit = exact < view->coarse_limit ? exact : view->coarse_limit;
    cache_extend_view(cache);
}

/* NB: the last granule stays out: the fast path looks at the chunk after a block. */
void cache_extend_view(struct cache *cache)
{
    struct lane_view *view = cache->locked.exact_limit != 0 ? &cache->locked : &cache->view;
    size_t granules = segment_ready(cache->segments->map);

    if (view->exact_limit == 0)
        return;
    word_show(&view->span, granules > 0 ? (granules - 1) << (GRANULE_SHIFT - 4) : 0);
}

/* ---- slow paths ------------------------------------------------------------------------------ */

void *cache_malloc(struct cache *cache, unsigned class, struct fault *fault)
{
    return class < cache->table->classes ? cache_refill(cache, class, fault) : NULL;
}

bool cache_free(struct cache *cache, unsigned class, void *block, struct fault *fault)
{
    const struct depot *d;

    if (class >= cache->table->classes)
        return false;
    if (!cache_spill(cache, class, block))
        return false;
    d = depot_of(cache, class);
    bool look = word_peek(&d->stock_magazines) % LOOK_AT_BOUND == 0 ||
                depot_bytes(d, class) > cache->table->bound;
    if (look && stock_bytes(cache) > cache->table->bound)
        stock_reduce(cache, LOOK_AT_BOUND * magazine_capacity(class) * class_size(class), fault);
    return true;
}

/* ---- whether a block is here ----------------------------------------------------------------- */

/* Whether the slot is none that the word counts. */
static bool counts_not(void *slot, unsigned class, word w)
{
    word wanted = *(const word *)slot;

    return magazine_of(class, w) != magazine_of(class, wanted) || wanted >= w;
}

static bool is_counted(const struct cache *cache, unsigned class, word slot)
{
    return !depot_walk(cache, class, counts_not, &slot);
}

/* The word that the block's mark has the lower half of; 0: none that can be one. */
static word marked_word(const struct cache_table *table, const void *block)
{
    size_t offset = (mark_half)(*magazine_mark(block) - (uintptr_t)table->magazines);
    size_t span = (size_t)(stretch_of(table, CACHE_CLASSES) - table->magazines);

    return offset < span && offset % WORD == 1 ? (word)table->magazines + offset : 0;
}

static bool is_in_slot(const void *block, word slot)
{
    return word_peek(magazine_next(slot)) == (word)block;
}

/* The mark is read again under the lock: a split may just have moved the block. NB: that the slot has the
 * block is seen after that it is counted: lanes change meanwhile, and what a slot had may be old. Before,
 * too: most false marks end there, without a walk. A depot that is not to be had (its holder is stopped, or
 * was interrupted by this call) is looked at as it is: what is in transit then is not found. */
bool cache_holds(struct cache *cache, const void *block)
{
    const struct cache_table *table = cache->table;
    word mark = magazine_is_marked(block) ? marked_word(table, block) : 0;
    unsigned class = mark != 0 ? magazine_class(table, mark) : CACHE_CLASSES;

    if (class >= table->classes)
        return false;

    struct depot *d = depot_of(cache, class);
    bool locked = depot_enter(cache, class);
    mark = marked_word(table, block);

    bool held = depot_has(cache, class, mark) && is_in_slot(block, mark) &&
                is_counted(cache, class, mark) && is_in_slot(block, mark);

    if (locked)
        depot_leave(d);
    return held;
}

/* ---- emptying -------------------------------------------------------------------------------- */

/* Takes what is loaded on that CPU, on which the thread is unless lanes are locked, to the depots. */
static void unload(struct cache *cache, size_t cpu)
{
    for (unsigned class = 0; class < cache->table->classes; class ++) {
        struct depot *d = depot_of(cache, class);
        word w = lane_word(cache, cpu, class);

        if (w == 0 || !depot_enter(cache, class))
            continue;
        w = lane_word(cache, cpu, class);
        bool done = w != 0 && cache_trade(cache, class, cpu, w, 0);
        depot_end_transit(d, class, shelf_of(cpu), done ? w : 0);
        depot_leave(d);
    }
}

/* Goes to each CPU that the thread may run on, and back. */
static void unload_sequences(struct cache *cache)
{
    size_t bytes = CPU_ALLOC_SIZE(cache->table->cpus);
    char allowed[(1 << 16) / 8], one[sizeof allowed];

    if (bytes > sizeof allowed || sched_getaffinity(0, bytes, (cpu_set_t *)(void *)allowed) != 0)
        return;
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++) {
        if (!CPU_ISSET_S(cpu, bytes, (cpu_set_t *)(void *)allowed))
            continue;
        CPU_ZERO_S(bytes, (cpu_set_t *)(void *)one);
        CPU_SET_S(cpu, bytes, (cpu_set_t *)(void *)one);
        if (sched_setaffinity(0, bytes, (cpu_set_t *)(void *)one) == 0)
            unload(cache, cpu);
    }
    sched_setaffinity(0, bytes, (cpu_set_t *)(void *)allowed);
}

bool cache_drain(struct cache *cache, struct fault *fault)
{
    size_t drained = 0;

    if (cache->table->classes == 0 || lock_holds_any())
        return false;
    if (cache->table->mode == CACHE_LOCKED)
        for (size_t cpu = 0; cpu < cache->table->cpus; cpu++)
            unload(cache, cpu);
    else if (cache->view.exact_limit != 0)
        unload_sequences(cache);
    for (unsigned class = 0; class < CACHE_CLASSES; class ++) {
        drained += stock_drain(cache, class, SIZE_MAX, fault);
        depot_shrink(cache, class);
    }
    return drained > 0;
}
