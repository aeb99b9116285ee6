/* depot.c - a depot's lock and recovery, its lists, its magazines' memory. */
#include "cache/depot.h"

/* Magazines' memory is committed in steps: at first so much, then as much again, up to a limit. */
enum { READY_FIRST = 4 << 10, READY_STEP_MOST = 64 << 10 };

/* How long a depot is waited for before the arenas are asked. */
enum { WAIT_MS = 2 };

/* ---- lists ----------------------------------------------------------------------------------- */

void depot_list(struct depot *d, unsigned class, word *list, word w)
{
    journal_store(&d->journal, &magazine_of(class, w)->link, *list);
    journal_store(&d->journal, list, w);
}

word depot_unlist(struct depot *d, unsigned class, word *list)
{
    word w = *list;

    if (w != 0) {
        journal_store(&d->journal, list, magazine_of(class, w)->link);
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
    journal_store(&d->journal, &d->stock_magazines, d->stock_magazines + 1);
    journal_store(&d->journal, &d->stock_blocks, d->stock_blocks + magazine_count(class, w));
}

void depot_end_transit(struct depot *d, unsigned class, size_t shelf, word outside)
{
    depot_put_away(d, class, shelf, outside);
    if (!PLANTED(6))
        depot_set_transit(d, 0, 0);
    journal_commit(&d->journal);
}

word depot_take_stock(struct depot *d, unsigned class, size_t shelf)
{
    word w = depot_unlist(d, class, &d->stock[shelf]);

    if (w != 0) {
        journal_store(&d->journal, &d->stock_magazines, d->stock_magazines - 1);
        journal_store(&d->journal, &d->stock_blocks, d->stock_blocks - magazine_count(class, w));
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
    for (size_t shelf = 0; shelf < DEPOT_SHELVES; shelf++)
        for (word w = d->stock[shelf]; depot_has(cache, class, w) && left-- > 0;
             w = magazine_of(class, w)->link)
            if (!visit(context, class, w))
                return false;
    return true;
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

static void release(struct cache *cache, unsigned class)
{
    const struct dvsm_backend *backend = cache->segments->backend;
    struct depot *d = depot_of(cache, class);

    backend->release(backend, cache->segments->mapping, stretch_of(cache->table, class) + d->ready,
                     d->releasing - d->ready);
    compiler_barrier();
    d->releasing = 0;
}

/* Whichever of the two magazines of a trade is in no lane, or the one that was being filled or
 * drained. */
static word outside(const struct cache *cache, const struct depot *d, unsigned class)
{
    word new = d->transit_new, old = d->transit_old;

    if (new != 0)
        return depot_is_loaded(cache, class, new) || PLANTED(14) ? old : new;
    return depot_is_loaded(cache, class, old) ? 0 : old;
}

/* Marks are not journaled: a split that was undone gave the upper half of a magazine, the first in its
 * list again, marks of another; who died while filling one, w, had not set them all. */
static void remark(const struct depot *d, unsigned class, word w)
{
    for (size_t shelf = 0; shelf < DEPOT_SHELVES; shelf++)
        magazine_set_marks(class, d->stock[shelf]);
    magazine_set_marks(class, w);
}

/* Each step may be interrupted, and is then done again by the next survivor. NB: the map and the
 * arena first: their journals may hold words of this depot. False: one of them is not to be had now. */
static bool recover(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);

    journal_roll_back(&d->journal);
    if (!segment_settle(cache->segments))
        return false;
    if (d->arena != 0 && !PLANTED(12) && !arenas_settle(cache->arenas, d->arena - 1))
        return false;
    if (d->releasing > d->ready)
        release(cache, class);
    d->releasing = 0;
    word w = outside(cache, d, class);
    remark(d, class, w);
    if ((d->transit_new | d->transit_old) != 0 && !PLANTED(9))
        depot_end_transit(d, class, 0, w);
    d->recovering = 0;
    return true;
}

/* Whether the depot, just locked, can be used. */
static NOINLINE bool make_usable(struct cache *cache, unsigned class, enum lock_state state)
{
    struct depot *d = depot_of(cache, class);

    if (state == LOCK_OWNER_DIED) {
        d->recovering = 1;
        compiler_barrier();
        lock_repaired(&d->lock);
    }
    if (recover(cache, class))
        return true;
    lock_release(&d->lock);
    return false;
}

static bool begin(struct cache *cache, unsigned class, enum lock_state state)
{
    const struct depot *d = depot_of(cache, class);

    if (unlikely(state == LOCK_TAKEN || state == LOCK_REENTERED))
        return false;
    if (unlikely(state == LOCK_OWNER_DIED || d->recovering))
        return make_usable(cache, class, state);
    return true;
}

bool depot_enter(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);
    bool waits = word_peek(&d->stuck) == 0 && lock_may_wait(LOCK_DEPOT);
    enum lock_state state = lock_acquire_within(&d->lock, waits ? WAIT_MS : 0);

    if (unlikely(state == LOCK_TAKEN) && waits)
        word_show(&d->stuck, 1);
    return begin(cache, class, state);
}

bool depot_enter_patiently(struct cache *cache, unsigned class)
{
    return begin(cache, class, lock_acquire_next(&depot_of(cache, class)->lock));
}

void depot_leave(struct depot *d)
{
    if (unlikely(d->stuck != 0))
        word_show(&d->stuck, 0);
    lock_release(&d->lock);
}

/* ---- magazines ------------------------------------------------------------------------------- */

size_t depot_room(const struct cache *cache, unsigned class)
{
    const struct cache_table *table = cache->table;

    if (table->stripes_ready < table->stripes)
        return table->stripes_ready;
    return table->stripes + depot_of(cache, class)->ready / magazine_bytes(class);
}

/* Memory for one more, in a stripe, which other classes may have got meanwhile ... */
static bool make_stripe_ready(struct cache *cache, size_t stripe)
{
    struct cache_table *table = cache->table;

    return segment_charge(cache->segments, table->magazines + stripe * STRIPE_BYTES, STRIPE_BYTES,
                          (word *)&table->stripes_ready, stripe + 1);
}

/* ... or in the class's stretch. */
static bool make_stretch_ready(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);
    size_t step = d->ready < READY_FIRST ? READY_FIRST : d->ready;
    size_t area = cache->table->area;

    if (step > READY_STEP_MOST)
        step = READY_STEP_MOST;
    if (step > area - d->ready)
        step = area - d->ready;
    return step > 0 && segment_charge(cache->segments, stretch_of(cache->table, class) + d->ready,
                                      step, (word *)&d->ready, d->ready + step);
}

