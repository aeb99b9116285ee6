/* cached_set.c - looking inside: all cached blocks, and every invariant of cache.h. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>

#include "cache/depot.h"

/* ---- every block ----------------------------------------------------------------------------- */

struct block_visitor {
    cache_visit visit;
    void *context;
};

static bool visit_magazine(void *context, unsigned cls, word w)
{
    const struct block_visitor *to = context;
    const struct magazine *m = magazine_of(cls, w);

    for (size_t i = 0; i < magazine_count(cls, w); i++)
        if (!to->visit(to->context, (void *)word_peek(&m->slot[i]), cls))
            return false;
    return true;
}

void cache_walk(struct cache *cache, cache_visit visit, void *context)
{
    struct block_visitor visitor = {visit, context};

    for (unsigned cls = 0; cls < cache->table->classes_most; cls++)
        if (!depot_walk(cache, cls, visit_magazine, &visitor))
            return;
}

bool cache_lock_all(struct cache *cache)
{
    if (cache->table->classes_most == 0)
        return true;
    for (unsigned cls = 0; cls < CACHE_CLASSES; cls++)
        if (!depot_enter_patiently(cache, cls)) {
            while (cls-- > 0)
                depot_leave(depot_of(cache, cls));
            return false;
        }
    return true;
}

void cache_unlock_all(struct cache *cache)
{
    if (cache->table->classes_most > 0)
        for (unsigned cls = CACHE_CLASSES; cls-- > 0;)
            depot_leave(depot_of(cache, cls));
}

void cache_settle(struct cache *cache)
{
    for (unsigned cls = 0; cls < CACHE_CLASSES && cache->table->classes_most > 0; cls++)
        if (depot_enter_patiently(cache, cls))
            depot_leave(depot_of(cache, cls));
}

/* ---- the set of them ------------------------------------------------------------------------- */

static size_t place_of(const struct cached_set *set, const void *block)
{
    size_t i = ((uintptr_t)block / CHUNK_ALIGN) * (size_t)0x9E3779B97F4A7C15u;

    return i & (set->slots - 1);
}

static bool count_block(void *context, void *block, unsigned cls)
{
    size_t *count = context;

    (void)block, (void)cls;
    ++*count;
    return true;
}

static bool add_block(void *context, void *block, unsigned cls)
{
    struct cached_set *set = context;
    size_t i = place_of(set, block);

    if (set->count >= set->slots / 2)
        return false;
    for (; set->block[i] != NULL; i = (i + 1) & (set->slots - 1))
        if (set->block[i] == block) {
            set->twice++;
            return true;
        }
    set->block[i] = block;
    set->count++;
    set->fingerprint += bits_fingerprint((uintptr_t)block / CHUNK_ALIGN);
    set->bytes += class_size(cls);
    return true;
}

