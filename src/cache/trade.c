/* trade.c - what a lane could not do: getting a magazine for an empty lane, making room in a full
 * one. */
#include "cache/depot.h"
#include "cache/lane_locked.h"

enum { POP_TRIES = 2 };

size_t cache_cpu(const struct cache *cache)
{
    size_t cpu = cache->table->mode == CACHE_LOCKED ? lane_chosen() : lane_cpu(&cache->view);

    return cpu < cache->table->cpus ? cpu : 0;
}

/* Counts the lane as used: the bound on what may be cached goes by how many are. A hint, so no lock
 * is needed. */
static void note_used(struct cache_table *table, struct lane *lane)
{
    if (__atomic_exchange_n(&lane->used, 1, __ATOMIC_RELAXED) == 0)
        __atomic_fetch_add(&table->lanes_used, 1, __ATOMIC_RELAXED);
}

static bool exchange(struct cache *cache, unsigned class, size_t cpu, word old, word w)
{
    struct lane *lane = &cache->table->lanes[cpu];

    if (unlikely(__atomic_load_n(&lane->used, __ATOMIC_RELAXED) == 0))
        note_used(cache->table, lane);
    if (cache->table->mode == CACHE_LOCKED)
        return lane_locked_exchange(lane, class, old, w);
    return lane_exchange(&cache->view, (unsigned)cpu, class, old, w);
}

bool cache_trade(struct cache *cache, unsigned class, size_t cpu, word old, word w)
{
    struct depot *d = depot_of(cache, class);

    depot_set_transit(d, w, old);
    journal_commit(depot_journal(d));
    return exchange(cache, class, cpu, old, w);
}

/* ---- malloc ---------------------------------------------------------------------------------- */

/* Loads a magazine that is in no list, or named in transit, into this CPU's lane if the lane has no
 * block, and else puts it away. The magazine's last block has just become the caller's, which the
 * first change here commits. */
static void load(struct cache *cache, unsigned class, word w)
{
    struct depot *d = depot_of(cache, class);
    size_t cpu = cache_cpu(cache), shelf = shelf_of(cpu);
    word old = lane_word(cache, cpu, class);

    if (magazine_is_empty(class, w) || !cache_has_lanes(cache, class) ||
        !magazine_is_empty(class, old)) {
        depot_end_transit(d, class, shelf, w);
        return;
    }
    bool done = cache_trade(cache, class, cpu, old, w);
    depot_end_transit(d, class, shelf, done ? old : w);
}

/* Splits a magazine that is in no list: the upper half moves to an empty magazine, and that to the
 * stock. The blocks are copied first: nobody reads the copy until it is listed. Returns the lower
 * half's word; committed with the caller's change. NB: called before the caller changes
 * anything. */
static word split(struct cache *cache, unsigned class, size_t shelf, word w)
{
    struct depot *d = depot_of(cache, class);
    struct magazine *from = magazine_of(class, w), *to = magazine_of(class, d->empty);
    size_t count = magazine_count(class, w), lower = count / 2;

    if (PLANTED(7))
        journal_commit(depot_journal(d));
    for (size_t i = lower; i < count; i++)
        to->slot[i - lower] = from->slot[i];
    word upper = magazine_word(to, count - lower);
    magazine_set_marks(class, upper);
    compiler_barrier();
    depot_unlist(d, class, &d->empty);
    depot_put_away(d, class, shelf, upper);
    return magazine_word(from, lower);
}

/* Takes a magazine from that shelf, out of its list, with at most `most` blocks if there can be
 * one. */
static word take_stock(struct cache *cache, unsigned class, size_t shelf, size_t most)
{
    struct depot *d = depot_of(cache, class);
    bool fits = magazine_count(class, d->stock[shelf]) <= most;

    if (d->stock[shelf] == 0 || fits || !depot_provide_empty(cache, class))
        return depot_take_stock(d, class, shelf);
    return split(cache, class, shelf, depot_take_stock(d, class, shelf));
}

/* The same from any shelf, the CPU's own first; 0: there is no stock. */
static word take_any_stock(struct cache *cache, unsigned class, size_t shelf, size_t most)
{
    shelf = depot_find_stock(depot_of(cache, class), shelf);
    return shelf < DEPOT_SHELVES ? take_stock(cache, class, shelf, most) : 0;
}

/* Notes the trade. Returns whether the one before it went the same way. */
static bool is_streaming(struct depot *d, size_t shelf, enum trade trade)
{
    bool same = d->last_trade[shelf] == trade;

    d->last_trade[shelf] = (unsigned char)trade;
    return same;
}

/* If other CPUs free what this CPU allocates, the blocks are in their stock: then the arena is
 * tried only now and then. */
enum { STOCK_PLENTY = 4, FOREIGN_TURNS = 16 };

