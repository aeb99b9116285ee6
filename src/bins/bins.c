/* bins.c - the small bins, and the functions that choose between them and the trees. */
#include "bins/bins_internal.h"

void bins_init(struct bins *b)
{
    *b = (struct bins){0};
    for (unsigned i = 0; i < BINS_SMALL; i++)
        b->small[i].fd = b->small[i].bk = bins_head(b, i);
}

void bins_extend_range(struct bins *b, struct journal *j, char *start, size_t bytes)
{
    uintptr_t low = (uintptr_t)b->low, high = low + b->span;
    /* The last place where a whole struct chunk has room. */
    uintptr_t end = (uintptr_t)start + bytes - bits_round_down(sizeof(struct chunk), CHUNK_ALIGN);

    if (b->span == 0) {
        low = (uintptr_t)start;
        high = end;
    }
    if ((uintptr_t)start < low)
        low = (uintptr_t)start;
    if (end > high)
        high = end;
    journal_store(j, &b->low, (char *)low);
    journal_store(j, &b->span, high - low);
}

static void small_insert(struct bins *b, struct journal *j, struct chunk *c, unsigned index)
{
    struct chunk *head = bins_head(b, index);
    struct chunk *first = head->fd;

    if (first == head)
        journal_store(j, &b->small_map, b->small_map | (size_t)1 << index);
    journal_store(j, &c->fd, first);
    journal_store(j, &c->bk, head);
    journal_store(j, &first->bk, c);
    journal_store(j, &head->fd, c);
}

static bool small_remove(struct bins *b, struct journal *j, struct chunk *c, unsigned index,
                         struct fault *fault)
{
    struct chunk *head = bins_head(b, index);
    struct chunk *after = c->fd, *before = c->bk;

    if (unlikely((after != head && !bins_in_range(b, after)) || after->bk != c))
        return bins_damaged(fault, &c->fd);
    if (unlikely((before != head && !bins_in_range(b, before)) || before->fd != c))
        return bins_damaged(fault, &c->bk);
    if (after == before)
        journal_store(j, &b->small_map, b->small_map & ~((size_t)1 << index));
    journal_store(j, &after->bk, before);
    journal_store(j, &before->fd, after);
    return true;
}

/* What one chunk adds to `content`. */
static inline size_t content_of(size_t size)
{
    return ((size_t)1 << BINS_BYTES_BITS) + size / CHUNK_ALIGN;
}

static inline void count_inserted(struct bins *b, struct journal *j, size_t size)
{
    size_t content;

    if (unlikely(__builtin_add_overflow(b->content, content_of(size), &content)))
        journal_store(j, &b->content_wraps, b->content_wraps + 1);
    journal_store(j, &b->content, content);
}

static inline void count_removed(struct bins *b, struct journal *j, size_t size)
{
    size_t content;

    if (unlikely(__builtin_sub_overflow(b->content, content_of(size), &content)))
        journal_store(j, &b->content_wraps, b->content_wraps - 1);
    journal_store(j, &b->content, content);
}

bool bins_insert(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                 struct fault *fault)
{
    count_inserted(b, j, size);
    if (size >= BINS_LARGE_FROM)
        return bins_tree_insert(b, j, c, size, fault);
    small_insert(b, j, c, bins_small_index(size));
    return true;
}

bool bins_remove(struct bins *b, struct journal *j, struct chunk *c, size_t size,
                 struct fault *fault)
{
    count_removed(b, j, size);
    if (size >= BINS_LARGE_FROM)
        return bins_tree_remove(b, j, c, size, fault);
    return small_remove(b, j, c, bins_small_index(size), fault);
}
