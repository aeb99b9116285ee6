/* map.c - the map as a whole: its layout, its lock and what it may commit and retain. */
#define _GNU_SOURCE
#include "segment/segment_map.h"
#include "sync/page.h"

#include <errno.h>

static const struct granule_run no_run = {0, 0};

size_t segment_map_committed_bytes(void)
{
    return bits_round_up(sizeof(struct segment_map), page_size());
}

/* Bytes of a level that are committed, or would be, when the first `granules` are ready. */
static size_t level_bytes(size_t level, size_t granules, size_t page)
{
    return bits_round_up(segment_index_nodes(level, granules) * WORD, page);
}

static size_t levels_for(size_t granules)
{
    size_t levels = 0;

    while (segment_index_nodes(levels, granules) > FANOUT)
        levels++;
    return levels;
}

/* Bytes of a level that lies behind the struct. NB: the last group is whole, as each is read. */
static size_t behind_bytes(size_t level, size_t granules)
{
    return bits_round_up(segment_index_nodes(level, granules), FANOUT) * WORD;
}

/* How many levels, counted from the words, have pages of their own. The others are so small that
 * they lie behind the struct, in pages that are committed with it. */
static size_t levels_on_pages(size_t granules)
{
    size_t room = segment_map_committed_bytes() - sizeof(struct segment_map);
    size_t levels = levels_for(granules) + 1;

    for (; levels > 1; levels--) {
        size_t bytes = behind_bytes(levels - 1, granules);

        if (bytes > room)
            break;
        room -= bytes;
    }
    return levels;
}

static size_t bytes_with_levels(size_t granules, size_t ready, size_t page)
{
    size_t bytes = segment_map_committed_bytes();

    for (size_t level = 0; level < levels_on_pages(granules); level++)
        bytes += level_bytes(level, ready, page);
    return bytes;
}

size_t segment_map_bytes(size_t granules)
{
    return bytes_with_levels(granules, granules, page_size());
}

char *segment_lay_out(struct segment_map *map, void *place, size_t granules)
{
    char *behind = (char *)place + sizeof(struct segment_map);
    char *next = (char *)place + segment_map_committed_bytes();
    size_t on_pages = levels_on_pages(granules);

    map->page = page_size();
    map->levels = levels_for(granules);
    for (size_t level = 0; level < on_pages; level++) {
        map->level[level] = (word *)(void *)next;
        next += level_bytes(level, granules, map->page);
    }
    for (size_t level = on_pages; level <= map->levels; level++) {
        map->level[level] = (word *)(void *)behind;
        behind += behind_bytes(level, granules);
    }
    return next;
}

/* The highest level that has pages of its own, and at least the struct. */
const char *segment_levels_end(const struct segment_map *map, size_t ready)
{
    const char *end = (const char *)map + segment_map_committed_bytes();
    size_t on_pages = levels_on_pages(map->granules);

    for (size_t level = 0; level < on_pages && ready > 0; level++)
        end = (const char *)map->level[level] + level_bytes(level, ready, map->page);
    return end;
}

static size_t granules_for(size_t bytes)
{
    size_t granules = (bytes >> GRANULE_SHIFT) + ((bytes & (GRANULE - 1)) != 0);

    return granules > SIZE_MAX >> GRANULE_SHIFT ? SIZE_MAX : granules;
}

int segment_init(void *place, void *base, size_t granules, size_t limit)
{
    struct segment_map *map = place;

    if (granules == 0 || granules > GRANULES_MOST)
        return EINVAL;
    *map = (struct segment_map){0};
    map->base = base;
    map->granules = granules;
    map->limit = granules_for(limit);
    segment_lay_out(map, place, granules);
    if (map->page <= GRANULE &&
        (HOLES >> HOLE_SHIFT & granule_bits((unsigned)(GRANULE / map->page))) ==
            granule_bits((unsigned)(GRANULE / map->page)))
        map->hole_pages = GRANULE / map->page;
    return lock_init(&map->lock, LOCK_GRANULE_MAP);
}

void segment_set_lazy(struct segment_map *map)
{
    map->lazy = 1;
}

bool segment_might_take(const struct segment_map *map, size_t bytes)
{
    size_t granules = granules_for(bytes);

    return granules <= map->granules && granules <= word_peek(&map->limit);
}

