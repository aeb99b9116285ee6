/* check.c - walking the map, and verifying all of it. */
#include <string.h>

#include "segment/segment_map.h"

/* ---- walking --------------------------------------------------------------------------------- */

/* Whether the granule belongs to the same run as the one before it, whose word is `w`. */
static bool continues(const struct segment_map *map, size_t granule, word w)
{
    word next = granule_load(map, granule);

    return (next & ~(MEMORY | HOLES)) == (w & ~(MEMORY | HOLES | START));
}

/* The run that begins at `first`. In a damaged map it is some run that lies below `used`. */
static struct granule_run run_from(const struct segment_map *map, size_t first)
{
    struct granule_run run = {first, 1};
    word w = granule_load(map, first);
    size_t length = granule_value(w);

    if ((w & TAKEN) != 0)
        while (run_end(run) < map->used && continues(map, run_end(run), w))
            run.count++;
    else if ((w & FIRST) != 0 && length > 0 && length < map->used - first)
        run.count = length;
    return run;
}

void segment_walk(struct segments *s, segment_visit visit, void *context)
{
    const struct segment_map *map = s->map;
    struct granule_run run;

    if (!segment_enter(s))
        return;
    for (size_t i = 0; i < map->used; i = run_end(run)) {
        run = run_from(map, i);

        struct run bytes = {run_address(map, run), run_bytes(run)};
        enum run_kind kind;
        segment_owner_id owner = segment_owner(map, bytes.start, &kind);

        visit(context, bytes, owner, kind);
    }
    segment_leave(s);
}

/* A range that grows as long as what comes next is behind it. */
struct growing {
    char *start;
    size_t bytes; /* 0: none yet */
    segment_range visit;
    void *context;
};

static void extend(struct growing *range, char *start, size_t bytes)
{
    if (range->bytes != 0 && start == range->start + range->bytes) {
        range->bytes += bytes;
        return;
    }
    if (range->bytes != 0)
        range->visit(range->context, range->start, range->bytes);
    range->start = start;
    range->bytes = bytes;
}

static void extend_by_pages(struct growing *range, const struct segment_map *map, char *start,
                            word holes)
{
    for (size_t page = 0; page < map->hole_pages; page++)
        if ((holes >> page & 1) == 0)
            extend(range, start + page * map->page, map->page);
}

void segment_ranges(struct segments *s, segment_range visit, void *context)
{
    const struct segment_map *map = s->map;
    struct growing range = {.visit = visit, .context = context};

    if (!segment_enter(s))
        return;
    for (size_t i = 0; i < map->ready; i++) {
        word w = granule_load(map, i), holes = (w & HOLES) >> HOLE_SHIFT;
        char *start = map->base + i * GRANULE;

        if ((w & COMMITTED) != 0 && ((w & CHUNKS) == 0 || holes == 0))
            extend(&range, start, GRANULE);
        else if ((w & COMMITTED) != 0)
            extend_by_pages(&range, map, start, holes);
    }
    extend(&range, NULL, 0);
    segment_leave(s);
}

/* ---- checking -------------------------------------------------------------------------------- */

/* Checks what is set once. Whether the rest can be looked at. */
static bool check_places(const struct segment_map *map, struct check *check)
{
    struct segment_map right = {0};
    int before = check->violations;

    check_that(check, (uintptr_t)map->base % GRANULE == 0, "granule map: base %p is not aligned",
               (void *)map->base);
    if (!check_that(check, map->granules > 0 && map->granules <= GRANULES_MOST,
                    "granule map: %zu granules", map->granules))
        return false;
    segment_lay_out(&right, (void *)(uintptr_t)map, map->granules);
    check_that(check, map->page == right.page && map->levels == right.levels,
               "granule map: %zu levels of pages of %zu bytes, not %zu of %zu", map->levels,
               map->page, right.levels, right.page);
    check_that(check, memcmp(map->level, right.level, sizeof map->level) == 0,
               "granule map: a level lies elsewhere");
    check_that(check, map->hole_pages == 0 || map->hole_pages == GRANULE / map->page,
               "granule map: %zu pages of a granule can be holes", map->hole_pages);
    return check->violations == before;
}

/* The same, and how far the levels are committed. */
static bool check_layout(const struct segment_map *map, struct check *check)
{
    int before = check->violations;

    if (!check_places(map, check))
        return false;
    check_that(check, !map->counts_overhead || map->overhead >= segment_own_bytes(map),
               "granule map: %zu bytes of overhead, %zu its own", map->overhead,
               segment_own_bytes(map));
    check_that(check, map->used <= map->ready && map->ready <= map->granules,
               "granule map: %zu used, %zu ready of %zu granules", map->used, map->ready,
               map->granules);
    return check->violations == before;
}

/* NB: what is UNSETTLED may have no memory yet. */
static bool has_memory(const struct segment_map *map, size_t granule)
{
    return (granule_load(map, granule) & MEMORY) == COMMITTED;
}

bool segment_may_open(const struct segment_map *map, const void *base, size_t granules,
                      const char *end, const char **memory_end)
{
    struct check check = {0};
    size_t used =
        __atomic_load_n(&map->used, __ATOMIC_ACQUIRE); /* before `ready`, which grows first */
    size_t ready = word_peek(&map->ready);

    if (used > ready || map->base != base || map->granules != granules ||
        !check_places(map, &check) || ready > granules)
        return false;
    *memory_end = segment_levels_end(map, ready);
    if (*memory_end > end)
        return true;
    while (ready > 0 && !has_memory(map, ready - 1))
        ready--;
    if (ready > 0)
        *memory_end = (const char *)base + ready * GRANULE;
    return true;
}

