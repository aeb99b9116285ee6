/* segment.c - taking runs of granules and giving them back. */
#include "segment/segment_map.h"

#include <assert.h>

#include "shm/shm.h"

static void store_word(struct segment_map *map, size_t granule, word flags, size_t value)
{
    word kept = granule_load(map, granule) & COMMITTED;

    journal_store(&map->journal, &map->level[0][granule], granule_word(flags, value) | kept);
}

static void mark_free(struct segment_map *map, struct granule_run run)
{
    store_word(map, run.first, FREE | FIRST, run.count);
    if (run.count > 1)
        store_word(map, run_end(run) - 1, FREE, run.count);
}

static void mark_taken(struct segment_map *map, struct granule_run run, word flags,
                       segment_owner_id owner)
{
    store_word(map, run.first, flags, owner);
    if (run.count > 1)
        store_word(map, run_end(run) - 1, flags, owner);
}

/* A granule at the end of a run comes to lie inside a free run, or beyond `used`. */
static void mark_inner(struct segment_map *map, size_t granule)
{
    store_word(map, granule, 0, 0);
}

/* ---- taking ---------------------------------------------------------------------------------- */

/* Takes the run out of the free run that begins at `first`, or out of the granules beyond `used`.
 * What is left before and behind the run becomes free runs. */
static void cut_from_free(struct segment_map *map, size_t first, struct granule_run run, word flags,
                          segment_owner_id owner)
{
    struct granule_run lead = {first, run.first - first}, rest = {run_end(run), 0};

    if (first < map->used)
        rest.count = first + granule_value(granule_load(map, first)) - rest.first;
    else
        journal_store(&map->journal, &map->used, rest.first);
    mark_taken(map, run, flags, owner);
    if (lead.count > 0)
        mark_free(map, lead);
    if (rest.count > 0)
        mark_free(map, rest);
    segment_index_update(map, first);
    if (rest.count > 0)
        segment_index_update(map, rest.first);
}

static void set_pending(struct journal *j, struct run *pending, char *start, size_t bytes)
{
    journal_store(j, &pending->start, bytes > 0 ? start : NULL);
    journal_store(j, &pending->bytes, bytes);
}

static void count_taken(struct segment_map *map, struct granule_run run, size_t had_memory)
{
    struct journal *j = &map->journal;
    size_t committed = map->committed + run.count - had_memory;

    journal_store(j, &map->committed, committed);
    journal_store(j, &map->retained, map->retained - had_memory);
    if (committed > map->committed_most)
        journal_store(j, &map->committed_most, committed);
    segment_note_footprint(map);
}

/* Makes sure that the run may be committed and has words. The words' memory counts, too: so the
 * limit is checked again once they are committed. */
static bool make_room(struct segments *s, struct granule_run run, size_t had_memory)
{
    const struct segment_map *map = s->map;
    size_t more = run.count - had_memory;

    return segment_excess(map, more, 0) <= map->retained - had_memory &&
           shm_may_commit(s->backend, more << GRANULE_SHIFT) &&
           segment_make_ready(s, run_end(run)) &&
           segment_excess(map, more, 0) <= map->retained - had_memory &&
           segment_release_retained(s, segment_excess(map, more, 0), run);
}

/* `first`: where the free run begins of which the run is a part. */
static bool take_run(struct segments *s, size_t first, struct granule_run run,
                     segment_owner_id owner, enum run_kind kind, struct run *pending)
{
    struct segment_map *map = s->map;
    struct journal *j = &map->journal;
    word flags = kind == RUN_SEGMENT ? TAKEN | CHUNKS : TAKEN | LARGE;
    size_t had_memory = segment_memory(map, run).committed;

    if (!make_room(s, run, had_memory))
        return false;
    segment_note(&map->rewriting, run);
    segment_rewrite_inner(map, run, granule_word(flags, owner));
    cut_from_free(map, first, run, flags, owner);
    count_taken(map, run, had_memory);
    if (PLANTED(RUN_TAKEN_BEFORE_PENDING))
        journal_commit(j);
    set_pending(j, pending, run_address(map, run), run_bytes(run));
    journal_store(j, &map->rewriting.count, 0);
    journal_commit(j);
    return true;
}

