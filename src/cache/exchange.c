/* exchange.c - what a lane could not do: getting a magazine for an empty lane, making room in a
 * full one. */
#include "cache/depot.h"
#include "cache/lane_locked.h"

enum { POP_TRIES = 2 };

size_t cache_cpu(const struct cache *cache)
{
    size_t cpu = cache->table->mode == LANES_LOCKED ? lane_chosen() : lane_cpu(&cache->view);

    return cpu < cache->table->cpus ? cpu : 0;
}

/* Counts the lane as used: the bound on what may be cached goes by how many are. A hint, so no lock
 * is needed. */
static void note_used(struct cache_table *table, struct lane *lane)
{
    if (__atomic_exchange_n(&lane->used, 1, __ATOMIC_RELAXED) == 0)
        __atomic_fetch_add(&table->lanes_used, 1, __ATOMIC_RELAXED);
}

size_t cache_freeing_lane(const struct cache *cache, size_t cpu)
{
    return cache->table->hardened ? cpu + cache->table->cpus : cpu;
}

static bool exchange_lane(struct cache *cache, unsigned cls, size_t number, word old, word w)
{
    struct lane *lane = &cache->table->lanes[number];

    if (unlikely(__atomic_load_n(&lane->used, __ATOMIC_RELAXED) == 0))
        note_used(cache->table, lane);
    if (cache->table->mode == LANES_LOCKED)
        return lane_locked_exchange(lane, cls, old, w);
    return lane_exchange(cache_view_of(cache, number), (unsigned)cache_cpu_of(cache, number), cls,
                         old, w);
}

bool cache_exchange(struct cache *cache, unsigned cls, size_t lane, word old, word w)
{
    struct depot *d = depot_of(cache, cls);

    depot_set_transit(d, w, old);
    journal_commit(depot_journal(d));
    return exchange_lane(cache, cls, lane, old, w);
}

/* ---- malloc ---------------------------------------------------------------------------------- */

/* Loads a magazine that is in no list, or named in transit, into this CPU's lane if the lane has no
 * block, and else puts it away. The magazine's last block has just become the caller's, which the
 * first change here commits. */
static void load(struct cache *cache, unsigned cls, word w)
{
    struct depot *d = depot_of(cache, cls);
    size_t cpu = cache_cpu(cache), group = cpu_group_of(cpu);
    word old = lane_word(cache, cpu, cls);

    if (magazine_is_empty(cls, w) || !cache_has_lanes(cache, cls) || !magazine_is_empty(cls, old)) {
        depot_end_transit(d, cls, group, w);
        return;
    }
    bool done = cache_exchange(cache, cls, cpu, old, w);
    depot_end_transit(d, cls, group, done ? old : w);
}

/* Splits a magazine that is in no list: the upper half moves to an empty magazine, and that to the
 * stock. The blocks are copied first: nobody reads the copy until it is listed. Returns the lower
 * half's word; committed with the caller's change. NB: called before the caller changes
 * anything. */
static word split(struct cache *cache, unsigned cls, size_t group, word w)
{
    struct depot *d = depot_of(cache, cls);
    struct magazine *from = magazine_of(cls, w), *to = magazine_of(cls, d->empty);
    size_t count = magazine_count(cls, w), lower = count / 2;

    if (PLANTED(SPLIT_UNLISTED_FIRST))
        journal_commit(depot_journal(d));
    for (size_t i = lower; i < count; i++)
        to->slot[i - lower] = from->slot[i];
    word upper = magazine_word(to, count - lower);
    magazine_set_marks(cls, upper);
    compiler_barrier();
    depot_unlist(d, cls, &d->empty);
    depot_put_away(d, cls, group, upper);
    return magazine_word(from, lower);
}

/* Takes a magazine from that group's stock, out of its list, with at most `most` blocks if there
 * can be one. */
static word take_stock(struct cache *cache, unsigned cls, size_t group, size_t most)
{
    struct depot *d = depot_of(cache, cls);
    bool fits = magazine_count(cls, d->stock[group]) <= most;

    if (d->stock[group] == 0 || fits || !depot_provide_empty(cache, cls))
        return depot_take_stock(d, cls, group);
    return split(cache, cls, group, depot_take_stock(d, cls, group));
}

/* The same from any group's stock, the CPU's own first; 0: there is no stock. */
static word take_any_stock(struct cache *cache, unsigned cls, size_t group, size_t most)
{
    group = depot_find_stock(depot_of(cache, cls), group);
    return group < CPU_GROUPS ? take_stock(cache, cls, group, most) : 0;
}

/* Notes the exchange. Returns whether the one before it went the same way. */
static bool is_streaming(struct depot *d, size_t group, enum exchange_way exchange)
{
    bool same = d->last_exchange[group] == exchange;

    d->last_exchange[group] = (unsigned char)exchange;
    return same;
}

/* If other CPUs free what this CPU allocates, the blocks are in their stock: then the arena is
 * tried only now and then. In a hardened heap the stock is large anyhow: it is the quarantine. */
static bool is_fed_by_others(const struct cache *cache, struct depot *d)
{
    if (d->stock_magazines >= policy_of(cache)->fed_magazines && !cache->table->hardened)
        return true;
    if (d->foreign == 0)
        return false;
    d->foreign--;
    return true;
}

/* Finds a magazine that holds blocks, out of its list or in transit: looks in the CPU's stock, then
 * asks its arena, then looks in the other CPUs' stock, then asks any arena, and none of them grows.
 * With `may_grow` only the CPU's arena is asked, at the end, and may grow. Returns an empty
 * magazine or 0 if there are no blocks. */
