/* cache.h - lanes and depots: stocks of free blocks in front of the arenas.
 *
 * The cache belongs to CPUs, never to a process or thread, so that nobody's death loses anything.
 *
 *     lane     one a CPU. For each size class one word: where in the loaded magazine the next
 *              pointer goes, + 1. 0, a lane never used, reads as empty and as full at once. Changed
 *              by one store, in a restartable sequence on that CPU.
 *     depot    one a size class: lists of magazines half full and of empty ones, which lanes trade
 *              for. Behind a robust lock with its own journal, the outermost in the lock order.
 *     transit  names the two magazines of a trade under way (coming into the lane, going out of
 *              it): a survivor looks through the lanes to see whether the trade took place.
 *
 * To the arena a cached block is in use. This version has only their place in the region: address
 * space that is reserved and not committed.
 */
#ifndef DVSM_CACHE_CACHE_H
#define DVSM_CACHE_CACHE_H

#include "base/compiler.h"
#include "base/journal.h"
#include "base/lock.h"

/* Exact classes of 16 bytes up to 1 KiB, then eight to each doubling up to 32 KiB. */
enum { CACHE_CLASSES = 64 + 5 * 8, LANE_WORDS = 128 };

struct lane {
    word loaded
        [LANE_WORDS]; /* by size class; a power of two of them, for the address in one shift */
};

struct depot {
    struct lock lock;
    struct journal journal;
    word half;  /* list of magazines half full */
    word empty; /* list of empty magazines */
    word transit_new;
    word transit_old;
};

_Static_assert((int)CACHE_CLASSES <= (int)LANE_WORDS, "each class has a word in the lane");

#endif
