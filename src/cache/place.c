/* place.c - units of the cache's granules: taking them, giving them back. */
#include "cache/place.h"

#include <string.h>

#include "cache/depot.h"
#include "sync/report.h"

static struct magazine_granule *granule_of_unit(word unit)
{
    return (struct magazine_granule *)(unit & ~(word)(GRANULE - 1));
}

static size_t number_of(word unit)
{
    return (unit & (GRANULE - 1)) / UNIT_BYTES;
}

static unsigned char *class_byte(const struct magazine_granule *g, size_t number)
{
    return (unsigned char *)(uintptr_t)g->class_of + number;
}

static bool is_cache_granule(const struct cache *cache, word address)
{
    return segment_owner(cache->segments->map, (const void *)address, NULL) == CACHE_OWNER;
}

unsigned place_class(const struct cache *cache, word address)
{
    if (!is_cache_granule(cache, address))
        return 0;
    return __atomic_load_n(class_byte(granule_of_unit(address), number_of(address)),
                           __ATOMIC_RELAXED);
}

bool place_is_magazine(const struct cache *cache, unsigned cls, word w)
{
    return w != 0 && place_class(cache, w) == cls;
}

bool place_is_unit(const struct cache *cache, unsigned cls, word w)
{
    return w != 0 && w % UNIT_BYTES == 0 && place_class(cache, w) == cls;
}

/* Addresses with the same lower half lie 4 GiB apart. */
word place_of_mark(const struct cache *cache, half_word mark)
{
    const struct segment_map *map = cache->segments->map;
    word first = cache->view.base & ~(word)(GRANULE - 1);
    word address = first + (half_word)(mark - (half_word)first);
    size_t ready = segment_ready(map);

    if (mark % WORD != 1)
        return 0;
    for (; (address - first) >> GRANULE_SHIFT < ready; address += (word)UINT32_MAX + 1) {
        if (place_class(cache, address) != 0)
            return address;
        if (sizeof(word) == sizeof(half_word))
            break;
    }
    return 0;
}

/* ---- the list of granules that have room ----------------------------------------------------- */

static bool has_room(const struct magazine_granule *g)
{
    return g->given != 0 || g->unused < UNITS;
}

static void list_room(struct cache_table *table, struct journal *j, struct magazine_granule *g)
{
    journal_store(j, &g->next, table->room);
    journal_store(j, &table->room, g);
}

/* The granule that a link names; NULL: none, or the link is not to be believed. */
static struct magazine_granule *listed(const struct cache *cache, word link)
{
    bool sound = link % GRANULE == 0 &&
                 segment_has_memory_of(cache->segments->map, CACHE_OWNER, (const void *)link);

    return sound ? (struct magazine_granule *)link : NULL;
}

static void unlist_room(const struct cache *cache, struct journal *j,
                        const struct magazine_granule *g)
{
    word *link = &cache->table->room;
    struct magazine_granule *next;

    for (size_t left = cache->table->granules; left > 0; left--) {
        if ((next = listed(cache, *link)) == NULL)
            return;
        if (next == g) {
            journal_store(j, link, g->next);
            return;
        }
        link = &next->next;
    }
}

/* ---- changes under the map's lock ------------------------------------------------------------ */

struct exchange_of_unit {
    struct cache *cache;
    struct depot *depot;
    unsigned cls;
    bool done;
};

static void set_class(struct journal *j, struct magazine_granule *g, size_t number, unsigned cls)
{
    word *w = &g->class_of[number / WORD], changed = *w;

    ((unsigned char *)&changed)[number % WORD] = (unsigned char)cls;
    journal_store(j, w, changed);
}

/* Takes a unit that came back or, if the list of these is empty or not to be believed, one that was
 * never used. */
static word unlist_unit(struct journal *j, struct magazine_granule *g)
{
    word unit = g->given;

    if (unit != 0 && granule_of_unit(unit) == g && unit % UNIT_BYTES == 0 &&
        *class_byte(g, number_of(unit)) == 0) {
        journal_store(j, &g->given, *(const word *)unit);
        return unit;
    }
    if (unit != 0)
        journal_store(j, &g->given, 0);
    if (g->unused >= UNITS)
        return 0;
    unit = (word)g + g->unused * UNIT_BYTES;
    journal_store(j, &g->unused, g->unused + 1);
    return unit;
}

static void take_unit(struct journal *j, void *context)
{
    struct exchange_of_unit *x = context;
    struct cache_table *table = x->cache->table;
    struct magazine_granule *g = listed(x->cache, table->room);

    if (g == NULL) {
        if (table->room != 0)
            journal_store(j, &table->room, 0);
        return;
    }
    word unit = unlist_unit(j, g);
    if (!has_room(g))
        journal_store(j, &table->room, g->next);
    if (unit == 0)
        return;
    journal_store(j, &g->used, g->used + 1);
    set_class(j, g, number_of(unit), x->cls);
    journal_store(j, place_link(unit), x->depot->units);
    journal_store(j, &x->depot->units, unit);
    journal_store(j, &x->depot->incoming, unit);
    x->done = true;
}

static void add_granule(struct journal *j, void *context)
{
    struct exchange_of_unit *x = context;

    list_room(x->cache->table, j, (struct magazine_granule *)(void *)x->depot->pending.start);
    journal_store(j, &x->cache->table->granules, x->cache->table->granules + 1);
    journal_store(j, &x->depot->pending.bytes, 0);
    x->done = true;
}

