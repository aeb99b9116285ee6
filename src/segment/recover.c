/* recover.c - recovers what the dead left of a change of the map, believed only as far as it can be
 * theirs. */
#include "segment/segment_map.h"
#include "sync/report.h"

/* The run's last word, restored by the journal, says whether the run is taken and whose it is. The
 * first word must say the same. */
static bool restore_inner(struct segment_map *map)
{
    struct granule_run run = map->rewriting;

    if (run.count == 0 || PLANTED(INNER_WORDS_LEFT))
        return true;
    if (!run_is_ready(map, run))
        return false;

    word first = granule_load(map, run.first), last = granule_load(map, run_end(run) - 1);

    if (((first ^ last) & TAKEN) != 0 ||
        ((last & TAKEN) != 0 && granule_value(first) != granule_value(last)))
        return false;
    segment_rewrite_inner(map, run, (last & TAKEN) != 0 ? last & ~(MEMORY | HOLES) : 0);
    map->rewriting.count = 0;
    compiler_barrier();
    return true;
}

/* Finds which granule's word (level 0) or which node of which level the address is; false: none. */
static bool find_node(const struct segment_map *map, const word *address, size_t *level,
                      size_t *node)
{
    for (*level = 0; *level <= map->levels; ++*level) {
        *node = ((uintptr_t)address - (uintptr_t)map->level[*level]) / WORD;
        if (*node < segment_index_nodes(*level, map->ready))
            return true;
    }
    return false;
}

struct map_guard {
    struct journal_guard guard;
    const struct segments *segments;
};

/* Journal entries may name the map's fields from `ready` on, the words and nodes that have memory,
 * and marks. */
static bool guards(const struct journal_guard *guard, const word *address)
{
    const struct segments *s = ((const struct map_guard *)guard)->segments;
    const struct segment_map *map = s->map;

    if ((uintptr_t)address - (uintptr_t)map < sizeof *map)
        return (uintptr_t)address >= (uintptr_t)&map->ready &&
               (uintptr_t)address < (uintptr_t)&map->damaged;
    size_t level, node;

    return find_node(map, address, &level, &node) || s->marks == NULL ||
           s->marks->guards(s->marks, address);
}

/* Whether the word can be right. The two ends of a free run must lead to each other. */
static bool is_granule_sound(const struct segment_map *map, size_t granule)
{
    word w = granule_load(map, granule), other;
    size_t length = granule_value(w);

    if ((w & TAKEN) != 0)
        return (w & (FREE | FIRST)) == 0 && length > 0 && length <= SEGMENT_OWNER_MOST;
    if ((w & FREE) == 0)
        return (w & ~MEMORY) == 0;
    if ((w & FIRST) != 0) {
        if (length == 0 || granule >= map->used || length > map->used - granule)
            return false;
        other = granule_load(map, granule + length - 1);
    } else {
        if (length == 0 || length > granule + 1)
            return false;
        other = granule_load(map, granule + 1 - length);
    }
    return (other & FREE) != 0 && granule_value(other) == length;
}

static bool are_counts_sound(const struct segment_map *map)
{
    return map->used <= map->ready && map->retained <= map->committed &&
           map->committed <= map->granules && map->retained_end <= map->ready;
}

static bool is_sound(const struct journal_guard *guard, const word *address)
{
    const struct segments *s = ((const struct map_guard *)guard)->segments;
    const struct segment_map *map = s->map;
    size_t level, node;

    if (map->ready > map->granules || !are_counts_sound(map))
        return false;
    if ((uintptr_t)address - (uintptr_t)map < sizeof *map)
        return true;
    if (find_node(map, address, &level, &node))
        return level == 0 ? is_granule_sound(map, node)
                          : *address == segment_index_most(map, level - 1, node);
    return s->marks == NULL || s->marks->is_sound(s->marks, address);
}

/* Each step may be interrupted, and is then done again by the next survivor. */
void segment_undo(struct segments *s)
{
    struct segment_map *map = s->map;
    struct map_guard guard = {{guards, is_sound, 0}, s};
    bool plausible = map->levels < LEVELS_MOST && map->ready <= map->granules;

    if (plausible && journal_recover(&map->journal, &guard.guard) && restore_inner(map) &&
        segment_finish_release(s) && segment_finish_punch(s))
        return;
    if (!map->damaged)
        fault_note("damaged journal of the granule map", map);
    map->damaged = 1;
    compiler_barrier();
    map->rewriting.count = map->releasing.count = map->punching.count = 0;
    journal_commit(&map->journal);
}

/* ---- runs on their way ----------------------------------------------------------------------- */

/* Whether each granule of the run is the owner's, with the lock held. */
static bool is_owned(const struct segment_map *map, segment_owner_id owner, struct run run)
{
    struct granule_run granules = granules_of(map, run);

    if (((uintptr_t)run.start | run.bytes) % GRANULE != 0 || !run_is_ready(map, granules))
        return false;
    for (size_t i = granules.first; i < run_end(granules); i++) {
        word w = granule_load(map, i);

        if ((w & TAKEN) == 0 || granule_value(w) != owner)
            return false;
    }
    return true;
}

/* NB: `pending` is read only after segment_enter() has undone the change of a dead holder of the
 * map's lock. If the map itself was set aside, the run stays pending. */
bool segment_recover(struct segments *s, segment_owner_id owner, struct run *pending, word *holes)
{
    if (!segment_enter(s))
        return true;
    bool sound = pending->bytes == 0 || is_owned(s->map, owner, *pending);

    segment_leave(s);
    if (sound && holes != NULL)
        segment_give_holed(s, pending, (struct run){0}, holes);
    else if (sound)
        segment_give(s, pending, (struct run){0});
    return sound;
}
