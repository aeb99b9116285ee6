/* place.h - where the magazines lie.
 *
 *     | stripe 0 | stripe 1 | ... |      stretch of class 0      | stretch of class 1 | ...
 *
 *     stripe:  one magazine of each class, side by side
 *     stretch: addresses of the class's own, for all its further magazines
 *
 * A class's magazines are numbered as they were made: the first ones lie in the stripes, one in each. So
 * what a CPU has loaded of all its classes is in a few pages and spread over the sets of its cache: with
 * all in stretches, each a page of its own and at the same place of it, a ring of a thousand blocks took a
 * third longer. Stripes stay committed; stretches are committed and released by class.
 */
#ifndef DVSM_CACHE_PLACE_H
#define DVSM_CACHE_PLACE_H

#include "cache/cache.h"

enum {
    STRIPE_COARSE = (CLASS_EXACT_LAST + 1) * MAGAZINE_BYTES,
    STRIPE_USED = STRIPE_COARSE + (CACHE_CLASSES - CLASS_EXACT_LAST - 1) * MAGAZINE_COARSE_BYTES,
    STRIPE_BYTES = (STRIPE_USED + 4095) / 4096 * 4096
};

static inline size_t stripe_offset(unsigned class)
{
    return class <= CLASS_EXACT_LAST
               ? (size_t) class * MAGAZINE_BYTES
               : STRIPE_COARSE + (class - CLASS_EXACT_LAST - 1) * (size_t)MAGAZINE_COARSE_BYTES;
}

static inline char *stretch_of(const struct cache_table *table, unsigned class)
{
    return table->magazines + table->stripes * STRIPE_BYTES + class * table->area;
}

/* The magazine of that number. */
static inline struct magazine *magazine_at(const struct cache_table *table, unsigned class,
                                           size_t number)
{
    char *place =
        number < table->stripes
            ? table->magazines + number * STRIPE_BYTES + stripe_offset(class)
            : stretch_of(table, class) + (number - table->stripes) * magazine_bytes(class);

    return (struct magazine *)(void *)place;
}

/* The number of the magazine that the word points into; SIZE_MAX: it is none of the class. */
static inline size_t magazine_number(const struct cache_table *table, unsigned class, word w)
{
    uintptr_t place = (uintptr_t)magazine_of(class, w);
    size_t in_stripe = place - (uintptr_t)table->magazines;
    size_t in_stretch = place - (uintptr_t)stretch_of(table, class);

    if (in_stripe < table->stripes * STRIPE_BYTES)
        return in_stripe % STRIPE_BYTES == stripe_offset(class) ? in_stripe / STRIPE_BYTES
                                                                : SIZE_MAX;
    return in_stretch < table->area ? table->stripes + in_stretch / magazine_bytes(class)
                                    : SIZE_MAX;
}

/* The class of an address among the magazines. */
static inline unsigned magazine_class(const struct cache_table *table, word address)
{
    size_t offset = address - (uintptr_t)table->magazines, stripes = table->stripes * STRIPE_BYTES;
    size_t in_stripe = offset % STRIPE_BYTES;

    if (offset >= stripes)
        return (unsigned)((offset - stripes) / table->area);
    if (in_stripe < STRIPE_COARSE)
        return (unsigned)(in_stripe / MAGAZINE_BYTES);
    return (unsigned)((in_stripe - STRIPE_COARSE) / MAGAZINE_COARSE_BYTES) + CLASS_EXACT_LAST + 1;
}

#endif
