/* depot.c - a depot's lock and recovery, its lists, its magazines' memory. */
#include "cache/depot.h"

#include "sync/report.h"

/* How long a thread waits for a depot before it asks the arenas. */
enum { WAIT_MS = 2 };

/* ---- lists ----------------------------------------------------------------------------------- */

void depot_list(struct depot *d, unsigned cls, word *list, word w)
{
    depot_store(d, &magazine_of(cls, w)->link, *list);
    depot_store(d, list, w);
}

word depot_unlist(struct depot *d, unsigned cls, word *list)
{
    word w = *list;

    if (w != 0) {
        depot_store(d, list, magazine_of(cls, w)->link);
        if (*list != 0)
            magazine_expect(cls, *list);
    }
    return w;
}

size_t depot_find_stock(const struct depot *d, size_t group)
{
    for (size_t i = 0; i < CPU_GROUPS; i++, group = (group + 1) % CPU_GROUPS)
        if (d->stock[group] != 0)
            return group;
    return CPU_GROUPS;
}

void depot_put_away(struct depot *d, unsigned cls, size_t group, word w)
{
    if (w == 0)
        return;
    if (magazine_is_empty(cls, w)) {
        depot_list(d, cls, &d->empty, w);
        return;
    }
    depot_list(d, cls, &d->stock[group], w);
    depot_store(d, &d->stock_magazines, d->stock_magazines + 1);
    depot_store(d, &d->stock_blocks, d->stock_blocks + magazine_count(cls, w));
}

void depot_end_transit(struct depot *d, unsigned cls, size_t group, word outside)
{
    depot_put_away(d, cls, group, outside);
    if (!PLANTED(TRANSIT_NOT_CLEARED))
        depot_set_transit(d, 0, 0);
    journal_commit(depot_journal(d));
}

word depot_take_stock(struct depot *d, unsigned cls, size_t group)
{
    word w = depot_unlist(d, cls, &d->stock[group]);

    if (w != 0) {
        depot_store(d, &d->stock_magazines, d->stock_magazines - 1);
        depot_store(d, &d->stock_blocks, d->stock_blocks - magazine_count(cls, w));
    }
    return w;
}

bool depot_walk(const struct cache *cache, unsigned cls, depot_visit visit, void *context)
{
    const struct depot *d = depot_of(cache, cls);
    size_t left = word_peek(&d->made);

    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++) {
        word w = lane_word(cache, lane, cls);

        if (depot_has(cache, cls, w) && !visit(context, cls, w))
            return false;
    }
    for (size_t group = 0; group < CPU_GROUPS && !d->damaged; group++)
        for (word w = d->stock[group]; depot_has(cache, cls, w) && left-- > 0;
             w = magazine_of(cls, w)->link)
            if (!visit(context, cls, w))
                return false;
    return true;
}

/* ---- magazines ------------------------------------------------------------------------------- */

/* The magazines' links are written before anybody can see the magazines. */
void depot_make_magazines(struct depot *d, unsigned cls)
{
    size_t count = place_magazines(cls);
    word list = d->empty;

    for (size_t i = 0; i < count; i++) {
        struct magazine *m = (struct magazine *)(d->incoming + i * magazine_bytes(cls));

        m->link = list;
        list = magazine_word(m, 0);
    }
    compiler_barrier();
    depot_store(d, &d->empty, list);
    depot_store(d, &d->made, d->made + count);
    depot_store(d, &d->incoming, 0);
    journal_commit(depot_journal(d));
}

void depot_give_units(struct cache *cache, unsigned cls)
{
    struct depot *d = depot_of(cache, cls);
    word unit;

    while ((unit = d->units) != 0) {
        place_give(cache, cls);
        if (d->units == unit)
            break; /* the map's lock is not to be had */
    }
}

/* ---- the lock -------------------------------------------------------------------------------- */

bool depot_is_loaded(const struct cache *cache, unsigned cls, word w)
{
    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++) {
        word loaded = lane_word(cache, lane, cls);

        if (loaded != 0 && magazine_of(cls, loaded) == magazine_of(cls, w))
            return true;
    }
    return false;
}

