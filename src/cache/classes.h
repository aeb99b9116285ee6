/* classes.h - size classes of the cache, by chunk size.
 *
 *     exact    up to 1 KiB      a class every 16 bytes; its number is size / 16
 *     coarse   up to 32 KiB     eight to each doubling (1152, 1280, ... 2048, 2304, ...)
 *     wide     up to 256 KiB    four to each doubling (40960, 49152, ... 65536, 81920, ...); few
 *                               blocks of each are cached, and only the slow paths serve them
 *
 * A request is served by the smallest class that has room for it, and gets a chunk of the class's
 * size. A freed chunk goes to the largest class that it has room for. A chunk may be larger than
 * its class, where the rest would have been too small for a chunk of its own; such a chunk belongs
 * to the lower of the two classes that it lies between.
 */
#ifndef DVSM_CACHE_CLASSES_H
#define DVSM_CACHE_CLASSES_H

#include "base/bits.h"
#include "bins/chunk.h"

enum {
    CLASS_STEP = 16,
    CLASS_EXACT_LAST = 64, /* the last class of the first kind, of 1 KiB */
    CLASS_COARSE_DOUBLINGS = 5,
    CLASS_WIDE_DOUBLINGS = 3,
    CLASS_COARSE_LAST = CLASS_EXACT_LAST + CLASS_COARSE_DOUBLINGS * 8,
    CACHE_CLASSES = CLASS_COARSE_LAST + CLASS_WIDE_DOUBLINGS * 4 + 1,
    CLASS_EXACT_MOST = CLASS_EXACT_LAST * CLASS_STEP,
    CLASS_COARSE_MOST = CLASS_EXACT_MOST << CLASS_COARSE_DOUBLINGS,
    CLASS_MOST = CLASS_COARSE_MOST << CLASS_WIDE_DOUBLINGS,
    CLASS_COARSE_LEAST = CLASS_EXACT_MOST + CLASS_EXACT_MOST / 8,
    CLASS_WIDE_LEAST = CLASS_COARSE_MOST + CLASS_COARSE_MOST / 4,
    CLASS_NONE = CACHE_CLASSES
};

/* The classes of a kind, 1 << bits of them to each doubling, come after class `last`, whose size is
 * 1 << (first + bits). class_above_of: the smallest that holds `size`, more than class `last` does;
 * class_below_of: the largest that `size` has room for, at least the first of the kind. */
static inline unsigned class_above_of(size_t size, unsigned bits, unsigned first, unsigned last)
{
    unsigned shift = bits_highest(size - 1) - bits;

    return (unsigned)((size - 1) >> shift) + ((shift - first) << bits) + last + 1 - (1u << bits);
}

static inline unsigned class_below_of(size_t size, unsigned bits, unsigned first, unsigned last)
{
    unsigned shift = bits_highest(size) - bits;

    return (unsigned)(size >> shift) + ((shift - first) << bits) + last - (1u << bits);
}

/* For a size of more than 1 KiB, and at most 32 KiB. */
static inline unsigned class_coarse_above(size_t size)
{
    return class_above_of(size, 3, 7, CLASS_EXACT_LAST);
}

static inline unsigned class_coarse_below(size_t size)
{
    return class_below_of(size, 3, 7, CLASS_EXACT_LAST);
}

/* For a size of more than 32 KiB, and at most CLASS_MOST. */
static inline unsigned class_wide_above(size_t size)
{
    return class_above_of(size, 2, 13, CLASS_COARSE_LAST);
}

static inline unsigned class_wide_below(size_t size)
{
    return class_below_of(size, 2, 13, CLASS_COARSE_LAST);
}

/* class_coarse_below() as a table, by size / 128; 0 for the sizes below the
 * smallest class. */
enum { CLASS_TABLE = CLASS_COARSE_MOST / 128 + 1 };

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
    if (size <= CLASS_COARSE_MOST)
        return class_coarse_above(size);
    return size <= CLASS_MOST ? class_wide_above(size) : CLASS_NONE;
}

/* The class that a freed chunk of `size` bytes belongs to; CLASS_NONE: too large. */
static inline unsigned class_below(size_t size)
{
    if (size <= CLASS_EXACT_MOST)
        return (unsigned)(size / CLASS_STEP);
    if (size < CLASS_COARSE_LEAST)
        return CLASS_EXACT_LAST;
    if (size < CLASS_WIDE_LEAST)
        return size < CLASS_COARSE_MOST ? class_coarse_below(size) : CLASS_COARSE_LAST;
    return size <= CLASS_MOST + CLASS_STEP ? class_wide_below(size) : CLASS_NONE;
}

/* Bytes of the class's chunks. */
static inline size_t class_size(unsigned cls)
{
    if (cls <= CLASS_EXACT_LAST)
        return (size_t)cls * CLASS_STEP;

    unsigned n = cls - CLASS_EXACT_LAST - 1, wide = cls - CLASS_COARSE_LAST - 1;

    return cls <= CLASS_COARSE_LAST ? (size_t)(9 + n % 8) << (7 + n / 8)
                                    : (size_t)(5 + wide % 4) << (13 + wide / 4);
}

#endif
