/* check.c - every invariant of bins.h. */
#include "bins/bins_internal.h"

struct walk {
    const struct bins *bins;
    bins_holds holds;
    void *context;
    struct check *check;
    struct bins_totals *totals;
    size_t left; /* chunks that can still exist in the range: ends every loop */
};

static bool can_be_read(const struct walk *w, const struct chunk *c)
{
    return bins_in_range(w->bins, c) && (w->holds == NULL || w->holds(w->context, c));
}

/* Whether the link leads to a sound free chunk that has not been counted too often. */
static bool enter_chunk(struct walk *w, const struct chunk *c)
{
    if (!check_that(w->check, can_be_read(w, c), "bins: link to %p, outside the arena",
                    (const void *)c))
        return false;
    if (!check_that(w->check, w->left > 0, "bins: a list does not end, at %p", (const void *)c))
        return false;
    w->left--;
    if (!check_that(w->check, can_be_read(w, chunk_next(c)) && bins_is_sound(w->bins, c),
                    "bins: chunk %p (head %zx) is not a free one", (const void *)c, c->head))
        return false;
    bins_totals_add(w->totals, c, chunk_size(c));
    return true;
}

static void check_small(struct walk *w, unsigned index)
{
    const struct bins *b = w->bins;
    const struct chunk *head = bins_head(b, index), *before = head;
    bool marked = (b->small_map >> index & 1) != 0;

    check_that(w->check, marked == (head->fd != head), "bins: small bin %u: map bit is wrong",
               index);
    for (const struct chunk *c = head->fd; c != head; before = c, c = c->fd) {
        if (!enter_chunk(w, c))
            return;
        if (!check_that(w->check, c->bk == before, "bins: chunk %p: bk is %p, not %p",
                        (const void *)c, (const void *)c->bk, (const void *)before))
            return; /* a circle that leaves out the head would not end */
        check_that(w->check, chunk_size(c) == bins_small_size(index),
                   "bins: chunk %p of %zu bytes in small bin %u", (const void *)c, chunk_size(c),
                   index);
    }
    check_that(w->check, head->bk == before, "bins: small bin %u: last is %p, not %p", index,
               (const void *)head->bk, (const void *)before);
}

/* The chunks that share a node's size. */
static void check_ring(struct walk *w, const struct chunk *node)
{
    const struct chunk *before = node;

    for (const struct chunk *c = node->fd; c != node; before = c, c = c->fd) {
        if (!enter_chunk(w, c))
            return;
        if (!check_that(w->check, c->bk == before, "bins: chunk %p: bk is %p, not %p",
                        (const void *)c, (const void *)c->bk, (const void *)before))
            return; /* a circle that leaves out the head would not end */
        check_that(w->check, chunk_size(c) == chunk_size(node),
                   "bins: chunk %p of %zu bytes in a ring of %zu", (const void *)c, chunk_size(c),
                   chunk_size(node));
        check_that(w->check, c->parent == NULL, "bins: chunk %p in a ring has a parent",
                   (const void *)c);
    }
    check_that(w->check, node->bk == before, "bins: node %p: bk is %p, not %p", (const void *)node,
               (const void *)node->bk, (const void *)before);
}

/* A subtree whose sizes agree in the topmost bits that the path from the root has fixed. */
static void check_subtree(struct walk *w, unsigned index, const struct chunk *node,
                          const struct chunk *parent, unsigned depth, size_t path)
{
    unsigned shift = bins_tree_shift(index);

    if (!enter_chunk(w, node))
        return;
    if (!check_that(w->check, node->parent == parent, "bins: node %p: parent is %p, not %p",
                    (const void *)node, (const void *)node->parent, (const void *)parent))
        return; /* so that no subtree is walked twice */
    check_that(w->check, bins_tree_index(chunk_size(node)) == index,
               "bins: node %p of %zu bytes in tree %u", (const void *)node, chunk_size(node),
               index);
    if (depth > 0 &&
        !check_that(w->check, (chunk_size(node) << shift) >> (SIZE_BITS - depth) == path,
                    "bins: node %p of %zu bytes is on a path of other sizes", (const void *)node,
                    chunk_size(node)))
        return;
    check_ring(w, node);
    for (unsigned side = 0; side < 2; side++)
        if (node->child[side] != NULL &&
            check_that(w->check, depth < SIZE_BITS - shift, "bins: tree %u is too deep", index))
            check_subtree(w, index, node->child[side], node, depth + 1, path << 1 | side);
}

static void check_tree(struct walk *w, unsigned index)
{
    const struct chunk *root = w->bins->tree[index];
    bool marked = (w->bins->tree_map >> index & 1) != 0;

    check_that(w->check, marked == (root != NULL), "bins: tree %u: map bit is wrong", index);
    if (root != NULL)
        check_subtree(w, index, root, bins_root_mark(w->bins, index), 0, 0);
}

void bins_check(const struct bins *b, bins_holds holds, void *context, struct check *check,
                struct bins_totals *totals)
{
    struct walk w = {b, holds, context, check, totals, b->span / CHUNK_MIN};
    size_t count = totals->count, bytes = totals->bytes;

    for (unsigned i = 0; i < BINS_SMALL; i++)
        check_small(&w, i);
    for (unsigned i = 0; i < BINS_TREE; i++)
        check_tree(&w, i);
    count = totals->count - count;
    bytes = totals->bytes - bytes;
    check_that(check, bins_count(b) == count && bins_bytes(b) == bytes,
               "bins: %zu chunks of %zu bytes, counted as %zu of %zu", count, bytes, bins_count(b),
               bins_bytes(b));
}
