/* check.c - every invariant of arena.h and chunk.h. */
#include "engine/arena_internal.h"

struct walk {
    const struct arena *arena;
    const struct arena_segment *last; /* in which a free chunk was looked for; may be NULL */
    struct check *check;
    size_t used;               /* chunks in use met in segments, records included */
    struct bins_totals binned; /* free chunks met in segments, without dv and top */
    bool dv_seen, top_seen;
};

/* `told`: whether the flag in the next chunk must say that c is in use. */
static void check_next_agrees(struct walk *w, const struct chunk *c, const struct chunk *next,
                              bool told)
{
    check_that(w->check, chunk_prev_in_use(next) == told,
               "arena: chunk %p and the flag after it disagree", (const void *)c);
    if (!chunk_marked_in_use(c))
        check_that(w->check, next->prev_foot == chunk_size(c),
                   "arena: free chunk %p of %zu bytes has %zu at its end", (const void *)c,
                   chunk_size(c), next->prev_foot);
}

static bool is_record(const struct arena_segment *s, const struct chunk *c)
{
    return chunk_payload(c) == (const void *)s;
}

/* Checks one chunk other than top. `before_free`: the chunk before it is free. False: its size
 * leads nowhere, or cannot be believed. */
static bool check_chunk(struct walk *w, const struct arena_segment *s, const struct chunk *c,
                        bool before_free)
{
    const struct chunk *next = chunk_next(c);
    bool in_use = chunk_marked_in_use(c);

    if (!check_that(w->check, arena_leads_on(s, c), "arena: chunk %p: head %zx leads nowhere",
                    (const void *)c, c->head))
        return false;
    if (!check_that(w->check, arena_is_sealed(w->arena, c),
                    "arena: chunk %p: head %zx has a wrong seal", (const void *)c, c->head))
        return false;
    check_that(w->check, !chunk_is_large(c) && (in_use || !chunk_is_uncached(c)),
               "arena: chunk %p: flags of head %zx", (const void *)c, c->head);
    check_that(w->check, chunk_prev_in_use(c) == !before_free,
               "arena: chunk %p: flag of the chunk before is wrong", (const void *)c);
    check_that(w->check, in_use || !before_free, "arena: free chunk %p follows a free one",
               (const void *)c);
    check_next_agrees(w, c, next, in_use && !is_record(s, c));
    w->used += in_use;
    if (in_use)
        return true;
    if (c == w->arena->dv) {
        w->dv_seen = true;
        check_that(w->check, chunk_size(c) == w->arena->dv_size,
                   "arena: victim of %zu bytes, not %zu", chunk_size(c), w->arena->dv_size);
    } else {
        bins_totals_add(&w->binned, c, chunk_size(c));
    }
    return true;
}

static void check_top(struct walk *w, const struct arena_segment *s)
{
    const struct arena *a = w->arena;

    w->top_seen = true;
    check_that(w->check, s == &a->segment, "arena: top is not in the newest segment");
    check_that(w->check, a->top->head == (a->top_size | PINUSE),
               "arena: head of top is %zx, not %zx", a->top->head, a->top_size | PINUSE);
    check_that(w->check, (char *)a->top + a->top_size + ARENA_FOOT == s->base + s->size,
               "arena: top does not end at its segment's foot");
}

static void check_segment(struct walk *w, const struct arena_segment *s)
{
    const struct chunk *c = arena_first_chunk(s);
    bool before_free = false;

    while (c != w->arena->top && !arena_is_fence(s, c)) {
        if (!check_chunk(w, s, c, before_free))
            return;
        before_free = !chunk_marked_in_use(c);
        c = chunk_next(c);
    }
    if (c == w->arena->top) {
        check_top(w, s);
        return;
    }
    check_that(w->check, s != &w->arena->segment, "arena: the newest segment ends without top");
}

/* Checks the list of segments, and that each record is in its own segment's foot. Returns the sum
 * of sizes. */
static size_t check_segments(struct walk *w)
{
    const struct arena *a = w->arena;
    const struct arena_segment *s = &a->segment, *older;
    size_t sum = 0, left = a->footprint, closed = 0, fences = 0;

    for (;; s = older) {
        check_segment(w, s);
        sum += s->size;
        older = arena_older(a, s, &left, NULL);
        if (older == NULL)
            break;
        closed++;
        fences += arena_fence_bytes(older);
    }
    check_that(w->check, a->closed == closed && a->fence_bytes == fences,
               "arena: %zu older segments with %zu bytes of fences, counted as %zu with %zu",
               closed, fences, a->closed, a->fence_bytes);
    check_that(w->check, s->next == NULL, "arena: segment record %p is damaged",
               (const void *)s->next);
    return sum;
}

static bool has_room(const struct arena_segment *s, const struct chunk *c)
{
    return s != NULL && arena_segment_holds(s, c) &&
           (uintptr_t)s->base + s->size - (uintptr_t)c >= sizeof *c;
}

/* Answers bins_check(). The range of the bins spans all segments; addresses between segments are
 * not the arena's and may not even be memory. */
static bool holds(void *context, const struct chunk *c)
{
    struct walk *w = context;

    if (!has_room(w->last, c))
        w->last = arena_segment_of(w->arena, c);
    return has_room(w->last, c);
}

static void check_empty(const struct arena *a, struct check *check)
{
    check_that(check, a->top == NULL && a->top_size == 0 && a->dv_size == 0,
               "arena: chunks without a segment");
    check_that(check, a->bins.small_map == 0 && a->bins.tree_map == 0,
               "arena: bins without a segment");
}

void arena_check(const struct arena *a, struct check *check)
{
    struct walk w = {.arena = a, .check = check};
    struct bins_totals totals = {0};
    size_t sum = 0;

    check_that(check, journal_is_empty(&a->journal), "arena: a change is under way");
    check_that(check, a->pending.bytes == 0, "arena: memory is on its way");
    if (a->segment.size == 0) {
        check_empty(a, check);
    } else {
        sum = check_segments(&w);
        check_that(check, w.top_seen, "arena: top is in no segment");
        check_that(check, w.dv_seen == (a->dv_size != 0), "arena: victim is in no segment");
    }
    bins_check(&a->bins, holds, &w, check, &totals);
    check_that(check,
               totals.count == w.binned.count && totals.bytes == w.binned.bytes &&
                   totals.fingerprint == w.binned.fingerprint,
               "arena: %zu free chunks (%zu bytes) in segments, %zu (%zu) in bins", w.binned.count,
               w.binned.bytes, totals.count, totals.bytes);
    check_that(check, w.used == a->used_chunks + a->closed,
               "arena: %zu chunks in use, %zu of them records; counted are %zu others", w.used,
               a->closed, a->used_chunks);
    check_that(check, sum + a->large_bytes == a->footprint,
               "arena: segments %zu and large blocks %zu are not the footprint %zu", sum,
               a->large_bytes, a->footprint);
    check_that(check, a->footprint <= a->footprint_most, "arena: footprint above its maximum");
}
