/* check.c - every invariant of a heap, and that each byte of its region is accounted for.
 *
 *     region     = header, lanes, depots, map, roots, arenas, granules         (region_check)
 *     overhead   = the committed parts outside the granules, by their marks
 *                (segment_check_overhead)
 *     granules   = free, retained, each one arena's, or the cache's            (segment_check,
 *                check_owners)
 *     the cache's = units of magazines, each unit of one class              (place_check)
 *     an arena's = segments and large blocks, as the arena itself counts them  (check_claims)
 *     holes      = inside free chunks and tops, behind their fields; each counted by its arena
 *                (check_holes)
 *     a segment  = chunks in use, free ones in bins, victim, top, records      (arena_check)
 *     in use     = cached, each in just one magazine, or the program's         (check_cached)
 *
 * Nothing is on its way then. What a dead holder left pending or in transit was put where it
 * belongs when its lock was taken, and what a living holder works on is behind that holder's lock.
 */
#include <errno.h>

#include "cache/place.h"
#include "heap/hardened.h"
#include "sync/cancel.h"

/* What the map says about one owner's granules. */
struct claims {
    segment_owner_id owner;
    const struct seal *seal;
    size_t segment_bytes, large_bytes, large_count;
    size_t unsealed; /* of large_count, those with a damaged header */
};

static void add_run(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    struct claims *claims = context;

    if (owner != claims->owner)
        return;
    if (kind == RUN_SEGMENT)
        claims->segment_bytes += run.bytes;
    else
        claims->large_bytes += run.bytes;
    if (kind != RUN_LARGE)
        return;
    claims->large_count++;
    claims->unsealed += heap_large_chunk(claims->seal, run) == NULL;
}

/* The arena is locked, so none of its granules comes or goes meanwhile. */
static void check_claims(struct dvsm_heap *heap, const struct arena *arena, struct check *check)
{
    struct claims claims = {.owner = (segment_owner_id)arena->id, .seal = &arena->seal};
    struct arena_usage usage;

    arena_usage(arena, &usage);
    segment_walk(&heap->segments, add_run, &claims);
    check_that(check, claims.segment_bytes == usage.segment_bytes,
               "heap: arena %zu has %zu bytes of segments, %zu in the map", arena->id,
               usage.segment_bytes, claims.segment_bytes);
    check_that(
        check, claims.large_bytes == usage.large_bytes && claims.large_count == usage.large_count,
        "heap: arena %zu has %zu large blocks of %zu bytes, %zu of %zu in the map", arena->id,
        usage.large_count, usage.large_bytes, claims.large_count, claims.large_bytes);
    check_that(check, claims.unsealed == 0,
               "heap: %zu large blocks of arena %zu have damaged headers", claims.unsealed,
               arena->id);
}

/* The smallest page there is. A larger page is looked at several times. */
#define PAGE_LEAST ((size_t)4096)

/* What is known of the holes while an arena's chunks are walked. */
struct hole_walk {
    const struct segment_map *map;
    struct check *check;
};

/* Checks that no hole is under a chunk in use, a free chunk's fields, or the next chunk's head. */
static void check_memory(void *context, const struct chunk *c, size_t bytes,
                         enum arena_chunk_state state)
{
    const struct hole_walk *walk = context;
    bool in_use = state == ARENA_CHUNK_USED || state == ARENA_CHUNK_RECORD;
    size_t fields = bytes < sizeof *c ? bytes : sizeof *c;
    const char *end = (const char *)c + (in_use ? bytes : fields);
    const char *at = (const char *)c;

    for (; at < end; at = (const char *)bits_round_up((size_t)(uintptr_t)at + 1, PAGE_LEAST))
        check_that(walk->check, !segment_is_hole(walk->map, at),
                   "heap: chunk %p needs %p, which was given back", (const void *)c,
                   (const void *)at);
    check_that(walk->check, !segment_is_hole(walk->map, end - 1),
               "heap: chunk %p ends in memory that was given back", (const void *)c);
    check_that(walk->check, !segment_is_hole(walk->map, &chunk_at(c, bytes)->head),
               "heap: what follows chunk %p was given back", (const void *)c);
}

