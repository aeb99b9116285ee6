/* place.h - where the magazines lie: in granules of the region that the cache owns.
 *
 *     granule ->  +--------+--------+--------+-----+----------+
 *                 | header | unit 1 | unit 2 | ... | unit 127 |      512 bytes each
 *                 +--------+--------+--------+-----+----------+
 *
 * A unit is one magazine of a class of up to 1 KiB, or four of a coarse class, or eight of a wide
 * one. Classes take units one by one, as they need them. So the magazines that a CPU has loaded for
 * all its classes lie in a few pages and are spread over the sets of its cache. (With each class's
 * magazines on pages of their own, all at the same place in their pages, a ring of a thousand
 * blocks took a third longer.) The header says which class has which unit.
 *
 * A class keeps its units in a list, linked by their last words, which no magazine uses. It gives
 * its units back when none of its magazines holds a block. A granule whose last unit comes back
 * goes to the map.
 *
 * The map's lock guards all of this: units change hands within the map's changes, which store the
 * depot's words, too. A thread that takes or gives units for a depot holds the depot's lock, too.
 */
#ifndef DVSM_CACHE_PLACE_H
#define DVSM_CACHE_PLACE_H

#include "cache/cache.h"

/* The owner id by which the map knows the cache; arenas have lower numbers. */
#define CACHE_OWNER SEGMENT_OWNER_MOST

enum {
    UNIT_BYTES = MAGAZINE_BYTES,
    UNITS = 1 << GRANULE_SHIFT >> 9,
};

struct magazine_granule {
    word next;                   /* the next granule in the list of granules that have room */
    word used;                   /* how many units classes have */
    word given;                  /* list of units that came back, linked by their first words */
    word unused;                 /* number of the first unit that was never taken; UNITS: none */
    word class_of[UNITS / WORD]; /* a byte for each unit: its class, 0 for none */
};
_Static_assert(UNIT_BYTES *UNITS == 1 << GRANULE_SHIFT && CACHE_CLASSES <= 256 &&
                   sizeof(struct magazine_granule) <= UNIT_BYTES,
               "units fill a granule, and the first has room for the header");

/* How many magazines of the class are in a unit. */
static inline size_t place_magazines(unsigned cls)
{
    return UNIT_BYTES / magazine_bytes(cls);
}

/* The class that has the unit in which the address lies; 0: the cache has no such unit. Needs no
 * lock: right for a magazine that stays the class's during the call. */
unsigned place_class(const struct cache *cache, word address);

/* Whether the word can be that of a magazine of the class, or is a unit of the class. */
bool place_is_magazine(const struct cache *cache, unsigned cls, word w);
bool place_is_unit(const struct cache *cache, unsigned cls, word w);

/* The address in a magazine of the cache whose lower half is `mark`; 0: there is none. */
word place_of_mark(const struct cache *cache, half_word mark);

/* Gives the class one more unit, first in its list and named as its depot's `incoming`. Whether
 * there was one. */
bool place_take(struct cache *cache, unsigned cls);

/* Takes away the first of the class's units. None of its magazines may be in use. */
void place_give(struct cache *cache, unsigned cls);

/* Gives back a granule that is still on its way: the map's lock could not be had, or what a dead
 * process left of a change of the map says so. It is believed only if it is the cache's. */
void place_settle(struct cache *cache, struct depot *d);

/* Checks every invariant of the granules; classes have `units` units. */
void place_check(struct cache *cache, size_t units, struct check *check);

/* Where a unit holds the next unit in its class's list. */
static inline word *place_link(word unit)
{
    return (word *)(unit + UNIT_BYTES) - 1;
}

#endif
