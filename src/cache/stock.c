/* stock.c - filling magazines from arenas, and emptying them into arenas. */
#include "cache/depot.h"

/* ---- filling --------------------------------------------------------------------------------- */

/* One block at the first miss, four times as many at each further one, up to half a magazine. */
static size_t blocks_wanted(const struct cache *cache, unsigned cls)
{
    const struct depot *d = depot_of(cache, cls);
    size_t half = magazine_capacity(cls) / 2;
    size_t most = policy_of(cache)->fill_bytes / class_size(cls) + 1;
    size_t wanted = d->demand < 4 ? (size_t)1 << 2 * d->demand : half;

    if (wanted > most)
        wanted = most;
    return wanted < half ? wanted : half;
}

void cache_align(struct cache *cache, unsigned cls, size_t alignment)
{
    struct depot *d = depot_of(cache, cls);

    if (word_peek(&d->alignment) < alignment)
        __atomic_store_n(&d->alignment, alignment, __ATOMIC_RELAXED);
}

static size_t alignment_of(const struct depot *d)
{
    size_t alignment = word_peek(&d->alignment);

    return alignment > CHUNK_ALIGN ? alignment : CHUNK_ALIGN;
}

/* Fills a magazine that is empty and in transit. Returns the number of blocks. */
static size_t fill_magazine(struct cache *cache, unsigned cls, struct magazine *m,
                            enum fill_from from, bool *short_of_memory, struct fault *fault)
{
    struct depot *d = depot_of(cache, cls);
    struct arena_hold hold;
    size_t n = 0;

    arena_hold_none(&hold);
    if (!arenas_enter(cache->arenas, &hold))
        return 0;
    do {
        d->arena = hold.slot->arena.id;
        compiler_barrier();
        hold.call.no_growth = from != FILL_GROWING;
        n = arena_fill(&hold.call, class_size(cls) - CHUNK_OVERHEAD, alignment_of(d),
                       blocks_wanted(cache, cls), (void **)m->slot, &d->transit_new);
        if (hold.call.fault.kind != FAULT_NONE)
            *fault = hold.call.fault;
        *short_of_memory |= n == 0 && hold.call.short_of_memory;
    } while (n == 0 && from == FILL_FROM_ANY &&
             arenas_move_on(cache->arenas, &hold, class_size(cls) - CHUNK_OVERHEAD));
    for (size_t i = 0; i < n && unlikely(cache->table->hardened); i++)
        canary_disarm(cache_canary(cache, (const void *)m->slot[i]));
    arenas_leave(cache->arenas, &hold);
    if (fault->kind == FAULT_NONE)
        *fault = hold.found;
    return n;
}

void cache_harden(const struct cache *cache, unsigned cls, word w)
{
    const struct magazine *m = magazine_of(cls, w);

    if (!cache->table->hardened)
        return;
    for (size_t i = 0; i < magazine_count(cls, w); i++) {
        const void *block = (const void *)m->slot[i];

        if (cache_is_chunk_of(cache, cls, block) && !cache_is_clean(cache, cls, block)) {
            canary_disarm(cache_canary(cache, block));
            canary_fill(cache_canary(cache, block));
        }
    }
}

word stock_fill(struct cache *cache, unsigned cls, enum fill_from from, bool *short_of_memory,
                struct fault *fault)
{
    struct depot *d = depot_of(cache, cls);

    if (!depot_provide_empty(cache, cls))
        return 0;

    struct magazine *m = magazine_of(cls, d->empty);
    depot_set_transit(d, depot_unlist(d, cls, &d->empty), 0);
    journal_commit(depot_journal(d));
    *short_of_memory = false;
    size_t n = fill_magazine(cache, cls, m, from, short_of_memory, fault);
    cache_harden(cache, cls, magazine_word(m, n));
    magazine_set_marks(cls, magazine_word(m, n));
    if (n > 0 && d->demand < 4)
        word_show(&d->demand, d->demand + 1);
    return d->transit_new;
}

/* ---- draining -------------------------------------------------------------------------------- */

/* Locks the block's arena, unless that is the one locked already. */
static bool enter_arena_of(struct cache *cache, struct depot *d, struct arena_hold *hold,
                           const void *block)
{
    const struct chunk *c = chunk_of_payload(block);
    size_t id = segment_owner(cache->segments->map, c, NULL);

    if (hold->slot != NULL && hold->slot->arena.id == id)
        return true;
    arenas_leave(cache->arenas, hold);
    if (id == 0 || id > arenas_count(cache->arenas->table))
        return false;
    d->arena = id;
    compiler_barrier();
    return arenas_enter_index(cache->arenas, hold, id - 1);
}

/* Looks for writes to a free block of a hardened heap. Its header is true, or the block is left to
 * the arena, which says what is wrong. */
static void check_fill(const struct cache *cache, unsigned cls, const void *block,
                       struct fault *fault)
{
    if (fault->kind == FAULT_NONE && cache_is_chunk_of(cache, cls, block) &&
        !cache_is_clean(cache, cls, block))
        fault_raise(fault, FAULT_ARGUMENT, CANARY_FREE_WRITTEN, block);
}

