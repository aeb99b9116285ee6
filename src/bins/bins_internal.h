/* bins_internal.h - what bins.c, tree.c and check.c share. */
#ifndef DVSM_BINS_BINS_INTERNAL_H
#define DVSM_BINS_BINS_INTERNAL_H

#include "bins/bins.h"

/* A list's head is a pair of links in the arena, seen as the chunk whose fd and bk they are. */
static inline struct chunk *bins_head(const struct bins *b, unsigned index)
{
    return (struct chunk *)((uintptr_t)&b->small[index] - offsetof(struct chunk, fd));
}

/* Which tree: two for each power of two, told apart by the bit below the size's highest. */
static inline unsigned bins_tree_index(size_t size)
{
    size_t x = size >> BINS_TREE_SHIFT;

    if (x == 0)
        return 0;
    if (x > 0xFFFF)
        return BINS_TREE - 1;
    unsigned k = bits_highest(x);
    return 2 * k + (unsigned)((size >> (k + BINS_TREE_SHIFT - 1)) & 1);
}

/* How far left a size must be shifted so that the first bit that its tree decides on is the top
 * bit. */
static inline unsigned bins_tree_shift(unsigned index)
{
    if (index == BINS_TREE - 1)
        return 0;
    return SIZE_BITS - 1 - (index / 2 + BINS_TREE_SHIFT - 2);
}

/* The next bit of a size that was shifted so, as the index of a child. */
static inline unsigned bins_branch(size_t bits)
{
    return (unsigned)(bits >> (SIZE_BITS - 1));
}

/* A root's parent is the bin's own slot, so that every node in a tree has a parent. */
static inline struct chunk *bins_root_mark(const struct bins *b, unsigned index)
{
    return (struct chunk *)(uintptr_t)&b->tree[index];
}

bool bins_tree_insert(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                      struct fault *fault);
bool bins_tree_remove(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                      struct fault *fault);

static inline bool bins_damaged(struct fault *fault, const void *where)
{
    return fault_raise(fault, FAULT_DAMAGE, "damaged free-list link", where);
}

#endif