bool depot_provide_empty(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);

    if (d->empty != 0)
        return true;
    if (d->made < cache->table->stripes) {
        if (!make_stripe_ready(cache, d->made))
            return false;
    } else if (d->made == depot_room(cache, class) && !make_stretch_ready(cache, class)) {
        return false;
    }
    struct magazine *m = magazine_at(cache->table, class, d->made);
    journal_store(&d->journal, &d->made, d->made + 1);
    depot_list(d, class, &d->empty, magazine_word(m, 0));
    journal_commit(&d->journal);
    return true;
}

static bool is_used(const struct cache *cache, const struct depot *d, unsigned class)
{
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++)
        if (lane_word(cache, cpu, class) != 0)
            return true;
    return d->stock_magazines != 0;
}

static void release_stretch(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);
    size_t bytes = d->ready;

    d->releasing = bytes;
    compiler_barrier();
    segment_uncharge(cache->segments, bytes, (word *)&d->ready, 0);
    release(cache, class);
}

void depot_shrink(struct cache *cache, unsigned class)
{
    struct depot *d = depot_of(cache, class);

    if (word_peek(&d->made) == 0 || !depot_enter(cache, class))
        return;
    if (!is_used(cache, d, class)) {
        journal_store(&d->journal, &d->empty, 0);
        journal_store(&d->journal, &d->made, 0);
        journal_commit(&d->journal);
        if (d->ready > 0)
            release_stretch(cache, class);
    }
    depot_leave(d);
}
