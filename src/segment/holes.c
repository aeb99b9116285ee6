/* holes.c - pages of segments that have no memory although their granule has.
 *
 * To make pages holes, one change of the map sets their bits and notes them for a survivor; then
 * the backend takes their memory away, which may be repeated; then the note is cleared. A hole is
 * filled in the opposite order: memory first, then the change. So a page whose bit is clear always
 * has memory.
 */
#include "segment/segment_map.h"

enum { FILL_MOST = 16 }; /* pages filled between two holds of the lock */

static word hole_bit(const struct segment_map *map, size_t page)
{
    return (word)1 << (HOLE_SHIFT + page % map->hole_pages);
}

static bool is_hole(const struct segment_map *map, size_t page)
{
    return (granule_load(map, page / map->hole_pages) & hole_bit(map, page)) != 0;
}

size_t segment_page(const struct segment_map *map)
{
    return map->page;
}

bool segment_is_hole(const struct segment_map *map, const void *address)
{
    size_t page = ((uintptr_t)address - (uintptr_t)map->base) / map->page;

    return map->hole_pages != 0 && granule_of(map, address) < segment_ready(map) &&
           is_hole(map, page);
}

size_t segment_holes_in(const struct segment_map *map, struct granule_run run)
{
    size_t holes = 0;

    for (size_t i = run.first; i < run_end(run); i++)
        holes += (size_t)__builtin_popcountll((unsigned long long)(granule_load(map, i) & HOLES));
    return holes;
}

size_t segment_count_holes(struct segments *s, segment_owner_id owner)
{
    const struct segment_map *map = s->map;
    size_t holes = 0;

    if (!segment_enter(s))
        return 0;
    for (size_t i = 0; i < map->used; i++)
        if ((granule_load(map, i) & TAKEN) != 0 && granule_value(granule_load(map, i)) == owner)
            holes += segment_holes_in(map, (struct granule_run){i, 1});
    segment_leave(s);
    return holes;
}

static char *page_address(const struct segment_map *map, size_t page)
{
    return map->base + page * map->page;
}

static size_t page_of(const struct segment_map *map, const char *address)
{
    return (size_t)(address - map->base) / map->page;
}

/* The first pages from `first` on that are all holes, or all no holes; count 0: there are no more.
 * Only their owner changes them, and it holds its lock. */
static struct page_run stretch(const struct segment_map *map, size_t first, size_t end, bool holes,
                               size_t most)
{
    struct page_run run;

    while (first < end && is_hole(map, first) != holes)
        first++;
    run = (struct page_run){first, 0};
    while (run.count < most && run.first + run.count < end &&
           is_hole(map, run.first + run.count) == holes)
        run.count++;
    return run;
}

/* The bits of the run's pages that lie in the granule. */
static word bits_in(const struct segment_map *map, struct page_run run, size_t granule)
{
    size_t base = granule * map->hole_pages, end = run.first + run.count - base;
    unsigned from = run.first > base ? (unsigned)(run.first - base) : 0;
    unsigned to = (unsigned)(end < map->hole_pages ? end : map->hole_pages);

    return (granule_bits(to) ^ granule_bits(from)) << HOLE_SHIFT;
}

/* Makes the pages holes, or no holes any more, within the caller's change. */
static void set_holes(struct segment_map *map, struct page_run run, bool are, word *holes)
{
    struct journal *j = &map->journal;
    size_t last = (run.first + run.count - 1) / map->hole_pages;

    for (size_t i = run.first / map->hole_pages; i <= last; i++) {
        word w = granule_load(map, i), bits = bits_in(map, run, i);

        journal_store(j, &map->level[0][i], are ? w | bits : w & ~bits);
    }
    journal_store(j, &map->holes, are ? map->holes + run.count : map->holes - run.count);
    if (PLANTED(HOLES_WITHOUT_JOURNAL))
        *holes += are ? run.count : -run.count;
    else
        journal_store(j, holes, are ? *holes + run.count : *holes - run.count);
}

static bool release_pages(struct segments *s, struct page_run run)
{
    return s->backend->release(s->backend, s->mapping, page_address(s->map, run.first),
                               run.count * s->map->page) == 0;
}

/* Whether the run can be a note of the dead: all of its pages are holes. */
static bool are_holes(const struct segment_map *map, struct page_run run)
{
    size_t pages = map->ready * map->hole_pages;

    return run.first < pages && run.count <= pages - run.first &&
           stretch(map, run.first, run.first + run.count, false, 1).count == 0;
}