static void check_holes(struct dvsm_heap *heap, const struct arena *arena, struct check *check)
{
    struct hole_walk walk = {heap->segments.map, check};
    size_t holes = segment_count_holes(&heap->segments, (segment_owner_id)arena->id);

    check_that(check, arena->holes == holes, "heap: arena %zu counts %zu holes, its granules %zu",
               arena->id, (size_t)arena->holes, holes);
    if (holes != 0)
        arena_walk(arena, check_memory, &walk);
}

/* The cached blocks that are chunks in use of the arenas looked at so far. */
struct cached {
    const struct cached_set *set;
    size_t found;
    const struct dvsm_heap *hardened; /* NULL: the heap is not */
    size_t broken;                    /* tails of an arena's blocks, if it is */
};

static bool is_broken(const struct dvsm_heap *heap, const struct chunk *c)
{
    struct canary_request ignored;

    return canary_look(cache_canary(&heap->cache, chunk_payload(c)), &ignored) == CANARY_BROKEN;
}

static void find_cached(void *context, const struct chunk *c, size_t bytes,
                        enum arena_chunk_state state)
{
    struct cached *cached = context;

    (void)bytes;
    if (state != ARENA_CHUNK_USED)
        return;
    if (!cached_set_has(cached->set, chunk_payload(c))) {
        cached->broken += cached->hardened != NULL && is_broken(cached->hardened, c);
        return;
    }
    cached->found++;
}

/* The large blocks of a hardened heap's arena. */
struct large_walk {
    const struct arena *arena;
    struct cached *cached;
};

static void look_at_large(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    const struct large_walk *walk = context;

    if (owner != walk->arena->id || kind != RUN_LARGE)
        return;
    const struct chunk *c = heap_large_chunk(&walk->arena->seal, run);
    walk->cached->broken += c != NULL && is_broken(walk->cached->hardened, c);
}

static void check_tails(struct dvsm_heap *heap, const struct arena_slot *slot,
                        struct cached *cached, struct check *check)
{
    struct large_walk walk = {&slot->arena, cached};

    if (!heap->hardened)
        return;
    segment_walk(&heap->segments, look_at_large, &walk);
    check_that(check, cached->broken <= slot->recoveries,
               "heap: arena %zu: %zu blocks: " CANARY_END_WRITTEN, slot->arena.id, cached->broken);
    cached->broken = 0;
}

/* Checks an arena; of a damaged one, reports only that it is damaged. */
static void check_arena(struct dvsm_heap *heap, size_t index, struct cached *cached,
                        struct check *check)
{
    struct heap_call call;

    if (check_that(check, heap_enter_index(&call, heap, index, "dvsm_check"),
                   "heap: arena %zu is in use by the caller", index + 1)) {
        const struct arena *arena = &call.hold.slot->arena;
        struct fault *found = &call.hold.found;

        check_that(check, found->kind == FAULT_NONE, "block %p: %s", found->address, found->what);
        found->kind = FAULT_NONE; /* reported here, since depots are locked */
        check_that(check, arena->id == index + 1, "heap: arena %zu has id %zu", index + 1,
                   arena->id);
        check_that(check,
                   arena->seal.base == heap->arenas.seal.base &&
                       arena->seal.key == heap->arenas.seal.key,
                   "heap: arena %zu has another key for its seals", index + 1);
        if (check_that(check, !arena->damaged, "heap: arena %zu was set aside", index + 1)) {
            arena_check(arena, check);
            check_claims(heap, arena, check);
            check_holes(heap, arena, check);
            arena_walk(arena, find_cached, cached);
            check_tails(heap, call.hold.slot, cached, check);
        }
    }
    heap_leave(&call);
}

