/* trade.c - what a lane could not do: a magazine for an empty one, room for a full one. */
#include "cache/depot.h"

/* The CPU whose lane the thread uses. */
static size_t this_cpu(const struct cache *cache)
{
    return lane_cpu(&cache->view) % cache->table->cpus;
}

static bool exchange(struct cache *cache, unsigned class, size_t cpu, word old, word w)
{
    if (cache->table->mode == CACHE_LOCKED)
        return lane_locked_exchange(&cache->table->lanes[cpu], class, old, w);
    return lane_exchange(&cache->view, (unsigned)cpu, class, old, w);
}

bool cache_trade(struct cache *cache, unsigned class, size_t cpu, word old, word w)
{
    struct depot *d = depot_of(cache, class);

    depot_set_transit(d, w, old);
    journal_commit(&d->journal);
    return exchange(cache, class, cpu, old, w);
}

static void end_trade(struct depot *d, unsigned class, word outside)
{
    depot_put_away(d, class, outside);
    depot_set_transit(d, 0, 0);
    journal_commit(&d->journal);
}

/* ---- malloc ---------------------------------------------------------------------------------- */

/* A magazine that is in no list, or named in transit, goes into this CPU's lane if that has no block,
 * and away otherwise. Its last block has just become the caller's: committed with the first change. */
static void load(struct cache *cache, unsigned class, word w)
{
    struct depot *d = depot_of(cache, class);
    size_t cpu = this_cpu(cache);
    word old = lane_word(cache, cpu, class);

    if (magazine_is_empty(class, w) || !cache_has_lanes(cache, class) ||
        !magazine_is_empty(class, old)) {
        end_trade(d, class, w);
        return;
    }
    bool done = cache_trade(cache, class, cpu, old, w);
    end_trade(d, class, done ? old : w);
}

/* A block from the stock or, without one, from a magazine that an arena fills. */
static void *take_block(struct cache *cache, unsigned class, bool may_grow, bool *short_of_memory,
                        struct fault *fault)
{
    struct depot *d = depot_of(cache, class);
    word w = depot_take_stock(d, class);

    if (w == 0)
        w = stock_fill(cache, class, may_grow, short_of_memory, fault);
    if (magazine_is_empty(class, w)) {
        end_trade(d, class, w);
        return NULL;
    }
    void *block = (void *)*magazine_last(w);
    load(cache, class, w - WORD);
    return block;
}

void *cache_refill(struct cache *cache, unsigned class, struct fault *fault)
{
    void *block = NULL;
    bool may_grow = false, short_of_memory = true;

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
        *magazine_mark(block) = 0;
    return block;
}

/* ---- free ------------------------------------------------------------------------------------ */

/* The upper half of a full magazine moves to an empty one, if there is one. Copied first: until they
 * are listed nobody reads the copies. */
static void split_and_end(struct cache *cache, unsigned class, word full)
{
    struct depot *d = depot_of(cache, class);
    size_t half = magazine_capacity(class) / 2;

    if (!depot_provide_empty(cache, class)) {
        end_trade(d, class, full);
        return;
    }
    struct magazine *from = magazine_of(class, full), *to = magazine_of(class, d->empty);
    for (size_t i = 0; i < half; i++) {
        to->slot[i] = from->slot[half + i];
        *magazine_mark((void *)to->slot[i]) = magazine_word(to, i);
    }
    compiler_barrier();
    depot_unlist(d, class, &d->empty);
    depot_put_away(d, class, magazine_word(to, half));
    end_trade(d, class, magazine_word(from, half));
}

/* A magazine that has room, out of its list: from the stock, unless that leaves a lane soon full
 * again, or an empty one. 0: none to be had. */
static word take_room(struct cache *cache, unsigned class, size_t most)
{
    struct depot *d = depot_of(cache, class);

    if (d->stock != 0 && magazine_count(class, d->stock) <= most)
        return depot_take_stock(d, class);
    return depot_provide_empty(cache, class) ? depot_unlist(d, class, &d->empty) : 0;
}

bool cache_spill(struct cache *cache, unsigned class, void *block)
{
    struct depot *d = depot_of(cache, class);

    if (!depot_enter(cache, class))
        return false;

    size_t cpu = this_cpu(cache), capacity = magazine_capacity(class);
    word old = lane_word(cache, cpu, class);
    bool full = cache_has_lanes(cache, class) && magazine_is_full(class, old);
    word w = take_room(cache, class, full ? capacity / 2 : capacity - 1);

    if (w != 0) {
        *magazine_next(w) = (word)block;
        *magazine_mark(block) = w;
        if (!full)
            end_trade(d, class, w + WORD);
        else if (!cache_trade(cache, class, cpu, old, w + WORD))
            end_trade(d, class, w + WORD);
        else if (old == 0)
            end_trade(d, class, 0);
        else
            split_and_end(cache, class, old);
    }
    depot_leave(d);
    return w != 0;
}