/* A failure to release is ignored: the dead may have released the pages already, so it does not
 * show that their memory is there. */
bool segment_finish_punch(struct segments *s)
{
    struct segment_map *map = s->map;

    if (map->punching.count == 0)
        return true;
    if (!are_holes(map, map->punching))
        return false;
    release_pages(s, map->punching);
    map->punching.count = 0;
    compiler_barrier();
    return true;
}

/* ---- making holes ---------------------------------------------------------------------------- */

static bool punch(struct segments *s, struct page_run run, word *holes)
{
    struct segment_map *map = s->map;
    struct journal *j = &map->journal;

    journal_store(j, &map->punching.first, run.first);
    journal_store(j, &map->punching.count, run.count);
    set_holes(map, run, true, holes);
    journal_commit(j);

    bool done = release_pages(s, run);
    if (!done)
        set_holes(map, run, false, holes);
    journal_store(j, &map->punching.count, 0);
    journal_commit(j);
    return done;
}

size_t segment_punch(struct segments *s, char *start, char *end, word *holes)
{
    const struct segment_map *map = s->map;
    size_t first = page_of(map, start + map->page - 1), beyond = page_of(map, end);
    size_t most = SLICE_MOST * map->hole_pages, punched = 0;
    struct page_run run;

    if (most == 0 || end <= start)
        return 0;
    while ((run = stretch(map, first, beyond, false, most)).count > 0) {
        if (!segment_enter(s))
            break;

        bool done = punch(s, run, holes);

        segment_leave(s);
        if (!done)
            break;
        punched += run.count;
        first = run.first + run.count;
    }
    return punched * map->page;
}

/* ---- filling them ---------------------------------------------------------------------------- */

static size_t count_missing(const struct segment_map *map, size_t first, size_t beyond)
{
    size_t missing = 0;

    for (; first < beyond; first++)
        missing += is_hole(map, first);
    return missing;
}

static bool fits(const struct segment_map *map, size_t pages)
{
    return segment_excess(map, 0, pages) <= word_peek(&map->retained);
}

/* Asked first, so that no page is filled if not all can be. The lock is taken only if it seems that
 * they cannot: a look without the lock may see half of somebody's change. */
static bool might_fill(struct segments *s, size_t pages)
{
    if (likely(fits(s->map, pages)))
        return true;
    if (!segment_enter(s))
        return false;

    bool might = fits(s->map, pages);
    segment_leave(s);
    return might;
}

/* Whether the pages may have memory. Releases retained memory to make room for it. */
static bool has_room(struct segments *s, struct page_run run)
{
    size_t excess = segment_excess(s->map, 0, run.count);

    return excess <= s->map->retained &&
           segment_release_retained(s, excess, (struct granule_run){0, 0});
}

/* Counts pages that have memory by now as filled. False: others took meanwhile what the limit
 * left. */
static bool count_filled(struct segments *s, struct page_run run, word *holes)
{
    if (!segment_enter(s))
        return false;

    bool room = has_room(s, run);

    if (room) {
        set_holes(s->map, run, false, holes);
        segment_note_footprint(s->map);
        journal_commit(&s->map->journal);
    }
    segment_leave(s);
    return room;
}

/* NB: the pages get their memory without the lock: they are the owner's. */
static bool fill(struct segments *s, struct page_run run, word *holes)
{
    const struct segment_map *map = s->map;

    if (!segment_enter(s))
        return false;

    bool room = has_room(s, run);

    segment_leave(s);
    if (!room || s->backend->commit(s->backend, s->mapping, page_address(map, run.first),
                                    run.count * map->page) != 0)
        return false;
    if (count_filled(s, run, holes))
        return true;
    release_pages(s, run);
    return false;
}

bool segment_has_holes(const struct segment_map *map, const char *start, const char *end)
{
    size_t first = page_of(map, start), beyond = page_of(map, end + map->page - 1);

    return map->hole_pages != 0 && end > start && stretch(map, first, beyond, true, 1).count != 0;
}

bool segment_fill(struct segments *s, char *start, char *end, word *holes)
{
    const struct segment_map *map = s->map;
    size_t first = page_of(map, start), beyond = page_of(map, end + map->page - 1);
    struct page_run run;

    if (map->hole_pages == 0 || end <= start)
        return true;

    size_t missing = count_missing(map, first, beyond);
    if (missing != 0 && !might_fill(s, missing))
        return false;
    while ((run = stretch(map, first, beyond, true, FILL_MOST)).count > 0) {
        if (!fill(s, run, holes))
            return false;
        first = run.first + run.count;
    }
    return true;
}