/* Where the lowest free run of at least n granules begins. */
static size_t find_lowest(const struct segment_map *map, size_t n)
{
    size_t first = segment_index_find(map, n);

    if (first != NO_GRANULE)
        return first;
    return n <= map->granules - map->used ? map->used : NO_GRANULE;
}

/* How many granules to skip from `first` on until one ends at that alignment. */
static size_t skip_to_aligned(const struct segment_map *map, size_t first, size_t alignment)
{
    uintptr_t end = (uintptr_t)map->base + ((first + 1) << GRANULE_SHIFT);

    return alignment <= GRANULE ? 0 : (-end & (alignment - 1)) >> GRANULE_SHIFT;
}

/* Finds the free run in which n granules get their place; *start is where the place begins. */
static size_t find_place(const struct segment_map *map, size_t n, struct run_place place,
                         size_t *start)
{
    size_t room = place.room >> GRANULE_SHIFT, skip = 0;
    size_t slack = place.alignment <= GRANULE ? 0 : (place.alignment >> GRANULE_SHIFT) - 1;
    size_t first = room == 0 ? NO_GRANULE : find_lowest(map, n + slack + 2 * room);

    if (first == NO_GRANULE)
        first = find_lowest(map, n + slack + room);
    else if (first > 0 && (granule_load(map, first - 1) & LARGE) != 0)
        skip = room;
    *start = first;
    if (first != NO_GRANULE)
        *start += skip + skip_to_aligned(map, first + skip, place.alignment);
    return first;
}

bool segment_take(struct segments *s, segment_owner_id owner, enum run_kind kind, size_t bytes,
                  struct run *pending)
{
    return segment_take_placed(s, owner, kind, bytes, (struct run_place){0}, pending);
}

/* Whether run and place together are no larger than a region could be. */
static bool is_countable(size_t bytes, struct run_place place)
{
    const size_t most = SIZE_MAX / 8;

    return bytes <= most && place.room <= most && place.alignment <= most;
}

bool segment_take_placed(struct segments *s, segment_owner_id owner, enum run_kind kind,
                         size_t bytes, struct run_place place, struct run *pending)
{
    assert(owner > 0 && owner <= SEGMENT_OWNER_MOST);
    assert(bytes % GRANULE == 0 && place.room % GRANULE == 0);
    if (bytes == 0 || !is_countable(bytes, place) || !segment_enter(s))
        return false;
    assert(pending->bytes == 0);

    struct granule_run run = {.count = bytes >> GRANULE_SHIFT};
    size_t first = find_place(s->map, run.count, place, &run.first);
    bool taken = first != NO_GRANULE && take_run(s, first, run, owner, kind, pending);

    segment_leave(s);
    return taken;
}

/* Whether the run is free and begins where a free run begins. */
static bool begins_free(const struct segment_map *map, struct granule_run run)
{
    if (run.first > map->used)
        return false;
    if (run.first == map->used)
        return run.count <= map->granules - map->used;

    word w = granule_load(map, run.first);

    return (w & FIRST) != 0 && run.count <= granule_value(w);
}

bool segment_take_at(struct segments *s, segment_owner_id owner, enum run_kind kind, void *start,
                     size_t bytes, struct run *pending)
{
    struct granule_run run = granules_of(s->map, (struct run){start, bytes});

    assert(owner > 0 && owner <= SEGMENT_OWNER_MOST);
    assert(bytes % GRANULE == 0 && (uintptr_t)start % GRANULE == 0);
    if (bytes == 0 || !segment_enter(s))
        return false;
    assert(pending->bytes == 0);

    bool taken = begins_free(s->map, run) && take_run(s, run.first, run, owner, kind, pending);

    segment_leave(s);
    return taken;
}

/* ---- giving back ----------------------------------------------------------------------------- */

/* Joins the run with the free runs that border on it; or, if that reaches `used`, moves `used` down
 * to where the joined run begins. */
