/* tree.c - the tree bins: insertion, removal, best fit. */
#include "bins/bins_internal.h"

/* Makes c a node without children, alone in its ring. */
static void become_node(struct journal *j, struct chunk *c, struct chunk *parent)
{
    journal_store(j, &c->parent, parent);
    journal_store(j, &c->fd, c);
    journal_store(j, &c->bk, c);
    journal_store(j, &c->child[0], NULL);
    journal_store(j, &c->child[1], NULL);
}

/* Makes c the member that follows `node` in its ring; c has no place of its own in the tree. */
static bool join_ring(const struct bins *b, struct journal *j, struct chunk *node, struct chunk *c,
                      struct fault *fault)
{
    struct chunk *after = node->fd;

    if (unlikely(!bins_in_range(b, after) || after->bk != node))
        return bins_damaged(fault, &node->fd);
    journal_store(j, &c->parent, NULL);
    journal_store(j, &c->child[0], NULL);
    journal_store(j, &c->child[1], NULL);
    journal_store(j, &c->fd, after);
    journal_store(j, &c->bk, node);
    journal_store(j, &after->bk, c);
    journal_store(j, &node->fd, c);
    return true;
}

bool bins_tree_insert(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                      struct fault *fault)
{
    unsigned index = bins_tree_index(size);
    struct chunk *node = b->tree[index];

    if (node == NULL) {
        journal_store(j, &b->tree_map, b->tree_map | (size_t)1 << index);
        journal_store(j, &b->tree[index], c);
        become_node(j, c, bins_root_mark(b, index));
        return true;
    }
    unsigned depth = 0;
    for (size_t bits = size << bins_tree_shift(index); chunk_size(node) != size; bits <<= 1) {
        struct chunk **slot = &node->child[bins_branch(bits)];

        if (*slot == NULL) {
            journal_store(j, slot, c);
            become_node(j, c, node);
            return true;
        }
        if (unlikely(!bins_in_range(b, *slot) || ++depth == SIZE_BITS))
            return bins_damaged(fault, slot);
        node = *slot;
    }
    return join_ring(b, j, node, c, fault);
}

/* Takes c out of its ring; *heir is the member that takes c's place in the tree, if c has one. */
static bool leave_ring(const struct bins *b, struct journal *j, struct chunk *c,
                       struct chunk **heir, struct fault *fault)
{
    struct chunk *after = c->fd, *before = c->bk;

    if (unlikely(!bins_in_range(b, after) || after->bk != c))
        return bins_damaged(fault, &c->fd);
    if (unlikely(!bins_in_range(b, before) || before->fd != c))
        return bins_damaged(fault, &c->bk);
    journal_store(j, &after->bk, before);
    journal_store(j, &before->fd, after);
    *heir = before;
    return true;
}

/* Cuts off the leaf that is reached from c by preferring the right child: *heir; NULL where c is a
 * leaf. */
static bool cut_leaf(const struct bins *b, struct journal *j, struct chunk *c, struct chunk **heir,
                     struct fault *fault)
{
    struct chunk **slot = NULL;
    struct chunk *leaf = c;

    for (unsigned depth = 0;; depth++) {
        struct chunk **next = leaf->child[1] != NULL ? &leaf->child[1] : &leaf->child[0];

        if (*next == NULL)
            break;
        if (unlikely(!bins_in_range(b, *next) || depth == SIZE_BITS))
            return bins_damaged(fault, next);
        slot = next;
        leaf = *next;
    }
    if (slot != NULL)
        journal_store(j, slot, NULL);
    *heir = slot == NULL ? NULL : leaf;
    return true;
}

/* The slot that points to c: the bin's, or one of its parent's. NULL and a fault where there is
 * none. */
static struct chunk **slot_of(struct bins *b, struct chunk *c, unsigned index, struct fault *fault)
{
    struct chunk *parent = c->parent;

    if (parent == bins_root_mark(b, index)) {
        if (likely(b->tree[index] == c))
            return &b->tree[index];
    } else if (likely(bins_in_range(b, parent))) {
        if (parent->child[0] == c)
            return &parent->child[0];
        if (likely(parent->child[1] == c))
            return &parent->child[1];
    }
    bins_damaged(fault, &c->parent);
    return NULL;
}

/* Hands c's children over to its heir. */
static bool inherit_children(const struct bins *b, struct journal *j, struct chunk *c,
                             struct chunk *heir, struct fault *fault)
{
    for (unsigned side = 0; side < 2; side++) {
        struct chunk *child = c->child[side];

        if (child == NULL)
            continue;
        if (unlikely(!bins_in_range(b, child)))
            return bins_damaged(fault, &c->child[side]);
        journal_store(j, &heir->child[side], child);
        journal_store(j, &child->parent, heir);
    }
    return true;
}

