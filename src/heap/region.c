/* region.c - the layout of a region, and the making of its parts. */
#define _GNU_SOURCE
#include "heap/region.h"

#include <errno.h>
#include <unistd.h>

#include "base/bits.h"

enum {
    ARENAS_A_CPU = 4,
    ARENAS_LEAST = 64,  /* the most arenas on a small machine: damaged ones need successors */
    GRANULES_LEAST = 16 /* of the smallest region */
};

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t whole_pages(size_t bytes)
{
    return bits_round_up(bytes, page_size());
}

static size_t cpu_count(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_CONF);

    return cpus > 0 ? (size_t)cpus : 1;
}

static size_t arenas_most(size_t cpus)
{
    size_t most = cpus * ARENAS_A_CPU < ARENAS_LEAST ? ARENAS_LEAST : cpus * ARENAS_A_CPU;

    return most < SEGMENT_OWNER_MOST ? most : SEGMENT_OWNER_MOST;
}

/* Says where everything lies in a region of r->bytes at r->base; false where it is too small. */
static bool lay_out(struct region *r)
{
    char *place = r->base + whole_pages(sizeof(struct region));

    r->cpus = cpu_count();
    r->arenas_most = arenas_most(r->cpus);
    r->arena_stride = whole_pages(sizeof(struct arena_slot));
    r->arenas = place;
    place += r->arenas_most * r->arena_stride;
    r->lanes = (struct lane *)(void *)place;
    place += whole_pages(r->cpus * sizeof(struct lane));
    r->depots = (struct depot *)(void *)place;
    place += whole_pages(CACHE_CLASSES * sizeof(struct depot));
    r->map = (struct segment_map *)(void *)place;
    place += whole_pages(segment_map_bytes(r->bytes / GRANULE));

    size_t metadata = bits_round_up((size_t)(place - r->base), GRANULE);
    if (metadata >= r->bytes)
        return false;
    r->granules = r->base + metadata;
    r->granule_count = (r->bytes - metadata) / GRANULE;
    return true;
}

/* The parts that do not depend on the region's size, plus a few granules and generous room for
 * their map. */
size_t region_least_bytes(void)
{
    size_t cpus = cpu_count();
    size_t fixed = whole_pages(sizeof(struct region)) +
                   arenas_most(cpus) * whole_pages(sizeof(struct arena_slot)) +
                   whole_pages(cpus * sizeof(struct lane)) +
                   whole_pages(CACHE_CLASSES * sizeof(struct depot));
    size_t granules = fixed / GRANULE + 1 + GRANULES_LEAST;

    return (granules + segment_map_bytes(2 * granules) / GRANULE + 1) * GRANULE;
}

static int commit(const dvsm_backend *backend, const dvsm_mapping *mapping, void *start,
                  size_t bytes)
{
    return backend->commit(backend, mapping, start, whole_pages(bytes));
}

int region_make(const dvsm_backend *backend, const dvsm_mapping *mapping)
{
    struct region plan = {.base = mapping->base, .bytes = mapping->bytes, .limit = SIZE_MAX};
    struct region *region = mapping->base;
    int error;

    if (!lay_out(&plan))
        return ENOMEM;
    error = commit(backend, mapping, region, sizeof *region);
    if (error == 0)
        error = commit(backend, mapping, plan.map, segment_map_committed_bytes());
    if (error == 0)
        error = segment_init(plan.map, plan.granules, plan.granule_count, SIZE_MAX);
    if (error == 0)
        error = lock_init(&plan.lock);
    if (error != 0)
        return error;
    plan.version = REGION_VERSION;
    *region = plan;
    compiler_barrier();
    region->magic = REGION_MAGIC;
    return 0;
}

size_t region_metadata_bytes(const struct region *region)
{
    return whole_pages(sizeof *region) + whole_pages(segment_map_committed_bytes()) +
           region_arena_count(region) * region->arena_stride;
}

/* Tells the map what is left of the limit for granules. */
static void apply_limit(struct segments *segments, const struct region *region)
{
    size_t metadata = region_metadata_bytes(region);

    if (region->limit == SIZE_MAX)
        segment_set_limit(segments, SIZE_MAX);
    else if (region->limit <= metadata)
        segment_set_limit(segments, 0);
    else
        segment_set_limit(segments, bits_round_down(region->limit - metadata, GRANULE));
}

/* False: the calling thread holds it already. */
static bool lock_header(struct segments *segments, struct region *region)
{
    switch (lock_acquire(&region->lock)) {
    case LOCK_ACQUIRED:
        return true;
    case LOCK_OWNER_DIED:
        apply_limit(segments, region); /* all that can have been left half done */
        lock_repaired(&region->lock);
        return true;
    default:
        return false;
    }
}

/* An arena made later behaves as the first was told to. */
static void copy_parameters(struct arena *arena, const struct arena *first)
{
    arena->trim_threshold = first->trim_threshold;
    arena->trim_check = first->trim_threshold;
    arena->granularity = first->granularity;
    arena->large_threshold = first->large_threshold;
}

/* The slot is nobody's until the count says so: whoever dies here leaves nothing to repair. */
static bool make_slot(const struct segments *segments, struct region *region, size_t index)
{
    struct arena_slot *slot = region_arena(region, index);

    if (commit(segments->backend, segments->mapping, slot, sizeof *slot) != 0 ||
        lock_init(&slot->lock) != 0)
        return false;
    slot->recoveries = 0;
    arena_init(&slot->arena, index + 1);
    if (index > 0)
        copy_parameters(&slot->arena, &region_arena(region, 0)->arena);
    __atomic_store_n(&region->arena_count, index + 1, __ATOMIC_RELEASE);
    return true;
}

bool region_make_arena(struct segments *segments, struct region *region, size_t index)
{
    bool made = true;

    if (index >= region->arenas_most || !lock_header(segments, region))
        return false;
    if (region->arena_count == index) {
        made = make_slot(segments, region, index);
        apply_limit(segments, region);
    }
    lock_release(&region->lock);
    return made;
}

size_t region_set_limit(struct segments *segments, struct region *region, size_t bytes)
{
    size_t limit = bits_round_up(bytes, GRANULE);

    if (!lock_header(segments, region))
        return region->limit;
    region->limit = limit < bytes ? SIZE_MAX : limit;
    compiler_barrier();
    apply_limit(segments, region);
    limit = region->limit;
    lock_release(&region->lock);
    return limit;
}
