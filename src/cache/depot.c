/* depot.c - a depot's lock and recovery, its lists, its magazines' memory. */
#include "cache/depot.h"

#include "sync/report.h"

/* How long a thread waits for a depot before it asks the arenas. */
enum { WAIT_MS = 2 };

/* ---- lists ----------------------------------------------------------------------------------- */

void depot_list(struct depot *d, unsigned class, word *list, word w)
{
    journal_store(depot_journal(d), &magazine_of(class, w)->link, *list);
    journal_store(depot_journal(d), list, w);
}

word depot_unlist(struct depot *d, unsigned class, word *list)
{
    word w = *list;

    if (w != 0) {
        journal_store(depot_journal(d), list, magazine_of(class, w)->link);
        if (*list != 0)
            magazine_expect(class, *list);
    }
    return w;
}

size_t depot_find_stock(const struct depot *d, size_t shelf)
{
    for (size_t i = 0; i < DEPOT_SHELVES; i++, shelf = (shelf + 1) % DEPOT_SHELVES)
        if (d->stock[shelf] != 0)
            return shelf;
    return DEPOT_SHELVES;
}

void depot_put_away(struct depot *d, unsigned class, size_t shelf, word w)
{
    if (w == 0)
        return;
    if (magazine_is_empty(class, w)) {
        depot_list(d, class, &d->empty, w);
        return;
    }
    depot_list(d, class, &d->stock[shelf], w);
    journal_store(depot_journal(d), &d->stock_magazines, d->stock_magazines + 1);
    journal_store(depot_journal(d), &d->stock_blocks, d->stock_blocks + magazine_count(class, w));
}

void depot_end_transit(struct depot *d, unsigned class, size_t shelf, word outside)
{
    depot_put_away(d, class, shelf, outside);
    if (!PLANTED(6))
        depot_set_transit(d, 0, 0);
    journal_commit(depot_journal(d));
}

word depot_take_stock(struct depot *d, unsigned class, size_t shelf)
{
    word w = depot_unlist(d, class, &d->stock[shelf]);

    if (w != 0) {
        journal_store(depot_journal(d), &d->stock_magazines, d->stock_magazines - 1);
        journal_store(depot_journal(d), &d->stock_blocks,
                      d->stock_blocks - magazine_count(class, w));
    }
    return w;
}

bool depot_walk(const struct cache *cache, unsigned class, depot_visit visit, void *context)
{
    const struct depot *d = depot_of(cache, class);
    size_t left = word_peek(&d->made);

    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++) {
        word w = lane_word(cache, cpu, class);

        if (depot_has(cache, class, w) && !visit(context, class, w))
            return false;
    }
    for (size_t shelf = 0; shelf < DEPOT_SHELVES && !d->damaged; shelf++)
        for (word w = d->stock[shelf]; depot_has(cache, class, w) && left-- > 0;
             w = magazine_of(class, w)->link)
            if (!visit(context, class, w))
                return false;
    return true;
}

/* ---- magazines ------------------------------------------------------------------------------- */

/* The magazines' links are written before anybody can see the magazines. */
void depot_make_magazines(struct depot *d, unsigned class)
{
    size_t count = place_magazines(class);
    word list = d->empty;

    for (size_t i = 0; i < count; i++) {
        struct magazine *m = (struct magazine *)(d->incoming + i * magazine_bytes(class));

        m->link = list;
        list = magazine_word(m, 0);
    }
    compiler_barrier();
    journal_store(depot_journal(d), &d->empty, list);
    journal_store(depot_journal(d), &d->made, d->made + count);
    journal_store(depot_journal(d), &d->incoming, 0);
    journal_commit(depot_journal(d));
}

void depot_give_units(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);
    word unit;

    while ((unit = d->units) != 0) {
        place_give(cache, class);
        if (d->units == unit)
            break; /* the map's lock is not to be had */
    }
}

/* ---- the lock -------------------------------------------------------------------------------- */

bool depot_is_loaded(const struct cache *cache, unsigned class, word w)
{
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++) {
        word loaded = lane_word(cache, cpu, class);

        if (loaded != 0 && magazine_of(class, loaded) == magazine_of(class, w))
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
static NOINLINE bool make_usable(struct cache *cache, unsigned class, enum lock_state state,
                                 bool patiently)
{
    struct depot *d = depot_of(cache, class);

    if (state == LOCK_OWNER_DIED) {
        word_show(&d->recovering, 1);
        compiler_barrier();
        lock_repaired(&d->lock);
    }

    enum depot_recovery recovery = depot_recover(cache, class, patiently);
    if (recovery == DEPOT_DAMAGED)
        set_aside(d);
    if (recovery != DEPOT_NOT_NOW) {
        word_show(&d->recovering, 0);
        return true;
    }
    lock_release(&d->lock);
    return false;
}

static bool begin(struct cache *cache, unsigned class, enum lock_state state, bool patiently)
{
    const struct depot *d = depot_of(cache, class);

    if (unlikely(state == LOCK_TAKEN || state == LOCK_REENTERED))
        return false;
    if (unlikely(state == LOCK_OWNER_DIED || d->recovering))
        return make_usable(cache, class, state, patiently);
    return true;
}

bool depot_enter_any(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);
    bool waits = word_peek(&d->stuck) == 0 && lock_may_wait(LOCK_DEPOT);
    enum lock_state state = lock_acquire_within(&d->lock, waits ? WAIT_MS : 0);

    if (unlikely(state == LOCK_TAKEN) && waits)
        word_show(&d->stuck, 1);
    return begin(cache, class, state, false);
}

bool depot_enter_patiently(struct cache *cache, unsigned class)
{
    return begin(cache, class, lock_acquire_next(&depot_of(cache, class)->lock), true);
}

bool depot_enter_to_drain(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);

    if (!depot_enter_any(cache, class))
        return false;
    if (likely(!d->damaged))
        return true;
    depot_leave(d);
    return false;
}

bool depot_enter(struct cache *cache, unsigned class)
{
    if (!depot_enter_to_drain(cache, class))
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

bool depot_provide_empty(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);

    if (d->empty != 0)
        return true;
    if (!place_take(cache, class))
        return false;
    depot_make_magazines(d, class);
    return true;
}

static bool is_used(const struct cache *cache, const struct depot *d, unsigned class)
{
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++)
        if (lane_word(cache, cpu, class) != 0)
            return true;
    return d->stock_magazines != 0;
}

void depot_shrink(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);

    if (word_peek(&d->made) == 0 || !depot_enter_to_drain(cache, class))
        return;
    if (!is_used(cache, d, class)) {
        journal_store(depot_journal(d), &d->empty, 0);
        journal_store(depot_journal(d), &d->made, 0);
        journal_commit(depot_journal(d));
        depot_give_units(cache, class);
    }
    depot_leave(d);
}