bool bins_tree_remove(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                      struct fault *fault)
{
    struct chunk *heir = NULL;
    bool alone = c->bk == c && c->fd == c;

    if (!(alone ? cut_leaf(b, j, c, &heir, fault) : leave_ring(b, j, c, &heir, fault)))
        return false;
    if (c->parent == NULL) {
        if (unlikely(alone || c->child[0] != NULL || c->child[1] != NULL))
            return bins_damaged(fault, &c->parent);
        return true;
    }

    unsigned index = bins_tree_index(size);
    struct chunk **slot = slot_of(b, c, index, fault);
    if (unlikely(slot == NULL))
        return false;
    journal_store(j, slot, heir);
    if (heir == NULL) {
        if (slot == &b->tree[index])
            journal_store(j, &b->tree_map, b->tree_map & ~((size_t)1 << index));
        return true;
    }
    journal_store(j, &heir->parent, c->parent);
    return inherit_children(b, j, c, heir, fault);
}

/* The best chunk met so far in a search, and what was found damaged on the way. */
struct search {
    const struct bins *bins;
    size_t need;
    struct chunk *best;
    size_t surplus; /* of the best */
    unsigned met;   /* nodes so far: ends a search in a damaged tree that has a circle */
    struct fault *fault;
};

/* Looks at a node; false: stop, an exact fit or a damaged link (then best is NULL). */
static bool consider(struct search *s, struct chunk *node)
{
    if (unlikely(!bins_in_range(s->bins, node) || ++s->met > 2 * SIZE_BITS)) {
        bins_damaged(s->fault, node);
        s->best = NULL;
        return false;
    }
    size_t size = chunk_size(node);
    if (size >= s->need && size - s->need < s->surplus) {
        s->best = node;
        s->surplus = size - s->need;
    }
    return s->surplus != 0;
}

/* Goes down the left side of a tree, where the smallest sizes are, or right where there is no left
 * child. */
static void search_leftmost(struct search *s, struct chunk *node)
{
    while (node != NULL && consider(s, node))
        node = node->child[0] != NULL ? node->child[0] : node->child[1];
}

/* Goes down the path of the needed size's own bits. Returns the deepest subtree to the right of the
 * path, which holds the smallest sizes larger than the path's end; NULL if there is none or the
 * search is over. */
static struct chunk *search_path(struct search *s, unsigned index)
{
    struct chunk *right = NULL, *node = s->bins->tree[index];
    size_t bits = s->need << bins_tree_shift(index);

    for (; node != NULL; bits <<= 1) {
        if (!consider(s, node))
            return NULL;
        struct chunk *next = node->child[bins_branch(bits)];
        if (node->child[1] != NULL && node->child[1] != next)
            right = node->child[1];
        node = next;
    }
    return right;
}

/* What a search found, if its boundary tags agree. */
static struct chunk *found(struct search *s)
{
    if (s->best != NULL && unlikely(!bins_is_sound(s->bins, s->best))) {
        fault_raise(s->fault, FAULT_DAMAGE, "damaged header of a free chunk", s->best);
        return NULL;
    }
    return s->best;
}

struct chunk *bins_best_fit(const struct bins *b, size_t need, struct fault *fault)
{
    unsigned index = bins_tree_index(need);
    struct search s = {.bins = b, .need = need, .surplus = SIZE_MAX, .fault = fault};
    struct chunk *subtree = search_path(&s, index);

    if (s.best == NULL && subtree == NULL && fault->kind == FAULT_NONE) {
        size_t larger = bits_above(b->tree_map, index);
        if (larger != 0)
            subtree = b->tree[bits_lowest(larger)];
    }
    search_leftmost(&s, subtree);
    return found(&s);
}

struct chunk *bins_smallest(const struct bins *b, struct fault *fault)
{
    /* A chunk below this size does not belong in a tree: it is damaged. */
    struct search s = {.bins = b, .need = BINS_LARGE_FROM, .surplus = SIZE_MAX, .fault = fault};

    if (b->tree_map == 0)
        return NULL;
    search_leftmost(&s, b->tree[bits_lowest(b->tree_map)]);
    if (unlikely(s.best == NULL))
        bins_damaged(fault, &b->tree[bits_lowest(b->tree_map)]);
    return found(&s);
}
