/* memory.c - putting memory behind granules and taking it away.
 *
 * A granule has memory (COMMITTED) or none, or it is UNSETTLED while the backend works on it. A
 * thread that dies meanwhile leaves it UNSETTLED. Then its memory is released, which may be
 * repeated, by the thread that gives the run back, or, for free granules, by the next thread that
 * takes the map's lock.
 */
#include "segment/segment_map.h"

/* NB: plain loads, so that several words are loaded at a time: each word is stored whole, whoever
 * stores it. */
struct run_memory segment_memory(const struct segment_map *map, struct granule_run run)
{
    const word *words = map->level[0];
    size_t end = run_end(run) < map->ready ? run_end(run) : map->ready;
    size_t committed = 0;
    word any = 0;

    for (size_t i = run.first; i < end; i++) {
        word w = word_peek(&words[i]);

        committed += w & COMMITTED;
        any |= w;
    }
    return (struct run_memory){committed, (any & UNSETTLED) != 0, (any & HOLES) != 0};
}

static void set_memory(struct segment_map *map, struct granule_run run, word memory)
{
    compiler_barrier();
    for (size_t i = run.first; i < run_end(run); i++)
        granule_store(map, i, (granule_load(map, i) & ~MEMORY) | memory);
    compiler_barrier();
}

/* A granule's memory state. All granules with holes share a state of their own. */
static word memory_state(const struct segment_map *map, size_t granule)
{
    word w = granule_load(map, granule);

    return (w & MEMORY) | ((w & HOLES) != 0 ? HOLES : 0);
}

/* The granules from `first` on that are all in the same state. */
static struct granule_run same_memory(const struct segment_map *map, size_t first, size_t end)
{
    word memory = memory_state(map, first);
    struct granule_run same = {first, 1};

    while (run_end(same) < end && memory_state(map, run_end(same)) == memory)
        same.count++;
    return same;
}

static bool commit_bytes(struct segments *s, char *start, size_t bytes)
{
    return s->backend->commit(s->backend, s->mapping, start, bytes) == 0;
}

/* Commits the first granule, in which a block's header may lie, and the last page, so that the file
 * reaches that far. */
static bool commit_ends(struct segments *s, struct granule_run run)
{
    char *start = run_address(s->map, run);

    if (!commit_bytes(s, start, GRANULE))
        return false;
    if (run.count == 1 || commit_bytes(s, start + run_bytes(run) - s->map->page, s->map->page))
        return true;
    s->backend->release(s->backend, s->mapping, start, GRANULE);
    return false;
}

static bool commit_run(struct segments *s, struct granule_run run, bool lazily)
{
    set_memory(s->map, run, UNSETTLED);

    bool done =
        lazily ? commit_ends(s, run) : commit_bytes(s, run_address(s->map, run), run_bytes(run));

    set_memory(s->map, run, done ? COMMITTED : 0);
    return done;
}

bool segment_commit(struct segments *s, enum run_kind kind, struct run pending)
{
    struct granule_run run = granules_of(s->map, pending);
    struct granule_run same;
    bool lazily = s->map->lazy && kind != RUN_SEGMENT;
    bool has_all = segment_memory(s->map, run).committed == run.count;

    for (size_t i = run.first; !has_all && i < run_end(run); i = run_end(same)) {
        same = same_memory(s->map, i, run_end(run));
        if ((granule_load(s->map, i) & COMMITTED) == 0 && !commit_run(s, same, lazily))
            return false;
    }
    if (kind == RUN_LARGE && run.count > 0)
        granule_store(s->map, run.first, granule_load(s->map, run.first) | START);
    return true;
}

size_t segment_fresh(const struct segments *s, struct run pending)
{
    struct granule_run run = granules_of(s->map, pending);
    size_t fresh = 0;

    while (fresh < run.count && (granule_load(s->map, run_end(run) - 1 - fresh) & MEMORY) == 0)
        fresh++;
    return fresh << GRANULE_SHIFT;
}

/* `otherwise`: the state of the granules' memory if the backend fails. */
static bool release_run(struct segments *s, struct granule_run run, word otherwise)
{
    set_memory(s->map, run, UNSETTLED);

    bool done =
        s->backend->release(s->backend, s->mapping, run_address(s->map, run), run_bytes(run)) == 0;

    set_memory(s->map, run, done ? 0 : otherwise);
    return done;
}