static void check_taken(const struct segment_map *map, size_t granule, word w, struct check *check)
{
    size_t owner = granule_value(w);

    check_that(check, owner > 0 && owner <= SEGMENT_OWNER_MOST && (w & (FREE | FIRST)) == 0,
               "granule %zu: taken, but its word is %#zx", granule, (size_t)w);
    check_that(check, ((w & CHUNKS) != 0) != ((w & LARGE) != 0),
               "granule %zu: not one of segment and large block: its word is %#zx", granule,
               (size_t)w);
    check_that(check, (w & START) == 0 || (w & LARGE) != 0,
               "granule %zu: start of a block that is not large", granule);
    check_that(check, (w & HOLES) == 0 || (w & CHUNKS) != 0,
               "granule %zu: holes outside a segment: its word is %#zx", granule, (size_t)w);
    check_that(check, (w & HOLES) >> HOLE_SHIFT >> map->hole_pages == 0,
               "granule %zu: more holes than pages: its word is %#zx", granule, (size_t)w);
}

/* Checks the free run that begins at `first`, and returns it; a single granule if the run's length
 * is not to be believed. */
static struct granule_run check_free(const struct segment_map *map, size_t first,
                                     struct check *check)
{
    struct granule_run run = run_from(map, first);
    word w = granule_load(map, first);
    word last = granule_load(map, run_end(run) - 1);
    word end = run.count == 1 ? FREE | FIRST : FREE;

    check_that(check, (w & ~COMMITTED) == granule_word(FREE | FIRST, run.count),
               "granule %zu: neither taken nor start of a free run that ends below %zu", first,
               map->used);
    check_that(check, (last & ~COMMITTED) == granule_word(end, run.count),
               "granule %zu: not the last of the %zu free ones from %zu on", run_end(run) - 1,
               run.count, first);
    for (size_t i = first + 1; i + 1 < run_end(run); i++)
        check_that(check, (granule_load(map, i) & ~COMMITTED) == 0,
                   "granule %zu: not as inside a free run", i);
    if (check_that(check, run_end(run) < map->used,
                   "granule %zu: free, the last one before those never used", run_end(run) - 1))
        check_that(check, (granule_load(map, run_end(run)) & FREE) == 0,
                   "granule %zu: free run not joined with the one before", run_end(run));
    return run;
}

/* Returns how many granules are taken. */
static size_t check_runs(const struct segment_map *map, struct check *check)
{
    size_t taken = 0;

    for (size_t i = 0; i < map->used;) {
        word w = granule_load(map, i);

        if ((w & TAKEN) != 0) {
            check_taken(map, i, w, check);
            taken++;
            i++;
        } else {
            i = run_end(check_free(map, i, check));
        }
    }
    for (size_t i = map->used; i < map->ready; i++)
        check_that(check, (granule_load(map, i) & ~COMMITTED) == 0,
                   "granule %zu: not in use, but its word says so", i);
    return taken;
}

static void check_counts(const struct segment_map *map, size_t taken, struct check *check)
{
    size_t retained = 0;
    size_t retained_end = 0;

    for (size_t i = 0; i < map->ready; i++) {
        if (!granule_is_retained(map, i))
            continue;
        retained++;
        retained_end = i + 1;
    }
    check_that(check, map->retained == retained, "granule map: %zu granules retained, not %zu",
               retained, map->retained);
    check_that(check, map->committed == taken + retained,
               "granule map: %zu granules committed, not %zu", taken + retained, map->committed);
    struct granule_run all = {0, map->ready};
    size_t holes = segment_holes_in(map, all);

    check_that(check, map->holes == holes, "granule map: %zu holes, not %zu", holes, map->holes);
    check_that(check, map->committed <= map->committed_most,
               "granule map: %zu granules committed, but never more than %zu", map->committed,
               map->committed_most);
    check_that(check, retained_end <= map->retained_end,
               "granule map: granule %zu retained, but none from %zu on", retained_end - 1,
               map->retained_end);
}

static void check_index(const struct segment_map *map, struct check *check)
{
    for (size_t level = 0; level < map->levels; level++) {
        size_t nodes = segment_index_nodes(level + 1, map->ready);

        for (size_t node = 0; node < nodes; node++) {
            size_t most = segment_index_most(map, level, node);

            check_that(check, map->level[level + 1][node] == most,
                       "granule map: node %zu of level %zu is %zu, not %zu", node, level + 1,
                       (size_t)map->level[level + 1][node], most);
        }
    }
}

void segment_check(struct segments *s, struct check *check)
{
    const struct segment_map *map = s->map;

    if (!segment_enter(s)) {
        check_that(check, !map->damaged, "granule map: was set aside");
        return;
    }
    check_that(check, journal_is_empty(&map->journal), "granule map: a change is not committed");
    check_that(check,
               map->rewriting.count == 0 && map->releasing.count == 0 && map->punching.count == 0,
               "granule map: a note to a survivor was not taken back");
    if (check_layout(map, check)) {
        check_counts(map, check_runs(map, check), check);
        check_index(map, check);
    }
    segment_leave(s);
}

void segment_check_overhead(struct segments *s, segment_charged charged, const void *context,
                            struct check *check)
{
    const struct segment_map *map = s->map;

    if (!segment_enter(s))
        return;
    size_t bytes = segment_own_bytes(map) + charged(context);

    check_that(check, !map->counts_overhead || map->overhead == bytes,
               "granule map: %zu bytes of overhead, %zu of them accounted for", map->overhead,
               bytes);
    check_that(check, segment_memory_bytes(map) + map->overhead <= map->footprint_most,
               "granule map: the footprint is above its maximum %zu", map->footprint_most);
    segment_leave(s);
}
