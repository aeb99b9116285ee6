/* limits.c - how much memory a heap has, may have, and gives back. */
#include <limits.h>
#include <sys/uio.h>

#include "base/bits.h"
#include "heap/heap.h"

static struct segment_usage usage_of(struct dvsm_heap *heap)
{
    struct segment_usage usage;

    segment_usage(&heap->segments, &usage);
    return usage;
}

/* What heap_ranges() has so far. */
struct ranges {
    struct iovec *range;
    size_t count, most;
    uint64_t hash;
};

static uint64_t mix(uint64_t hash, uint64_t number)
{
    return (hash ^ number) * UINT64_C(0x100000001b3); /* FNV-1a, by words */
}

static void add_range(void *context, void *start, size_t bytes)
{
    struct ranges *r = context;

    if (r->count < r->most)
        r->range[r->count] = (struct iovec){start, bytes};
    r->count++;
    r->hash = mix(mix(r->hash, (uintptr_t)start), bytes);
}

/* The generation is what is hashed: so nothing need be counted where memory comes and goes. */
size_t heap_ranges(struct dvsm_heap *heap, struct iovec *ranges, size_t most, uint64_t *generation)
{
    struct ranges r = {ranges, 0, most, UINT64_C(0xcbf29ce484222325)};

    segment_ranges(&heap->segments, add_range, &r);
    if (generation != NULL)
        *generation = r.hash ^ r.hash >> 32;
    return r.count;
}

static size_t footprint(struct dvsm_heap *heap)
{
    return usage_of(heap).footprint;
}

/* The arenas together keep `pad` bytes at their tops. If their tops are smaller than that, the rest
 * of `pad` is kept as retained granules. */
bool heap_trim(struct dvsm_heap *heap, size_t pad, const char *function)
{
    struct fault fault = {0};

    if (heap == NULL)
        return false;
    size_t before = footprint(heap), kept = 0;
    cache_drain(&heap->cache, DRAIN_ALL, &fault);
    for (size_t i = 0; i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        if (heap_enter_index(&call, heap, i, function)) {
            size_t keep = pad > kept ? pad - kept : 0;

            arena_trim(heap_arena(&call), keep);
            arena_punch(heap_arena(&call), keep);
            kept += call.hold.slot->arena.top_size;
        }
        heap_leave(&call);
    }
    segment_release(&heap->segments, pad > kept ? pad - kept : 0);
    cache_note_freed(&heap->cache);
    heap_report(heap, &fault, function);
    return footprint(heap) < before;
}

/* Memory retained above the new limit is released at once. */
static bool set_retain(struct dvsm_heap *heap, size_t bytes)
{
    segment_set_retain(&heap->segments, bytes);
    segment_release(&heap->segments, bytes);
    return true;
}

/* Sets what a new arena begins with. False: there is no such parameter, or the value is refused. */
static bool set_in_policy(struct policy *policy, int parameter, size_t value)
{
    switch (parameter) {
    case DVSM_M_TRIM_THRESHOLD:
        word_show(&policy->trim_threshold, value);
        return true;
    case DVSM_M_GRANULARITY:
        if (!bits_is_power_of_two(value))
            return false;
        word_show(&policy->granularity, value);
        return true;
    case DVSM_M_MMAP_THRESHOLD:
        word_show(&policy->large_threshold, value);
        return true;
    default:
        return false;
    }
}

/* The cache goes by the heap's limit and by the large threshold. */
static void limit_cache(struct dvsm_heap *heap, size_t limit, const char *function)
{
    struct fault fault = {0};

    cache_set_limit(&heap->cache, limit, &fault);
    heap_report(heap, &fault, function);
}

/* Thresholds take any value, -1 meaning the largest; arenas grow by whole granules. */
bool heap_set_parameter(struct dvsm_heap *heap, int parameter, int value, const char *function)
{
    size_t wanted = value < 0 ? ARENA_NEVER : (size_t)value;
    bool done = true;

    if (heap == NULL || value < -1 || (parameter == DVSM_M_GRANULARITY && value < 4096))
        return false;
    if (parameter == DVSM_M_RETAIN)
        return set_retain(heap, wanted);
    if (parameter == DVSM_M_GRANULARITY && bits_is_power_of_two(wanted) && wanted < GRANULE)
        wanted = GRANULE;
    if (!set_in_policy(&heap->region->policy, parameter, wanted))
        return false;
    for (size_t i = 0; done && i < region_arena_count(heap->region); i++) {
        struct heap_call call;

        done = heap_enter_index(&call, heap, i, function) &&
               arena_set_parameter(heap_arena(&call)->arena, parameter, wanted);
        heap_leave(&call);
    }
    if (parameter == DVSM_M_MMAP_THRESHOLD)
        limit_cache(heap, heap_limit(heap), function);
    return done;
}

size_t heap_footprint(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : footprint(heap);
}

size_t heap_footprint_most(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : usage_of(heap).footprint_most;
}

size_t heap_limit(struct dvsm_heap *heap)
{
    return heap == NULL ? 0 : usage_of(heap).limit;
}

size_t heap_set_limit(struct dvsm_heap *heap, size_t bytes, const char *function)
{
    if (heap == NULL)
        return 0;
    size_t limit = segment_set_limit(&heap->segments, bytes);
    limit_cache(heap, limit, function);
    return limit;
}