static void give_unit(struct journal *j, void *context)
{
    struct exchange_of_unit *x = context;
    struct cache_table *table = x->cache->table;
    word unit = x->depot->units;

    if (!place_is_unit(x->cache, x->cls, unit)) {
        fault_note("damaged list of a depot's units", x->depot);
        journal_store(j, &x->depot->units, 0);
        return;
    }
    struct magazine_granule *g = granule_of_unit(unit);
    bool had_room = has_room(g);

    journal_store(j, &x->depot->units, *place_link(unit));
    journal_store(j, &g->used, g->used - 1);
    set_class(j, g, number_of(unit), 0);
    if (g->used == 0) {
        if (had_room)
            unlist_room(x->cache, j, g);
        journal_store(j, &table->granules, table->granules - 1);
        journal_store(j, &x->depot->pending.start, (char *)g);
        journal_store(j, &x->depot->pending.bytes, GRANULE);
        return;
    }
    journal_store(j, (word *)unit, g->given);
    journal_store(j, &g->given, unit);
    if (!had_room)
        list_room(table, j, g);
}

/* ---- for a depot ----------------------------------------------------------------------------- */

void place_settle(struct cache *cache, struct depot *d)
{
    if (d->pending.bytes == 0 || segment_recover(cache->segments, CACHE_OWNER, &d->pending, NULL))
        return;
    fault_note("damaged record of a granule on its way", d);
    d->pending.bytes = 0;
}

/* Gets a granule for the cache. Nobody else knows of it until it is listed. */
static bool get_granule(struct exchange_of_unit *x)
{
    struct segments *s = x->cache->segments;
    struct depot *d = x->depot;

    if (!segment_take(s, CACHE_OWNER, RUN_LARGE_TAIL, GRANULE, &d->pending))
        return false;
    if (segment_commit(s, RUN_LARGE_TAIL, d->pending)) {
        struct magazine_granule *g = (struct magazine_granule *)(void *)d->pending.start;

        memset(g, 0, sizeof *g);
        g->unused = 1;
        compiler_barrier();
        x->done = false;
        segment_change(s, add_granule, x);
        if (x->done)
            return true;
    }
    place_settle(x->cache, d);
    return false;
}

bool place_take(struct cache *cache, unsigned cls)
{
    struct exchange_of_unit x = {cache, depot_of(cache, cls), cls, false};

    place_settle(cache, x.depot); /* gives back what could not be given back before */
    if (x.depot->pending.bytes != 0)
        return false;
    do {
        x.done = false;
        if (!segment_change(cache->segments, take_unit, &x))
            return false;
    } while (!x.done && (cache->table->room != 0 || get_granule(&x)));
    return x.done;
}

void place_give(struct cache *cache, unsigned cls)
{
    struct exchange_of_unit x = {cache, depot_of(cache, cls), cls, false};

    if (segment_change(cache->segments, give_unit, &x))
        place_settle(cache, x.depot);
}

/* ---- checking -------------------------------------------------------------------------------- */

struct place_check {
    const struct cache *cache;
    struct check *check;
    size_t granules, used, with_room;
};

static void check_granule(struct place_check *walk, const struct magazine_granule *g)
{
    size_t used = 0, given = 0;

    if (!check_that(walk->check, g->unused >= 1 && g->unused <= UNITS,
                    "cache: granule %p: %zu units were ever used", (const void *)g,
                    (size_t)g->unused))
        return;
    for (size_t i = 0; i < UNITS; i++) {
        unsigned cls = *class_byte(g, i);

        if (cls == 0)
            continue;
        used++;
        check_that(walk->check, cls < CACHE_CLASSES && i > 0 && i < g->unused,
                   "cache: granule %p: unit %zu is class %u's", (const void *)g, i, cls);
    }
    for (word unit = g->given; unit != 0 && given < UNITS; unit = *(const word *)unit, given++)
        if (!check_that(walk->check,
                        granule_of_unit(unit) == g && unit % UNIT_BYTES == 0 &&
                            *class_byte(g, number_of(unit)) == 0,
                        "cache: granule %p: %#zx is not a unit that came back", (const void *)g,
                        (size_t)unit))
            return;
    check_that(walk->check, used == g->used && used + given + 1 == g->unused,
               "cache: granule %p: %zu units used and %zu given back, not %zu of %zu",
               (const void *)g, used, given, (size_t)g->used, (size_t)g->unused - 1);
    walk->granules++;
    walk->used += used;
    walk->with_room += has_room(g);
}

static void check_run(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    struct place_check *walk = context;

    (void)kind;
    for (size_t at = 0; owner == CACHE_OWNER && at < run.bytes; at += GRANULE)
        check_granule(walk, (const struct magazine_granule *)(const void *)(run.start + at));
}

void place_check(struct cache *cache, size_t units, struct check *check)
{
    struct place_check walk = {cache, check, 0, 0, 0};
    const struct cache_table *table = cache->table;
    size_t listed = 0;

    segment_walk(cache->segments, check_run, &walk);
    for (word g = table->room; g != 0 && listed <= walk.granules && is_cache_granule(cache, g);
         g = ((const struct magazine_granule *)g)->next)
        listed++;
    check_that(check, listed == walk.with_room, "cache: %zu granules have room, %zu are listed",
               walk.with_room, listed);
    check_that(check, walk.granules == table->granules && walk.used == units,
               "cache: %zu granules of %zu units, not %zu of %zu", walk.granules, walk.used,
               table->granules, units);
}