/* Empties the magazine in transit. A block that its arena does not take (its header was
 * overwritten, or the arena is damaged) is dropped: nobody will get it again. False: an arena is
 * not to be had, and the other blocks are still in the magazine. */
static bool empty_transit(struct cache *cache, unsigned cls, struct fault *fault)
{
    struct depot *d = depot_of(cache, cls);
    struct arena_hold hold;

    arena_hold_none(&hold);
    while (!magazine_is_empty(cls, d->transit_new)) {
        void *block = (void *)*magazine_last(d->transit_new);

        if (!enter_arena_of(cache, d, &hold, block))
            break; /* the arena is held for long, or this is a signal handler in its holder */
        if (unlikely(cache->table->hardened))
            check_fill(cache, cls, block, fault);
        if (arena_take_back(&hold.call, block, &d->transit_new))
            continue;
        if (hold.call.fault.kind != FAULT_NONE) {
            if (fault->kind == FAULT_NONE)
                *fault = hold.call.fault;
            hold.call.fault.kind = FAULT_NONE;
        }
        d->transit_new -= WORD;
        compiler_barrier();
    }
    arenas_leave(cache->arenas, &hold);
    if (fault->kind == FAULT_NONE)
        *fault = hold.found;
    return magazine_is_empty(cls, d->transit_new);
}

/* Whether the depot has no stock now, and will have none once it is repaired. A look without the
 * lock. */
static bool seems_bare(const struct depot *d)
{
    return (word_peek(&d->stock_magazines) | word_peek(&d->transit_new) |
            word_peek(&d->transit_old) | word_peek(&d->recovering)) == 0 &&
           __atomic_load_n(&d->log.count, __ATOMIC_RELAXED) == 0;
}

size_t stock_drain(struct cache *cache, unsigned cls, size_t magazines, struct fault *fault)
{
    struct depot *d = depot_of(cache, cls);
    size_t drained = 0;

    if (seems_bare(d) || !depot_enter_to_drain(cache, cls))
        return 0;
    for (bool emptied = true; emptied && drained < magazines && d->stock_magazines != 0;
         drained += emptied) {
        depot_set_transit(d, depot_take_stock(d, cls, depot_find_stock(d, 0)), 0);
        journal_commit(depot_journal(d));
        emptied = empty_transit(cache, cls, fault);
        depot_end_transit(d, cls, 0, d->transit_new);
    }
    word_show(&d->demand, d->demand / 2);
    depot_leave(d);
    return drained;
}

size_t stock_bytes(const struct cache *cache)
{
    size_t bytes = 0;

    for (unsigned cls = 0; cls < CACHE_CLASSES && cache->table->classes_most > 0; cls++)
        bytes += depot_bytes(depot_of(cache, cls), cls);
    return bytes;
}

size_t stock_bound(const struct cache *cache)
{
    const struct cache_table *table = cache->table;
    size_t cpus = word_peek(&table->lanes_used) >> table->hardened,
           in_all = table->bytes_in_all / 2, by_cpus;

    if (__builtin_mul_overflow(table->bytes_a_cpu, cpus > 0 ? cpus : 1, &by_cpus))
        by_cpus = SIZE_MAX;
    return by_cpus < in_all ? by_cpus : in_all;
}

static unsigned largest_stock(const struct cache *cache)
{
    unsigned largest = 0;

    for (unsigned cls = 1; cls < CACHE_CLASSES; cls++)
        if (depot_bytes(depot_of(cache, cls), cls) > depot_bytes(depot_of(cache, largest), largest))
            largest = cls;
    return largest;
}

size_t stock_reduce(struct cache *cache, size_t bytes, struct fault *fault)
{
    size_t done = 0;

    while (done < bytes) {
        unsigned cls = largest_stock(cache);
        size_t unit = magazine_capacity(cls) / 2 * class_size(cls);
        size_t wanted = unit == 0 ? 0 : (bytes - done + unit - 1) / unit;
        size_t drained = stock_drain(cache, cls, wanted, fault);

        if (drained == 0)
            break;
        done += drained * unit;
    }
    return done;
}

/* Reduces to a little below the bound, so that not every further magazine means a look at all
 * depots. */
void stock_keep_bound(struct cache *cache, struct fault *fault)
{
    size_t bytes = stock_bytes(cache), bound = stock_bound(cache);

    if (bytes > bound)
        stock_reduce(cache, bytes - bound + policy_part(bound, policy_of(cache)->below_bound_part),
                     fault);
}

/* Returns about four times what growing would bring, so that what is cached falls while the arenas
 * grow. */
bool cache_reduce_before_growth(struct cache *cache, struct fault *fault)
{
    if (word_peek(&cache->table->drained) != 0)
        return false;

    const struct policy *policy = policy_of(cache);
    size_t footprint = arenas_footprint(cache->arenas->table);
    size_t bytes = stock_bytes(cache), part = policy_part(footprint, policy->reduce_part);

    if (bytes < policy->reduce_least + part)
        return false;
    bytes = policy->reduce_least + part * 2;
    return stock_reduce(cache, bytes < policy->reduce_most ? bytes : policy->reduce_most, fault) >
           0;
}