static word find_blocks(struct cache *cache, unsigned cls, size_t group, bool may_grow,
                        bool *short_of_memory, struct fault *fault)
{
    struct depot *d = depot_of(cache, cls);
    size_t capacity = magazine_capacity(cls);
    size_t most = is_streaming(d, group, EXCHANGE_REFILL) ? capacity : capacity / 2;
    word w = take_stock(cache, cls, group, most);

    if (w != 0)
        return w;
    if (!may_grow && !is_fed_by_others(cache, d)) {
        w = stock_fill(cache, cls, FILL_FROM_OWN, short_of_memory, fault);
        if (!magazine_is_empty(cls, w))
            return w;
        depot_end_transit(d, cls, group, w);
        d->foreign = policy_of(cache)->fed_exchanges;
    }
    w = take_any_stock(cache, cls, group, most);
    if (w != 0)
        return w;
    return stock_fill(cache, cls, may_grow ? FILL_GROWING : FILL_FROM_ANY, short_of_memory, fault);
}

static void *take_block(struct cache *cache, unsigned cls, bool may_grow, bool *short_of_memory,
                        struct fault *fault)
{
    size_t group = cpu_group_of(cache_cpu(cache));
    word w = find_blocks(cache, cls, group, may_grow, short_of_memory, fault);

    if (magazine_is_empty(cls, w)) {
        depot_end_transit(depot_of(cache, cls), cls, group, w);
        return NULL;
    }
    void *block = (void *)*magazine_last(w);
    load(cache, cls, w - WORD);
    return block;
}

/* Whether the class was hardly used yet. The arenas serve its first requests, so that a heap of few
 * blocks has no magazines. In a hardened heap all blocks pass through the cache. */
static bool is_first(const struct cache *cache, struct depot *d)
{
    if (likely(word_peek(&d->demand) != 0 || word_peek(&d->made) != 0) || cache->table->hardened)
        return false;
    word_show(&d->demand, 1);
    return true;
}

/* A pop that failed though the lane has blocks was aborted. A second try mostly comes through, but
 * never while the thread is single-stepped. */
static void *pop_again(const struct cache *cache, unsigned cls)
{
    void *block = NULL;

    if (cache->view.mode != LANES_SEQUENCES)
        return NULL;
    for (int tries = 0; tries < POP_TRIES && block == NULL; tries++) {
        if (magazine_is_empty(cls, lane_word(cache, cache_cpu(cache), cls)))
            return NULL;
        block = lane_pop_any(&cache->view, cls);
    }
    return block;
}

void *cache_refill(struct cache *cache, unsigned cls, struct fault *fault)
{
    void *block = pop_again(cache, cls);
    bool may_grow = false, short_of_memory = true;

    if (is_first(cache, depot_of(cache, cls)))
        return NULL;
    while (block == NULL && short_of_memory && depot_enter(cache, cls)) {
        short_of_memory = false;
        block = take_block(cache, cls, may_grow, &short_of_memory, fault);
        depot_leave(depot_of(cache, cls));
        if (may_grow)
            break;
        if (block == NULL && short_of_memory)
            may_grow = !cache_reduce_before_growth(cache, fault);
    }
    if (block != NULL && !cache->table->hardened)
        magazine_clear_mark(block);
    return block;
}

/* ---- free ------------------------------------------------------------------------------------ */

/* Takes a magazine that has room, out of its list: one from the stock, with at most `most` blocks,
 * or an empty one. 0: there is none. */
static word take_room(struct cache *cache, unsigned cls, size_t group, size_t most)
{
    struct depot *d = depot_of(cache, cls);

    if (most > 0 && d->stock[group] != 0) {
        word w = take_stock(cache, cls, group, most);
        if (magazine_count(cls, w) <= most)
            return w;
        depot_put_away(d, cls, group, w);
        journal_commit(depot_journal(d));
    }
    return depot_provide_empty(cache, cls) ? depot_unlist(d, cls, &d->empty) : 0;
}

bool cache_spill(struct cache *cache, unsigned cls, void *block)
{
    struct depot *d = depot_of(cache, cls);

    if (word_peek(&d->made) == 0 && word_peek(&d->demand) < 2 && !cache->table->hardened)
        return false; /* see is_first() */
    if (!depot_enter(cache, cls))
        return false;
    if (unlikely(magazine_is_marked(block)) && cache_has(cache, cls, block)) {
        depot_leave(d); /* a child that a handler forked since the caller looked has freed it */
        return false;
    }

    size_t cpu = cache_cpu(cache), group = cpu_group_of(cpu), capacity = magazine_capacity(cls);
    size_t lane = cache_freeing_lane(cache, cpu);
    word old = lane_word(cache, lane, cls);
    bool full = cache_has_lanes(cache, cls) && magazine_is_full(cls, old);
    size_t most = !full ? capacity - 1 : is_streaming(d, group, EXCHANGE_SPILL) ? 0 : capacity / 2;
    word w = take_room(cache, cls, group, most);

    if (w != 0) {
        /* Journaled: if a split just made is undone, the slot belongs to the upper half again. */
        depot_store(d, magazine_next(w), (word)block);
        magazine_set_mark(block, w);
        bool done = full && cache_exchange(cache, cls, lane, old, w + WORD);
        depot_end_transit(d, cls, group, done ? old : w + WORD);
    }
    depot_leave(d);
    return w != 0;
}