void segment_note(struct granule_run *note, struct granule_run run)
{
    note->first = run.first;
    compiler_barrier();
    note->count = run.count;
    compiler_barrier();
}

void segment_rewrite_inner(struct segment_map *map, struct granule_run run, word value)
{
    word *words = map->level[0];

    for (size_t i = run.first + 1; i + 1 < run_end(run); i++)
        __atomic_store_n(&words[i], (word_peek(&words[i]) & COMMITTED) | value, __ATOMIC_RELAXED);
    compiler_barrier();
}

/* Whether the map can be used; if not, the lock is released. */
static bool is_usable(struct segments *s)
{
    if (likely(!s->map->damaged))
        return true;
    lock_release(&s->map->lock);
    return false;
}

bool segment_enter(struct segments *s)
{
    switch (lock_acquire(&s->map->lock)) {
    case LOCK_ACQUIRED:
        return is_usable(s);
    case LOCK_OWNER_DIED:
        segment_undo(s);
        lock_repaired(&s->map->lock);
        return is_usable(s);
    default:
        return false;
    }
}

void segment_leave(struct segments *s)
{
    lock_release(&s->map->lock);
}

bool segment_is_damaged(const struct segment_map *map)
{
    return word_peek(&map->damaged) != 0;
}

bool segment_settle(struct segments *s)
{
    if (!segment_enter(s))
        return segment_is_damaged(s->map); /* then it never changes again */
    segment_leave(s);
    return true;
}

bool segment_change(struct segments *s, void (*change)(struct journal *j, void *context),
                    void *context)
{
    if (!segment_enter(s))
        return false;
    change(&s->map->journal, context);
    journal_commit(&s->map->journal);
    segment_leave(s);
    return true;
}

size_t segment_own_bytes(const struct segment_map *map)
{
    return bytes_with_levels(map->granules, map->ready, map->page);
}

static void count_ready(struct segment_map *map, size_t ready)
{
    size_t before = segment_own_bytes(map);

    journal_store(&map->journal, &map->ready, ready);
    if (map->counts_overhead)
        journal_store(&map->journal, &map->overhead,
                      map->overhead + segment_own_bytes(map) - before);
    segment_note_footprint(map);
    journal_commit(&map->journal);
}

/* Commits from the top level down: the words, at level 0, need by far the most memory, so they are
 * the likeliest to fail. What was committed until then serves the next try. */
static bool commit_levels(struct segments *s, size_t ready)
{
    struct segment_map *map = s->map;

    for (size_t level = levels_on_pages(map->granules); level-- > 0;) {
        size_t from = level_bytes(level, map->ready, map->page);
        size_t to = level_bytes(level, ready, map->page);
        char *start = (char *)map->level[level] + from;

        if (to > from && s->backend->commit(s->backend, s->mapping, start, to - from) != 0)
            return false;
    }
    count_ready(map, ready);
    return true;
}

/* Rounds up to fill the last page of words, but to no more than there are granules. */
static size_t round_ready(const struct segment_map *map, size_t ready)
{
    ready = bits_round_up(ready, map->page / WORD);
    return ready < map->granules ? ready : map->granules;
}

bool segment_make_ready(struct segments *s, size_t end)
{
    size_t ready = s->map->ready;
    size_t ahead = ready < READY_AT_FIRST / 2 ? READY_AT_FIRST : 2 * ready;

    if (end <= ready)
        return true;
    if (end < ahead && commit_levels(s, round_ready(s->map, ahead)))
        return true;
    return commit_levels(s, round_ready(s->map, end));
}

size_t segment_memory_bytes(const struct segment_map *map)
{
    return (map->committed << GRANULE_SHIFT) - map->holes * map->page;
}

void segment_note_footprint(struct segment_map *map)
{
    size_t footprint = segment_memory_bytes(map) + map->overhead;

    if (footprint > map->footprint_most)
        journal_store(&map->journal, &map->footprint_most, footprint);
}

size_t segment_most(const struct segment_map *map, size_t more)
{
    size_t overhead = map->counts_overhead ? granules_for(word_peek(&map->overhead) + more) : 0;
    size_t limit = word_peek(&map->limit);

    if (limit == SIZE_MAX)
        return SIZE_MAX;
    return limit > overhead ? limit - overhead : 0;
}