static void join_free(struct segment_map *map, struct granule_run run)
{
    size_t end = run_end(run);
    word before = run.first > 0 ? granule_load(map, run.first - 1) : 0;
    word after = end < map->used ? granule_load(map, end) : 0;
    struct granule_run whole = run;

    mark_inner(map, run.first);
    mark_inner(map, end - 1);
    if ((before & FREE) != 0) {
        whole.first -= granule_value(before);
        whole.count += granule_value(before);
        mark_inner(map, whole.first);
        mark_inner(map, run.first - 1);
    }
    if ((after & FREE) != 0) {
        whole.count += granule_value(after);
        mark_inner(map, end);
    }
    if (run_end(whole) == map->used)
        journal_store(&map->journal, &map->used, whole.first);
    else
        mark_free(map, whole);
    segment_index_update(map, whole.first);
    if ((after & FREE) != 0)
        segment_index_update(map, end);
}

static void count_given(struct segment_map *map, struct granule_run run, size_t has_memory)
{
    struct journal *j = &map->journal;

    journal_store(j, &map->committed, map->committed - (run.count - has_memory));
    journal_store(j, &map->retained, map->retained + has_memory);
    if (has_memory > 0 && run_end(run) > map->retained_end)
        journal_store(j, &map->retained_end, run_end(run));
}

/* Ends the holes of a run: by now the other pages of their granules count as having no memory,
 * either. The run's inner words, which say which pages were holes, are logged one by one. */
static void end_holes(struct segment_map *map, struct granule_run run, word *holes)
{
    struct journal *j = &map->journal;
    size_t count = segment_holes_in(map, run);

    journal_store(j, &map->holes, map->holes - count);
    if (holes != NULL)
        journal_store(j, holes, *holes - count);
    for (size_t i = run.first + 1; i + 1 < run_end(run); i++)
        mark_inner(map, i);
}

/* The run is at the start or the end of what is pending. */
static void give_run(struct segment_map *map, struct granule_run run, struct run_memory memory,
                     struct run *pending, word *holes)
{
    struct journal *j = &map->journal;
    size_t has_memory = memory.committed;
    bool lead = pending->start == run_address(map, run);

    if (memory.holed) {
        end_holes(map, run, holes);
    } else {
        segment_note(&map->rewriting, run);
        segment_rewrite_inner(map, run, 0);
    }
    join_free(map, run);
    count_given(map, run, has_memory);
    set_pending(j, pending, lead ? pending->start + run_bytes(run) : pending->start,
                pending->bytes - run_bytes(run));
    journal_store(j, &map->rewriting.count, 0);
    journal_commit(j);
}

/* Which part of a pending run to give back next: what follows `keep`, then what precedes it. */
static struct granule_run next_piece(const struct segment_map *map, struct run pending,
                                     struct run keep)
{
    struct granule_run all = granules_of(map, pending);
    struct granule_run kept = granules_of(map, keep);

    if (all.count == 0 || kept.count == 0)
        return all;
    if (run_end(kept) < run_end(all))
        return (struct granule_run){run_end(kept), run_end(all) - run_end(kept)};
    return (struct granule_run){all.first, kept.first - all.first};
}

/* Shortens the piece to HOLED_MOST granules, at the same end of what is pending. */
static struct granule_run shorten(const struct segment_map *map, struct granule_run piece,
                                  struct run pending)
{
    if (piece.count <= HOLED_MOST)
        return piece;
    if (pending.start != run_address(map, piece))
        piece.first = run_end(piece) - HOLED_MOST;
    piece.count = HOLED_MOST;
    return piece;
}

static bool retains_by_use(const struct segments *s)
{
    return word_peek(&s->policy->retain_granules) == POLICY_BY_USE;
}

static bool must_release(const struct segments *s, struct granule_run piece,
                         struct run_memory memory)
{
    const struct segment_map *map = s->map;
    size_t most = segment_may_retain(s, map->committed - map->retained - piece.count);
    /* With POLICY_BY_USE the piece stays, and the highest retained granules go instead: runs are
     * taken from the lowest on. */
    size_t before = retains_by_use(s) ? 0 : map->retained;
    bool partly =
        map->lazy && memory.committed > 0 && (granule_load(map, piece.first) & LARGE) != 0;

    return memory.unsettled || partly ||
           (memory.committed > 0 && (memory.holed || before + memory.committed > most));
}