static void note_highest(void *context, struct run run, segment_owner_id owner, enum run_kind kind)
{
    segment_owner_id *highest = context;

    (void)run;
    (void)kind;
    if (owner > *highest && owner != CACHE_OWNER)
        *highest = owner;
}

/* Checks that every granule is free or has an owner that exists. New arenas may be made during the
 * walk. */
static void check_owners(struct dvsm_heap *heap, struct check *check)
{
    segment_owner_id highest = 0;

    segment_walk(&heap->segments, note_highest, &highest);
    check_that(check, highest <= region_arena_count(heap->region),
               "heap: granules belong to arena %u of %zu", highest,
               region_arena_count(heap->region));
}

/* Checks that each cached block is one chunk in use of one arena. The depots are locked. If a
 * thread has meanwhile taken a block from a lane and freed it to its arena, a second set does
 * not find that block any more. */
static void check_cached(struct dvsm_heap *heap, const struct cached *cached, struct check *check)
{
    struct cached_set again;

    if (cached->set->block == NULL)
        return;
    if (cached->found == cached->set->count && cached->set->twice == 0)
        return;
    cached_set_take(&again, &heap->cache);
    bool same = again.fingerprint == cached->set->fingerprint && again.twice == cached->set->twice;
    check_that(check, !same || cached->found == again.count,
               "cache: %zu of %zu blocks are no chunks in use", again.count - cached->found,
               again.count);
    check_that(check, !same || again.twice == 0, "cache: %zu blocks are in two places",
               again.twice);
    cached_set_end(&again);
}

static void check_arenas(struct dvsm_heap *heap, struct check *check)
{
    struct cached_set set = {0};
    size_t damaged = 0;

    if (check->violations == 0) /* a damaged list could lead anywhere, and for ever */
        cached_set_take(&set, &heap->cache);
    struct cached cached = {.set = &set, .hardened = heap->hardened ? heap : NULL};
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        check_arena(heap, i, &cached, check);
        damaged += region_arena(heap->region, i)->arena.damaged;
    }
    if (damaged == 0)
        check_cached(heap, &cached, check);
    cached_set_end(&set);
}

static void check_region(const struct dvsm_heap *heap, struct check *check)
{
    const struct region *region = heap->region;

    check_that(check,
               region->identity.magic == REGION_MAGIC && region->identity.version == REGION_VERSION,
               "heap: the header's magic is damaged");
    check_that(check,
               region->base == heap->mapping.base && region->bytes == heap->mapping.bytes &&
                   region->granules + region->granule_count * GRANULE <=
                       region->base + region->bytes,
               "heap: the header's bounds are not the mapping's");
    region_check(region, check);
    roots_check(&region->roots, check);
    check_that(check, region_arena_count(region) <= region->arenas.most,
               "heap: %zu arenas of at most %zu", region_arena_count(region), region->arenas.most);
}

static size_t charged(const void *region)
{
    return region_charged_bytes(region);
}

static int check_heap(struct dvsm_heap *heap, FILE *report)
{
    struct check check = {.report = report};

    check_region(heap, &check);
    if (check.violations > 0)
        return check.violations; /* with such a header nothing can be found */
    if (check_that(&check, cache_lock_all(&heap->cache),
                   "heap: the cache is in use by the caller")) {
        cache_check(&heap->cache, &check);
        check_arenas(heap, &check);
        cache_unlock_all(&heap->cache);
    }
    segment_check(&heap->segments, &check);
    check_owners(heap, &check);
    segment_check_overhead(&heap->segments, charged, heap->region, &check);
    return check.violations;
}

/* Cancelling is put off, because the report is printed while locks are held. */
int heap_check(struct dvsm_heap *heap, FILE *report)
{
    int cancel = cancel_put_off();
    int violations = check_heap(heap, report);

    cancel_restore(cancel);
    return violations;
}