static bool is_fed_by_others(struct depot *d)
{
    if (d->stock_magazines >= STOCK_PLENTY)
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
static word find_blocks(struct cache *cache, unsigned class, size_t shelf, bool may_grow,
                        bool *short_of_memory, struct fault *fault)
{
    struct depot *d = depot_of(cache, class);
    size_t capacity = magazine_capacity(class);
    size_t most = is_streaming(d, shelf, TRADE_REFILL) ? capacity : capacity / 2;
    word w = take_stock(cache, class, shelf, most);

    if (w != 0)
        return w;
    if (!may_grow && !is_fed_by_others(d)) {
        w = stock_fill(cache, class, FILL_FROM_OWN, short_of_memory, fault);
        if (!magazine_is_empty(class, w))
            return w;
        depot_end_transit(d, class, shelf, w);
        d->foreign = FOREIGN_TURNS;
    }
    w = take_any_stock(cache, class, shelf, most);
    if (w != 0)
        return w;
    return stock_fill(cache, class, may_grow ? FILL_GROWING : FILL_FROM_ANY, short_of_memory,
                      fault);
}

static void *take_block(struct cache *cache, unsigned class, bool may_grow, bool *short_of_memory,
                        struct fault *fault)
{
    size_t shelf = shelf_of(cache_cpu(cache));
    word w = find_blocks(cache, class, shelf, may_grow, short_of_memory, fault);

    if (magazine_is_empty(class, w)) {
        depot_end_transit(depot_of(cache, class), class, shelf, w);
        return NULL;
    }
    void *block = (void *)*magazine_last(w);
    load(cache, class, w - WORD);
    return block;
}

/* Whether the class was hardly used yet. The arenas serve its first requests, so that a heap of few
 * blocks has no magazines. */
static bool is_first(struct depot *d)
{
    if (likely(word_peek(&d->demand) != 0 || word_peek(&d->made) != 0))
        return false;
    word_show(&d->demand, 1);
    return true;
}

/* A pop that failed though the lane has blocks was aborted. A second try mostly comes through, but
 * never while the thread is single-stepped. */
static void *pop_again(const struct cache *cache, unsigned class)
{
    void *block = NULL;

    if (cache->view.exact_limit == 0)
        return NULL;
    for (int tries = 0; tries < POP_TRIES && block == NULL; tries++) {
        if (magazine_is_empty(class, lane_word(cache, cache_cpu(cache), class)))
            return NULL;
        block = magazine_bytes(class) == MAGAZINE_BYTES
                    ? lane_pop(&cache->view, class, LANE_MASK(MAGAZINE_BYTES))
                    : lane_pop(&cache->view, class, LANE_MASK(MAGAZINE_COARSE_BYTES));
    }
    return block;
}

void *cache_refill(struct cache *cache, unsigned class, struct fault *fault)
{
    void *block = pop_again(cache, class);
    bool may_grow = false, short_of_memory = true;

    if (is_first(depot_of(cache, class)))
        return NULL;
    while (block == NULL && short_of_memory && depot_enter(cache, class)) {
        short_of_memory = false;
        block = take_block(cache, class, may_grow, &short_of_memory, fault);
        depot_leave(depot_of(cache, class));
        if (may_grow)
            break;
        if (block == NULL && short_of_memory)
            may_grow = !cache_reduce_before_growth(cache, fault);
    }
    if (block != NULL)
        magazine_clear_mark(block);
    return block;
}

/* ---- free ------------------------------------------------------------------------------------ */

/* Takes a magazine that has room, out of its list: one from the shelf, with at most `most` blocks,
 * or an empty one. 0: there is none. */
static word take_room(struct cache *cache, unsigned class, size_t shelf, size_t most)
{
    struct depot *d = depot_of(cache, class);

    if (most > 0 && d->stock[shelf] != 0) {
        word w = take_stock(cache, class, shelf, most);
        if (magazine_count(class, w) <= most)
            return w;
        depot_put_away(d, class, shelf, w);
        journal_commit(depot_journal(d));
    }
    return depot_provide_empty(cache, class) ? depot_unlist(d, class, &d->empty) : 0;
}

bool cache_spill(struct cache *cache, unsigned class, void *block)
{
    struct depot *d = depot_of(cache, class);

    if (word_peek(&d->made) == 0 && word_peek(&d->demand) < 2)
        return false; /* see is_first() */
    if (!depot_enter(cache, class))
        return false;
    if (unlikely(magazine_is_marked(block)) && cache_has(cache, class, block)) {
        depot_leave(d); /* a child that a handler forked since the caller looked has freed it */
        return false;
    }

    size_t cpu = cache_cpu(cache), shelf = shelf_of(cpu), capacity = magazine_capacity(class);
    word old = lane_word(cache, cpu, class);
    bool full = cache_has_lanes(cache, class) && magazine_is_full(class, old);
    size_t most = !full ? capacity - 1 : is_streaming(d, shelf, TRADE_SPILL) ? 0 : capacity / 2;
    word w = take_room(cache, class, shelf, most);

    if (w != 0) {
        /* Journaled: if a split just made is undone, the slot belongs to the upper half again. */
        journal_store(depot_journal(d), magazine_next(w), (word)block);
        magazine_set_mark(block, w);
        bool done = full && cache_trade(cache, class, cpu, old, w + WORD);
        depot_end_transit(d, class, shelf, done ? old : w + WORD);
    }
    depot_leave(d);
    return w != 0;
}