/* How many granules are retained above segment_may_retain(). With POLICY_BY_USE, less may be
 * retained when less is in use. */
static size_t retained_above(const struct segments *s)
{
    const struct segment_map *map = s->map;
    size_t most = segment_may_retain(s, map->committed - map->retained);

    return retains_by_use(s) && map->retained > most ? map->retained - most : 0;
}

/* Releases the lock, and then, in further holds of the lock, what is retained_above(). */
static void leave_retaining(struct segments *s)
{
    size_t keep = s->map->retained - retained_above(s);
    bool more = keep < s->map->retained;

    segment_leave(s);
    if (more)
        segment_release_to(s, keep, EXCESS_MOST);
}

void segment_give(struct segments *s, struct run *pending, struct run keep)
{
    segment_give_holed(s, pending, keep, NULL);
}

void segment_give_holed(struct segments *s, struct run *pending, struct run keep, word *holes)
{
    size_t released = NO_GRANULE; /* where the piece begins whose release was tried already */

    if (!segment_enter(s))
        return;
    for (;;) {
        struct granule_run piece = next_piece(s->map, *pending, keep);

        if (piece.count == 0)
            break;
        if (holes != NULL && *holes != 0 && (granule_load(s->map, piece.first) & CHUNKS) != 0)
            piece = shorten(s->map, piece, *pending);

        struct run_memory memory = segment_memory(s->map, piece);
        if (piece.first == released || !must_release(s, piece, memory)) {
            give_run(s->map, piece, memory, pending, holes);
            continue;
        }
        segment_leave(s);
        segment_release_taken(s, piece);
        released = piece.first;
        if (!segment_enter(s))
            return;
    }
    leave_retaining(s);
}

/* ---- whose is it ----------------------------------------------------------------------------- */

size_t segment_ready(const struct segment_map *map)
{
    return __atomic_load_n(&map->ready, __ATOMIC_RELAXED);
}

/* A granule's word, read without the lock; 0 for granules that are not, or not yet, the map's. */
static word peek(const struct segment_map *map, size_t granule)
{
    if (granule >= segment_ready(map))
        return 0;
    return granule_load(map, granule);
}

segment_owner_id segment_owner(const struct segment_map *map, const void *address,
                               enum run_kind *kind)
{
    word w = peek(map, granule_of(map, address));

    if (kind != NULL)
        *kind = (w & LARGE) == 0 ? RUN_SEGMENT : (w & START) != 0 ? RUN_LARGE : RUN_LARGE_TAIL;
    return (w & TAKEN) != 0 ? (segment_owner_id)granule_value(w) : 0;
}

bool segment_holds(const struct segment_map *map, const void *start, size_t bytes)
{
    size_t all = map->granules << GRANULE_SHIFT;
    size_t offset = (uintptr_t)start - (uintptr_t)map->base;

    return offset <= all && bytes <= all - offset;
}

bool segment_has_memory_of(const struct segment_map *map, segment_owner_id owner,
                           const void *address)
{
    word w = peek(map, granule_of(map, address));

    return (w & (TAKEN | COMMITTED)) == (TAKEN | COMMITTED) && granule_value(w) == owner;
}

bool segment_is_large_block(const struct segment_map *map, segment_owner_id owner,
                            const void *start, const void *end)
{
    word tail = granule_word(TAKEN | LARGE, owner);
    size_t first = granule_of(map, start);
    size_t beyond = granule_of(map, end);

    if (((uintptr_t)end & (GRANULE - 1)) != 0 || beyond <= first)
        return false;
    if (beyond > segment_ready(map) || (granule_load(map, first) & ~MEMORY) != (tail | START))
        return false;

    const word *words = map->level[0];
    word others = 0;

    for (size_t i = first + 1; i < beyond; i++)
        others |= (word_peek(&words[i]) & ~MEMORY) ^ tail;
    return others == 0 && (peek(map, beyond) & ~MEMORY) != tail;
}

const word *segment_words(const struct segment_map *map)
{
    return map->level[0];
}

bool segment_has_chunks(const struct segment_map *map, const void *address)
{
    return (peek(map, granule_of(map, address)) & SEGMENT_CHUNKS) != 0;
}
