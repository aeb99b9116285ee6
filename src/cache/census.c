/* census.c - looking inside: all cached blocks, and every invariant of cache.h. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>

#include "cache/depot.h"

/* ---- every block ----------------------------------------------------------------------------- */

struct block_visitor {
    cache_visit visit;
    void *context;
};

static bool visit_magazine(void *context, unsigned class, word w)
{
    const struct block_visitor *to = context;
    const struct magazine *m = magazine_of(class, w);

    for (size_t i = 0; i < magazine_count(class, w); i++)
        if (!to->visit(to->context, (void *)word_peek(&m->slot[i]), class))
            return false;
    return true;
}

void cache_walk(struct cache *cache, cache_visit visit, void *context)
{
    struct block_visitor visitor = {visit, context};

    for (unsigned class = 0; class < cache->table->classes_most; class ++)
        if (!depot_walk(cache, class, visit_magazine, &visitor))
            return;
}

bool cache_lock_all(struct cache *cache)
{
    if (cache->table->classes_most == 0)
        return true;
    for (unsigned class = 0; class < CACHE_CLASSES; class ++)
        if (!depot_enter_patiently(cache, class)) {
            while (class -- > 0)
                depot_leave(depot_of(cache, class));
            return false;
        }
    return true;
}

void cache_unlock_all(struct cache *cache)
{
    if (cache->table->classes_most > 0)
        for (unsigned class = CACHE_CLASSES; class -- > 0;)
            depot_leave(depot_of(cache, class));
}

void cache_settle(struct cache *cache)
{
    for (unsigned class = 0; class < CACHE_CLASSES && cache->table->classes_most > 0; class ++)
        if (depot_enter_patiently(cache, class))
            depot_leave(depot_of(cache, class));
}

/* ---- the set of them ------------------------------------------------------------------------- */

static size_t place_of(const struct census *census, const void *block)
{
    size_t i = ((uintptr_t)block / CHUNK_ALIGN) * (size_t)0x9E3779B97F4A7C15u;

    return i & (census->slots - 1);
}

static bool count_block(void *context, void *block, unsigned class)
{
    size_t *count = context;

    (void)block, (void)class;
    ++*count;
    return true;
}

static bool add_block(void *context, void *block, unsigned class)
{
    struct census *census = context;
    size_t i = place_of(census, block);

    if (census->count >= census->slots / 2)
        return false;
    for (; census->block[i] != NULL; i = (i + 1) & (census->slots - 1))
        if (census->block[i] == block) {
            census->twice++;
            return true;
        }
    census->block[i] = block;
    census->count++;
    census->bytes += class_size(class);
    return true;
}

