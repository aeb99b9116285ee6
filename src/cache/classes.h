/* classes.h - size classes of the cache, by chunk size.
 *
 *     up to 1 KiB          one class each 16 bytes; its number is size / 16
 *     up to 32 KiB         eight to each doubling (1152, 1280, ... 2048, 2304, ...)
 *
 * A request is served by the smallest class that has room for it, and gets a chunk of the class's
 * size; a freed chunk goes to the largest class that it has room for. Chunks between two classes
 * (what is left over where a rest would be too small for a chunk) are at home in the lower one.
 */
#ifndef DVSM_CACHE_CLASSES_H
#define DVSM_CACHE_CLASSES_H

#include "base/bits.h"
#include "bins/chunk.h"

enum {
    CLASS_STEP = 16,
    CLASS_EXACT_LAST = 64, /* the last class of the first kind, of 1 KiB */
    CLASS_DOUBLINGS = 5,
    CACHE_CLASSES = CLASS_EXACT_LAST + CLASS_DOUBLINGS * 8 + 1,
    CLASS_EXACT_MOST = CLASS_EXACT_LAST * CLASS_STEP,
    CLASS_MOST = CLASS_EXACT_MOST << CLASS_DOUBLINGS,
    CLASS_COARSE_LEAST = CLASS_EXACT_MOST + CLASS_EXACT_MOST / 8,
    CLASS_NONE = CACHE_CLASSES
};

/* The class of the second kind at or above `size`, which is more than 1 KiB and at most 32. */
static inline unsigned class_coarse_above(size_t size)
{
    unsigned shift = bits_highest(size - 1) - 3;

    return (unsigned)((size - 1) >> shift) + (shift - 7) * 8 + CLASS_EXACT_LAST - 7;
}

/* The one at or below `size`, which is at least the smallest of them and at most 32 KiB. */
static inline unsigned class_coarse_below(size_t size)
{
    unsigned shift = bits_highest(size) - 3;

    return (unsigned)(size >> shift) + (shift - 7) * 8 + CLASS_EXACT_LAST - 8;
}

/* The same from a table, by size / 128; 0 for the sizes below the smallest. */
enum { CLASS_TABLE = CLASS_MOST / 128 + 1 };

static inline void class_fill_table(unsigned char table[CLASS_TABLE])
{
    for (size_t i = CLASS_COARSE_LEAST / 128; i < CLASS_TABLE; i++)
        table[i] = (unsigned char)class_coarse_below(i * 128);
}

/* The class that serves chunks of `size` bytes; CLASS_NONE: too large. */
static inline unsigned class_above(size_t size)
{
    if (size <= CLASS_EXACT_MOST)
        return (unsigned)((size + CLASS_STEP - 1) / CLASS_STEP);
    return size <= CLASS_MOST ? class_coarse_above(size) : CLASS_NONE;
}

/* The class in which a freed chunk of `size` bytes is at home; CLASS_NONE: too large. */
static inline unsigned class_below(size_t size)
{
    if (size <= CLASS_EXACT_MOST)
        return (unsigned)(size / CLASS_STEP);
    if (size < CLASS_COARSE_LEAST)
        return CLASS_EXACT_LAST;
    return size <= CLASS_MOST + CLASS_STEP ? class_coarse_below(size) : CLASS_NONE;
}

/* Bytes of its chunks. */
static inline size_t class_size(unsigned class)
{
    if (class <= CLASS_EXACT_LAST)
        return (size_t) class * CLASS_STEP;

    unsigned n = class - CLASS_EXACT_LAST - 1;

    return (size_t)(9 + n % 8) << (7 + n / 8);
}

#endif
