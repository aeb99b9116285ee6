/* bins.h - where free chunks wait, by size.
 *
 * Small chunks (below 256 bytes) wait in 32 circular lists of one size each; larger ones in 32
 * bitwise tries, two to each power of two. Two bit maps say which are not empty, so that no empty
 * bin is ever visited.
 *
 *     small[i]  head <-> chunk <-> chunk <-> head     all of size 8 i; the newest first
 *
 *     tree[i]        node = ring of chunks of one size; each level below decides on the next
 *                   /    \      lower bit of the size: 0 left, 1 right. A node is not ordered with
 *                node    node   respect to its subtrees; only the node in the tree has a parent,
 *                               the others of its ring have NULL
 *
 * A chunk in a bin is free, its neighbours are not. The caller holds the arena's lock; every store
 * goes through the journal. Every link read from a chunk is checked before it is followed. A wrong
 * link raises FAULT_DAMAGE, and the function returns false or NULL; the caller must then roll back
 * the function's stores so far.
 *
 *     bins_insert         put a free chunk where its size belongs
 *     bins_remove         take a given chunk out, wherever it is
 *     bins_best_fit       the smallest chunk in the trees of at least n bytes, not removed
 *     bins_smallest       the smallest chunk in the trees, not removed
 *     bins_count, bins_bytes   how many chunks wait, and how large they are together; both are kept
 *                              up to date, so nothing is counted
 *     bins_check          every invariant above
 */
#ifndef DVSM_BINS_BINS_H
#define DVSM_BINS_BINS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/fault.h"
#include "base/journal.h"
#include "bins/chunk.h"

enum { BINS_SMALL = 32, BINS_TREE = 32, BINS_SMALL_SHIFT = 3, BINS_TREE_SHIFT = 8 };
#define BINS_LARGE_FROM                                                                            \
    ((size_t)1 << BINS_TREE_SHIFT) /* chunks of this size and more are in trees */

struct MAY_ALIAS bins_links {
    struct chunk *fd;
    struct chunk *bk;
};

/* Both totals are in one word, so that one store counts a chunk. The low bits hold the sum of the
 * sizes, in units of CHUNK_ALIGN, which no address space is large enough to overflow. The bits
 * above hold the number of chunks, or its low bits. */
enum { BINS_BYTES_BITS = SIZE_BITS == 64 ? 40 : 29, BINS_COUNT_BITS = SIZE_BITS - BINS_BYTES_BITS };

struct bins {
    size_t small_map;
    size_t tree_map;
    size_t content;       /* of all bins, as above */
    size_t content_wraps; /* the high bits of the number, for which `content` has no room */
    char *low;            /* all chunks begin here or higher ... */
    size_t span;          /* ... by less than this: so all fields of each lie in the memory */
    struct bins_links small[BINS_SMALL];
    struct chunk *tree[BINS_TREE];
};

/* All bins empty, no address in range. Nothing is journaled. */
void bins_init(struct bins *b);

/* Makes [start, start + bytes), which is more than a chunk's fields, part of the range in which
 * chunks may lie. A chunk in its last bytes would have links outside the memory, so an address
 * there is never accepted. The arena has no chunk there: see its foot. */
void bins_extend_range(struct bins *b, struct journal *j, char *start, size_t bytes);

/* Whether a chunk may lie at `c`. Every address read from memory that the user can reach is checked
 * so. */
static inline bool bins_in_range(const struct bins *b, const void *c)
{
    return (uintptr_t)c - (uintptr_t)b->low < b->span && chunk_is_aligned(c);
}

/* Whether a supposedly free chunk is free, and its boundary tags agree. */
static inline bool bins_is_sound(const struct bins *b, const struct chunk *c)
{
    const struct chunk *next = chunk_next(c);

    return chunk_is_free(c) && bins_in_range(b, next) && next > c &&
           next->prev_foot == chunk_size(c) && !chunk_prev_in_use(next);
}

static inline size_t bins_count(const struct bins *b)
{
    return b->content_wraps << BINS_COUNT_BITS | b->content >> BINS_BYTES_BITS;
}

static inline size_t bins_bytes(const struct bins *b)
{
    return (word_peek(&b->content) & (((size_t)1 << BINS_BYTES_BITS) - 1)) * CHUNK_ALIGN;
}

/* Puts a free chunk of `size` bytes where it belongs; the caller writes head and foot. */
bool bins_insert(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                 struct fault *fault);

/* Takes a chunk of `size` bytes out of its bin. */
bool bins_remove(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                 struct fault *fault);

/* The small bin of that size: index, and its newest chunk where it is not empty. */
static inline unsigned bins_small_index(size_t size)
{
    return (unsigned)(size >> BINS_SMALL_SHIFT);
}

static inline size_t bins_small_size(unsigned index)
{
    return (size_t)index << BINS_SMALL_SHIFT;
}

static inline struct chunk *bins_small_first(const struct bins *b, unsigned index)
{
    return b->small[index].fd;
}

/* Search in the trees; ties go to the chunk met first. */
struct chunk *bins_best_fit(const struct bins *b, size_t need, struct fault *fault);
struct chunk *bins_smallest(const struct bins *b, struct fault *fault);

/* What the bins hold. Two sets of chunks with equal totals are the same set, except with a chance
 * of 2^-64. */
struct bins_totals {
    size_t count;
    size_t bytes;
    size_t fingerprint;
};

static inline void bins_totals_add(struct bins_totals *t, const struct chunk *c, size_t size)
{
    t->count++;
    t->bytes += size;
    t->fingerprint += bits_fingerprint((size_t)(uintptr_t)c ^ (size << 1));
}

/* Whether all fields of a chunk at `c`, which is in the range, lie in memory that holds chunks. */
typedef bool (*bins_holds)(void *context, const struct chunk *c);

/* Checks every invariant above, and that what is found agrees with bins_count() and bins_bytes();
 * adds what was found to `totals`. If the range has gaps, `holds` is asked before each chunk is
 * looked at; NULL: no gaps. */
void bins_check(const struct bins *b, bins_holds holds, void *context, struct check *check,
                struct bins_totals *totals);

#endif