void segment_release_taken(struct segments *s, struct granule_run run)
{
    struct granule_run same;

    for (size_t i = run.first; i < run_end(run); i = run_end(same)) {
        word state = memory_state(s->map, i);

        same = same_memory(s->map, i, run_end(run));
        /* UNSETTLED memory may have been released by the dead already, and a part may be
         * missing where there are holes: then a failure does not show that all of it is there. */
        if ((state & MEMORY) != 0)
            release_run(s, same, (state & HOLES) != 0 ? 0 : state & COMMITTED);
    }
}

static void count_released(struct segment_map *map)
{
    struct journal *j = &map->journal;

    journal_store(j, &map->committed, map->committed - map->releasing.count);
    journal_store(j, &map->retained, map->retained - map->releasing.count);
    journal_store(j, &map->releasing.count, 0);
    journal_commit(j);
}

/* Whether the run can be a note of the dead: the granules are free, and counted as having
 * memory. */
static bool is_releasable(const struct segment_map *map, struct granule_run run)
{
    if (!run_is_ready(map, run) || run.count > map->retained || run.count > map->committed)
        return false;
    for (size_t i = run.first; i < run_end(run); i++)
        if ((granule_load(map, i) & TAKEN) != 0)
            return false;
    return true;
}

bool segment_finish_release(struct segments *s)
{
    struct granule_run run = s->map->releasing;

    if (run.count == 0)
        return true;
    if (!is_releasable(s->map, run))
        return false;
    release_run(s, run, 0);
    count_released(s->map);
    return true;
}

static bool release_slice(struct segments *s, struct granule_run slice)
{
    struct segment_map *map = s->map;

    if (!PLANTED(RELEASED_WITHOUT_NOTE))
        segment_note(&map->releasing, slice);
    if (!release_run(s, slice, COMMITTED)) {
        map->releasing.count = 0;
        compiler_barrier();
        return false;
    }
    count_released(map);
    return true;
}

/* The highest retained granules below `end` and outside `but`, at most `most` of them; count 0:
 * there are none. */
static struct granule_run highest_retained(const struct segment_map *map, size_t end, size_t most,
                                           struct granule_run but)
{
    while (end > 0 && !granule_is_retained(map, end - 1))
        end--;
    if (end > but.first && end <= run_end(but))
        return highest_retained(map, but.first, most, (struct granule_run){0, 0});

    struct granule_run run = {end, 0};

    while (run.first > 0 && run.count < most && run.first != run_end(but) &&
           granule_is_retained(map, run.first - 1)) {
        run.first--;
        run.count++;
    }
    return run;
}

/* `most`: how many granules in one call of the backend. */
static bool release_retained(struct segments *s, size_t count, size_t most, struct granule_run but)
{
    size_t end = s->map->retained_end;

    while (count > 0) {
        if (most > count)
            most = count;
        struct granule_run slice = highest_retained(s->map, end, most, but);

        if (slice.count == 0 || !release_slice(s, slice))
            return false;
        count -= slice.count;
        end = slice.first;
        if (end >= run_end(but))
            s->map->retained_end = end;
    }
    return true;
}

bool segment_release_retained(struct segments *s, size_t count, struct granule_run but)
{
    return release_retained(s, count, SLICE_MOST, but);
}

size_t segment_release(struct segments *s, size_t keep)
{
    return segment_release_to(s, keep >> GRANULE_SHIFT, SLICE_MOST);
}

size_t segment_release_to(struct segments *s, size_t keep, size_t slice)
{
    const struct segment_map *map = s->map;
    const struct granule_run none = {0, 0};
    size_t released = 0;
    bool more = true;

    /* One slice in each hold of the lock, so that nobody waits for long. */
    while (more && segment_enter(s)) {
        size_t before = map->retained;
        size_t excess = before > keep ? before - keep : 0;

        more = excess > 0 && release_retained(s, excess < slice ? excess : slice, slice, none);
        released += before - map->retained;
        segment_leave(s);
    }
    return released << GRANULE_SHIFT;
}