/* The stores are in an order that may be interrupted and repeated. The class's units, and what was
 * on its way, are lost. */
static void set_aside(struct depot *d)
{
    if (!d->damaged)
        fault_note("damaged journal of a depot", d);
    d->damaged = 1;
    compiler_barrier();
    d->stock_magazines = d->stock_blocks = d->arena = d->made = 0;
    d->units = d->incoming = d->pending.bytes = 0;
    d->transit_new = d->transit_old = 0;
    journal_commit(depot_journal(d));
}

/* Whether the depot, just locked, can be used; if not, it is unlocked. */
static NOINLINE bool make_usable(struct cache *cache, unsigned cls, enum lock_state state,
                                 bool patiently)
{
    struct depot *d = depot_of(cache, cls);

    if (state == LOCK_OWNER_DIED) {
        word_show(&d->recovering, 1);
        compiler_barrier();
        lock_repaired(&d->lock);
    }

    enum depot_recovery recovery = depot_recover(cache, cls, patiently);
    if (recovery == DEPOT_DAMAGED)
        set_aside(d);
    if (recovery != DEPOT_NOT_NOW) {
        word_show(&d->recovering, 0);
        return true;
    }
    lock_release(&d->lock);
    return false;
}

static bool begin(struct cache *cache, unsigned cls, enum lock_state state, bool patiently)
{
    const struct depot *d = depot_of(cache, cls);

    if (unlikely(state == LOCK_TAKEN || state == LOCK_REENTERED))
        return false;
    if (unlikely(state == LOCK_OWNER_DIED || d->recovering))
        return make_usable(cache, cls, state, patiently);
    return true;
}

bool depot_enter_any(struct cache *cache, unsigned cls)
{
    struct depot *d = depot_of(cache, cls);
    bool waits = word_peek(&d->stuck) == 0 && lock_may_wait(LOCK_DEPOT);
    enum lock_state state = lock_acquire_within(&d->lock, waits ? WAIT_MS : 0);

    if (unlikely(state == LOCK_TAKEN) && waits)
        word_show(&d->stuck, 1);
    return begin(cache, cls, state, false);
}

bool depot_enter_patiently(struct cache *cache, unsigned cls)
{
    return begin(cache, cls, lock_acquire_next(&depot_of(cache, cls)->lock), true);
}

bool depot_enter_to_drain(struct cache *cache, unsigned cls)
{
    struct depot *d = depot_of(cache, cls);

    if (!depot_enter_any(cache, cls))
        return false;
    if (likely(!d->damaged))
        return true;
    depot_leave(d);
    return false;
}

bool depot_enter(struct cache *cache, unsigned cls)
{
    if (!depot_enter_to_drain(cache, cls))
        return false;
    if (word_peek(&cache->table->drained) != 0)
        word_show(&cache->table->drained, 0);
    return true;
}

void depot_leave(struct depot *d)
{
    if (unlikely(word_peek(&d->stuck) != 0))
        word_show(&d->stuck, 0);
    lock_release(&d->lock);
}

/* ---- using magazines ------------------------------------------------------------------------- */

bool depot_provide_empty(struct cache *cache, unsigned cls)
{
    struct depot *d = depot_of(cache, cls);

    if (d->empty != 0)
        return true;
    if (!place_take(cache, cls))
        return false;
    depot_make_magazines(d, cls);
    return true;
}

static bool is_used(const struct cache *cache, const struct depot *d, unsigned cls)
{
    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++)
        if (lane_word(cache, lane, cls) != 0)
            return true;
    return d->stock_magazines != 0;
}

void depot_shrink(struct cache *cache, unsigned cls)
{
    struct depot *d = depot_of(cache, cls);

    if (word_peek(&d->made) == 0 || !depot_enter_to_drain(cache, cls))
        return;
    if (!is_used(cache, d, cls)) {
        depot_store(d, &d->empty, 0);
        depot_store(d, &d->made, 0);
        journal_commit(depot_journal(d));
        depot_give_units(cache, cls);
    }
    depot_leave(d);
}