static size_t excess_above(const struct segment_map *map, size_t granules, size_t holes,
                           size_t most)
{
    size_t all = word_peek(&map->holes);
    size_t without = map->hole_pages != 0 && all >= holes ? (all - holes) / map->hole_pages : 0;
    size_t committed = word_peek(&map->committed) + granules - without;

    return committed > most ? committed - most : 0;
}

size_t segment_excess(const struct segment_map *map, size_t granules, size_t holes)
{
    return excess_above(map, granules, holes, segment_most(map, 0));
}

size_t segment_may_retain(const struct segments *s, size_t taken)
{
    const struct policy *policy = s->policy;
    size_t set = word_peek(&policy->retain_granules);
    size_t most = policy->retain_least_granules, limit = s->map->limit;
    size_t of_limit = limit != SIZE_MAX ? policy_part(limit, policy->retain_limit_part) : 0;
    size_t of_use = policy_part(taken, policy->retain_use_part);

    if (set != POLICY_BY_USE)
        return set;
    if (of_limit > most)
        most = of_limit;
    return of_use > most ? of_use : most;
}

void segment_count_overhead(struct segments *s, size_t bytes)
{
    s->map->overhead = s->map->footprint_most = bytes + segment_own_bytes(s->map);
    s->map->counts_overhead = 1;
}

static void count_charged(struct segment_map *map, size_t overhead, word *mark, word value)
{
    journal_store(&map->journal, &map->overhead, overhead);
    journal_store(&map->journal, mark, value);
    segment_note_footprint(map);
    journal_commit(&map->journal);
}

/* NB: the memory is committed before it is counted. A thread that dies in between leaves memory
 * that the next thread to need the place will find there. */
bool segment_charge(struct segments *s, void *place, size_t bytes, word *mark, word value)
{
    struct segment_map *map = s->map;

    if (!segment_enter(s))
        return false;

    if (*mark >= value) { /* another thread has committed it */
        segment_leave(s);
        return true;
    }

    size_t excess = excess_above(map, 0, 0, segment_most(map, bytes));
    bool done = excess <= map->retained && segment_release_retained(s, excess, no_run) &&
                s->backend->commit(s->backend, s->mapping, place, bytes) == 0;

    if (done)
        count_charged(map, map->overhead + bytes, mark, value);
    segment_leave(s);
    return done;
}

void segment_usage(struct segments *s, struct segment_usage *usage)
{
    const struct segment_map *map = s->map;

    *usage = (struct segment_usage){0};
    bool locked = segment_enter(s); /* if not, each number is read as it is now */
    usage->committed = segment_memory_bytes(map);
    usage->holes = map->holes * map->page;
    usage->committed_most = map->committed_most << GRANULE_SHIFT;
    usage->retained = map->retained << GRANULE_SHIFT;
    usage->used = map->used << GRANULE_SHIFT;
    usage->overhead = map->overhead;
    usage->footprint = usage->committed + usage->overhead;
    usage->footprint_most = map->footprint_most;
    usage->limit = map->limit == SIZE_MAX ? SIZE_MAX : map->limit << GRANULE_SHIFT;
    if (locked)
        segment_leave(s);
}

size_t segment_set_limit(struct segments *s, size_t bytes)
{
    size_t limit = granules_for(bytes);

    bool locked = segment_enter(s); /* if not, one store is right, too */
    __atomic_store_n(&s->map->limit, limit, __ATOMIC_RELAXED);
    if (locked)
        segment_leave(s);
    return limit == SIZE_MAX ? SIZE_MAX : limit << GRANULE_SHIFT;
}

bool segment_is_full(const struct segment_map *map, size_t bytes)
{
    size_t more = granules_for(bytes);

    return segment_excess(map, more, 0) > word_peek(&map->retained) ||
           more > map->granules - word_peek(&map->used);
}

void segment_set_retain(struct segments *s, size_t bytes)
{
    bool locked = segment_enter(s);
    word_show(&s->policy->retain_granules, bytes >> GRANULE_SHIFT);
    if (locked)
        segment_leave(s);
}