/* Makes room for at least so many blocks; false: no memory. */
static bool make_slots(struct census *census, size_t blocks)
{
    size_t slots = bits_power_of_two_above(2 * blocks + 2);

    *census = (struct census){.slots = slots};
    void **place = mmap(NULL, slots * sizeof *place, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    census->block = place != MAP_FAILED ? place : NULL;
    return place != MAP_FAILED;
}

/* Others may free blocks meanwhile: then the walk is repeated, with more room. */
void census_take(struct census *census, struct cache *cache)
{
    size_t blocks = 0;

    cache_walk(cache, count_block, &blocks);
    for (;; blocks = 2 * blocks + CENSUS_FEW) {
        if (!make_slots(census, blocks))
            return;
        cache_walk(cache, add_block, census);
        if (census->count < census->slots / 2)
            return;
        census_end(census);
    }
}

bool census_has(const struct census *census, const void *block)
{
    if (census->block == NULL)
        return false;
    for (size_t i = place_of(census, block); census->block[i] != NULL;
         i = (i + 1) & (census->slots - 1))
        if (census->block[i] == block)
            return true;
    return false;
}

void census_end(struct census *census)
{
    if (census->block != NULL)
        munmap(census->block, census->slots * sizeof *census->block);
    census->block = NULL;
}

/* ---- checking -------------------------------------------------------------------------------- */

struct depot_check {
    const struct cache *cache;
    struct check *check;
    unsigned class;
    size_t magazines; /* met so far */
};

/* Whether the word can be that of a magazine of this class. */
static bool check_word(struct depot_check *walk, word w)
{
    size_t bytes = magazine_bytes(walk->class), made = depot_of(walk->cache, walk->class)->made;

    return check_that(walk->check,
                      depot_has(walk->cache, walk->class, w) && (w - 1) % WORD == 0 &&
                          w % bytes > WORD &&
                          magazine_count(walk->class, w) <= magazine_capacity(walk->class),
                      "cache: class %u: %#zx is no magazine's word", walk->class, (size_t)w) &&
           check_that(walk->check, walk->magazines++ < made,
                      "cache: class %u: more magazines than were made", walk->class);
}

struct list_length {
    size_t magazines, blocks;
};

static struct list_length check_list(struct depot_check *walk, word list, bool empty)
{
    struct list_length length = {0, 0};

    for (word w = list; w != 0 && check_word(walk, w); w = magazine_of(walk->class, w)->link) {
        length.magazines++;
        length.blocks += magazine_count(walk->class, w);
        check_that(walk->check, magazine_is_empty(walk->class, w) == empty,
                   "cache: class %u: magazine of %zu blocks in the wrong list", walk->class,
                   magazine_count(walk->class, w));
    }
    return length;
}

/* Checks the class's units, all of whose magazines were made. Returns how many there are. */
static size_t check_units(struct cache *cache, unsigned class, struct check *check)
{
    const struct depot *d = depot_of(cache, class);
    size_t count = 0, most = d->made / place_magazines(class);

    for (word unit = d->units; unit != 0 && count <= most; unit = *place_link(unit), count++)
        if (!check_that(check, unit % UNIT_BYTES == 0 && place_class(cache, unit) == class,
                        "cache: class %u: %#zx is not a unit of the class", class, (size_t)unit))
            break;
    check_that(check, count * place_magazines(class) == d->made,
               "cache: class %u: %zu magazines in %zu units", class, d->made, count);
    return count;
}

static void check_depot(struct cache *cache, unsigned class, struct check *check)
{
    const struct depot *d = depot_of(cache, class);
    struct depot_check walk = {cache, check, class, 0};

    if (!check_that(check, !d->damaged, "cache: class %u was set aside", class))
        return;
    check_that(check, d->log.count == 0, "cache: class %u: a change is under way", class);
    check_that(check, (d->transit_new | d->transit_old | d->incoming) == 0 && d->pending.bytes == 0,
               "cache: class %u: something is on its way", class);
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++) {
        word w = lane_word(cache, cpu, class);

        if (w != 0)
            check_word(&walk, w);
    }
    struct list_length stock = {0, 0};
    for (size_t shelf = 0; shelf < DEPOT_SHELVES; shelf++) {
        struct list_length on_shelf = check_list(&walk, d->stock[shelf], false);

        stock.magazines += on_shelf.magazines;
        stock.blocks += on_shelf.blocks;
    }
    check_that(check, stock.magazines == d->stock_magazines && stock.blocks == d->stock_blocks,
               "cache: class %u: %zu magazines of %zu blocks in stock, not %zu of %zu", class,
               stock.magazines, stock.blocks, d->stock_magazines, d->stock_blocks);
    check_list(&walk, d->empty, true);
    check_that(check, walk.magazines == d->made, "cache: class %u: %zu magazines of %zu found",
               class, walk.magazines, d->made);
}

void cache_check(struct cache *cache, struct check *check)
{
    size_t units = 0;

    if (cache->table->classes_most == 0)
        return;
    for (unsigned class = 0; class < CACHE_CLASSES; class ++) {
        check_depot(cache, class, check);
        units += check_units(cache, class, check);
    }
    place_check(cache, units, check);
}