/* Makes room for at least so many blocks; false: no memory. */
static bool make_slots(struct cached_set *set, size_t blocks)
{
    size_t slots = bits_power_of_two_above(2 * blocks + 2);

    *set = (struct cached_set){.slots = slots};
    void **place = mmap(NULL, slots * sizeof *place, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    set->block = place != MAP_FAILED ? place : NULL;
    return place != MAP_FAILED;
}

/* Others may free blocks meanwhile: then the walk is repeated, with more room. */
void cached_set_take(struct cached_set *set, struct cache *cache)
{
    size_t blocks = 0;

    cache_walk(cache, count_block, &blocks);
    for (;; blocks = 2 * blocks + CACHED_SET_FEW) {
        if (!make_slots(set, blocks))
            return;
        cache_walk(cache, add_block, set);
        if (set->count < set->slots / 2)
            return;
        cached_set_end(set);
    }
}

bool cached_set_has(const struct cached_set *set, const void *block)
{
    if (set->block == NULL)
        return false;
    for (size_t i = place_of(set, block); set->block[i] != NULL; i = (i + 1) & (set->slots - 1))
        if (set->block[i] == block)
            return true;
    return false;
}

void cached_set_end(struct cached_set *set)
{
    if (set->block != NULL)
        munmap(set->block, set->slots * sizeof *set->block);
    set->block = NULL;
}

/* ---- checking -------------------------------------------------------------------------------- */

struct depot_check {
    const struct cache *cache;
    struct check *check;
    unsigned cls;
    size_t magazines; /* met so far */
};

/* Whether the word can be that of a magazine of this class. */
static bool check_word(struct depot_check *walk, word w)
{
    size_t bytes = magazine_bytes(walk->cls), made = depot_of(walk->cache, walk->cls)->made;

    return check_that(walk->check,
                      depot_has(walk->cache, walk->cls, w) && (w - 1) % WORD == 0 &&
                          w % bytes > WORD &&
                          magazine_count(walk->cls, w) <= magazine_capacity(walk->cls),
                      "cache: class %u: %#zx is no magazine's word", walk->cls, (size_t)w) &&
           check_that(walk->check, walk->magazines++ < made,
                      "cache: class %u: more magazines than were made", walk->cls);
}

struct list_length {
    size_t magazines, blocks;
};

static struct list_length check_list(struct depot_check *walk, word list, bool empty)
{
    struct list_length length = {0, 0};

    for (word w = list; w != 0 && check_word(walk, w); w = magazine_of(walk->cls, w)->link) {
        length.magazines++;
        length.blocks += magazine_count(walk->cls, w);
        check_that(walk->check, magazine_is_empty(walk->cls, w) == empty,
                   "cache: class %u: magazine of %zu blocks in the wrong list", walk->cls,
                   magazine_count(walk->cls, w));
    }
    return length;
}

/* Checks the class's units, all of whose magazines were made. Returns how many there are. */
static size_t check_units(struct cache *cache, unsigned cls, struct check *check)
{
    const struct depot *d = depot_of(cache, cls);
    size_t count = 0, most = d->made / place_magazines(cls);

    for (word unit = d->units; unit != 0 && count <= most; unit = *place_link(unit), count++)
        if (!check_that(check, unit % UNIT_BYTES == 0 && place_class(cache, unit) == cls,
                        "cache: class %u: %#zx is not a unit of the class", cls, (size_t)unit))
            break;
    check_that(check, count * place_magazines(cls) == d->made,
               "cache: class %u: %zu magazines in %zu units", cls, d->made, count);
    return count;
}

static void check_depot(struct cache *cache, unsigned cls, struct check *check)
{
    const struct depot *d = depot_of(cache, cls);
    struct depot_check walk = {cache, check, cls, 0};

    if (!check_that(check, !d->damaged, "cache: class %u was set aside", cls))
        return;
    check_that(check, d->log.count == 0, "cache: class %u: a change is under way", cls);
    check_that(check, (d->transit_new | d->transit_old | d->incoming) == 0 && d->pending.bytes == 0,
               "cache: class %u: something is on its way", cls);
    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++) {
        word w = lane_word(cache, lane, cls);

        if (w != 0)
            check_word(&walk, w);
    }
    struct list_length stock = {0, 0};
    for (size_t group = 0; group < CPU_GROUPS; group++) {
        struct list_length in_group = check_list(&walk, d->stock[group], false);

        stock.magazines += in_group.magazines;
        stock.blocks += in_group.blocks;
    }
    check_that(check, stock.magazines == d->stock_magazines && stock.blocks == d->stock_blocks,
               "cache: class %u: %zu magazines of %zu blocks in stock, not %zu of %zu", cls,
               stock.magazines, stock.blocks, d->stock_magazines, d->stock_blocks);
    check_list(&walk, d->empty, true);
    check_that(check, walk.magazines == d->made, "cache: class %u: %zu magazines of %zu found", cls,
               walk.magazines, d->made);
}

/* A slot whose block should be filled. */
struct filled_slot {
    const struct cache *cache;
    struct check *check;
    const word *lane; /* the word of the lane whose magazine it is in; NULL: in stock */
};

/* Looks at the blocks of one magazine. Those of a lane may be taken meanwhile; but they do not come
 * back, because the depots are locked and blocks are freed into other lanes. */
static void check_fill(const struct filled_slot *from, unsigned cls, word w)
{
    const struct magazine *m = magazine_of(cls, w);

    for (size_t i = magazine_count(cls, w); i-- > 0;) {
        const void *block = (const void *)word_peek(&m->slot[i]);
        bool clean = cache_is_clean(from->cache, cls, block) &&
                     *magazine_mark(block) == (half_word)magazine_word(m, i);
        word now = clean || from->lane == NULL ? w : word_peek(from->lane);

        if (magazine_of(cls, now) != m || i >= magazine_count(cls, now))
            continue;
        check_that(from->check, clean, "block %p: " CANARY_FREE_WRITTEN, block);
    }
}

static void check_fill_of_class(const struct cache *cache, unsigned cls, struct check *check)
{
    struct filled_slot from = {cache, check, NULL};
    const struct depot *d = depot_of(cache, cls);

    for (size_t group = 0; group < CPU_GROUPS; group++)
        for (word w = d->stock[group]; w != 0; w = magazine_of(cls, w)->link)
            check_fill(&from, cls, w);
    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++) {
        from.lane = &cache->table->lanes[lane].loaded[cls];
        word w = word_peek(from.lane);
        if (w != 0)
            check_fill(&from, cls, w);
    }
}

void cache_check(struct cache *cache, struct check *check)
{
    size_t units = 0;

    if (cache->table->classes_most == 0)
        return;
    for (unsigned cls = 0; cls < CACHE_CLASSES; cls++) {
        check_depot(cache, cls, check);
        units += check_units(cache, cls, check);
    }
    place_check(cache, units, check);
    for (unsigned cls = 0; cls < CACHE_CLASSES; cls++)
        if (cache->table->hardened && check->violations == 0) /* the lists are sound */
            check_fill_of_class(cache, cls, check);
}
