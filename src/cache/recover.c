/* recover.c - recovers what the dead left of a change of a depot, believed only as far as it can be
 * theirs.
 *
 * Recovery writes marks into blocks, and blocks in stock will be handed out. So it looks at every
 * magazine of the class and every block in it before it does anything.
 */
#include "cache/depot.h"

struct depot_guard {
    struct journal_guard guard;
    const struct cache *cache;
    unsigned cls;
};

/* Journal entries may name the depot's words, except lock and journal, and the class's
 * magazines. */
static bool guards(const struct journal_guard *guard, const word *address)
{
    const struct depot_guard *g = (const struct depot_guard *)guard;
    const struct depot *d = depot_of(g->cache, g->cls);
    uintptr_t place = (uintptr_t)address;

    if (place - (uintptr_t)d < sizeof *d)
        return place >= (uintptr_t)d->stock && place < (uintptr_t)&d->damaged;
    return place_class(g->cache, place) == g->cls;
}

/* ---- every magazine of the class ------------------------------------------------------------- */

struct survey {
    const struct cache *cache;
    const struct depot *depot;
    unsigned cls;
    size_t left; /* how many magazines may still be met */
};

static bool is_word(const struct survey *s, word w)
{
    return depot_has(s->cache, s->cls, w) && w % WORD == 1 &&
           (w & (magazine_bytes(s->cls) - 1)) > WORD &&
           magazine_count(s->cls, w) <= magazine_capacity(s->cls);
}

static bool has_sound_blocks(const struct survey *s, word w)
{
    const struct magazine *m = magazine_of(s->cls, w);

    for (size_t i = 0; i < magazine_count(s->cls, w); i++) {
        const void *block = (const void *)word_peek(&m->slot[i]);

        if (!chunk_is_aligned(block) ||
            !segment_has_chunks(s->cache->segments->map, chunk_of_payload(block)))
            return false;
    }
    return true;
}

static bool is_in_transit(const struct survey *s, word w)
{
    const struct magazine *m = magazine_of(s->cls, w);
    const struct depot *d = s->depot;

    return m == magazine_of(s->cls, d->transit_new) || m == magazine_of(s->cls, d->transit_old);
}

/* Whether the list is of magazines that are in no other place; adds up its magazines and blocks. */
static bool survey_list(struct survey *s, word list, bool empty, size_t *magazines, size_t *blocks)
{
    for (word w = list; w != 0; w = magazine_of(s->cls, w)->link) {
        if (s->left-- == 0 || !is_word(s, w) || magazine_is_empty(s->cls, w) != empty ||
            is_in_transit(s, w) || !has_sound_blocks(s, w))
            return false;
        ++*magazines;
        *blocks += magazine_count(s->cls, w);
    }
    return true;
}

static bool survey_transit(const struct survey *s, word w)
{
    return w == 0 || (is_word(s, w) && has_sound_blocks(s, w));
}

/* A lane's word is not the depot's, but the slots that it counts may have been named by the
 * journal. */
static bool survey_lanes(const struct survey *s)
{
    for (size_t lane = 0; lane < cache_lanes(s->cache->table); lane++) {
        word w = lane_word(s->cache, lane, s->cls);

        if (w != 0 && is_word(s, w) && !has_sound_blocks(s, w))
            return false;
    }
    return true;
}

/* Whether the class has all of the units in its list, and as many magazines as are in them; or
 * none, while the units are being given back. The incoming unit has none yet. */
static bool has_sound_units(const struct cache *cache, unsigned cls)
{
    const struct depot *d = depot_of(cache, cls);
    size_t most = cache->table->granules * (UNITS - 1), count = 0;

    if (d->incoming != 0 && d->incoming != d->units)
        return false;
    for (word unit = d->units; unit != 0; unit = *place_link(unit), count++)
        if (count >= most || !place_is_unit(cache, cls, unit))
            return false;
    if (d->incoming != 0)
        return d->made == (count - 1) * place_magazines(cls);
    return d->made == 0 || d->made == count * place_magazines(cls);
}

static bool is_whole(const struct cache *cache, unsigned cls)
{
    const struct depot *d = depot_of(cache, cls);
    struct survey s = {cache, d, cls, d->made};
    size_t magazines = 0, blocks = 0, empty = 0, none = 0;
    bool good = has_sound_units(cache, cls);

    for (size_t group = 0; group < CPU_GROUPS && good; group++)
        good = survey_list(&s, d->stock[group], false, &magazines, &blocks);
    return good && magazines == d->stock_magazines && blocks == d->stock_blocks &&
           survey_list(&s, d->empty, true, &empty, &none) && survey_transit(&s, d->transit_new) &&
           survey_transit(&s, d->transit_old) && survey_lanes(&s);
}

/* ---- recovery -------------------------------------------------------------------------------- */

/* Whichever of an exchange's two magazines is in no lane, or the one that was being filled or
 * drained. */
static word outside(const struct cache *cache, const struct depot *d, unsigned cls)
{
    word new = d->transit_new, old = d->transit_old;

    if (new != 0)
        return depot_is_loaded(cache, cls, new) || PLANTED(NEW_TAKEN_FOR_LOADED) ? old : new;
    return depot_is_loaded(cache, cls, old) ? 0 : old;
}

/* Marks are not journaled. Undoing a split leaves the upper half of a magazine, which is the first
 * in its list again, with the other magazine's marks: write them again. A thread that died
 * while filling w had not set all of w's marks. */
static void remark(const struct depot *d, unsigned cls, word w)
{
    for (size_t group = 0; group < CPU_GROUPS; group++)
        magazine_set_marks(cls, d->stock[group]);
    magazine_set_marks(cls, w);
}

static bool settle_arena(const struct cache *cache, size_t index, bool patiently)
{
    return patiently ? arenas_settle_patiently(cache->arenas, index)
                     : arenas_settle(cache->arenas, index);
}

/* Each step may be interrupted, and is then done again by the next survivor. NB: the map and the
 * arena are settled before a look at transit: their journals may hold words of this depot. */
enum depot_recovery depot_recover(struct cache *cache, unsigned cls, bool patiently)
{
    struct depot *d = depot_of(cache, cls);
    struct depot_guard guard = {{guards, NULL, JOURNAL_SHORT_CAPACITY}, cache, cls};

    if (!segment_settle(cache->segments))
        return DEPOT_NOT_NOW;
    if (!journal_recover(depot_journal(d), &guard.guard))
        return DEPOT_DAMAGED;
    if (d->arena != 0 && !PLANTED(DEPOT_BEFORE_ARENA)) {
        if (!arenas_has(cache->arenas, d->arena - 1))
            return DEPOT_DAMAGED;
        if (!settle_arena(cache, d->arena - 1, patiently))
            return DEPOT_NOT_NOW;
    }
    if (!is_whole(cache, cls) || !segment_recover(cache->segments, CACHE_OWNER, &d->pending, NULL))
        return DEPOT_DAMAGED;
    if (d->incoming != 0)
        depot_make_magazines(d, cls);
    if (d->made == 0)
        depot_give_units(cache, cls);

    word w = outside(cache, d, cls);
    if (d->transit_old == 0)
        cache_harden(cache, cls, w); /* whoever was to fill w may not have come to all of it */
    remark(d, cls, w);
    if ((d->transit_new | d->transit_old) != 0 && !PLANTED(TRANSIT_LEFT))
        depot_end_transit(d, cls, 0, w);
    return DEPOT_RECOVERED;
}
