/* inspect.c - looking into a heap: its chunks, its totals, its invariants. */
#include "heap/heap.h"

void dvsm_walk(dvsm_heap *heap, dvsm_visit_fn visit, void *context)
{
    if (registry_checked(heap) == NULL || !heap_begin_look(heap))
        return;
    heap_walk(heap, visit, context, "dvsm_walk");
    heap_end_look(heap);
}

struct inspection {
    void (*handler)(void *start, void *end, size_t used_bytes, void *context);
    void *context;
};

/* Bytes of a free chunk that the allocator itself uses for links. */
static size_t links_of(const dvsm_chunk *chunk)
{
    return (chunk->bytes < BINS_LARGE_FROM ? CHUNK_MIN : sizeof(struct chunk)) - CHUNK_HEADER;
}

static void inspect_chunk(const dvsm_chunk *chunk, void *context)
{
    const struct inspection *inspection = context;
    bool is_free = chunk->state == DVSM_CHUNK_FREE || chunk->state == DVSM_CHUNK_CACHED;
    char *block = chunk->block;
    char *start = is_free ? block + links_of(chunk) : block;
    char *end = chunk->state == DVSM_CHUNK_LARGE ? block + chunk->usable
                                                 : block - CHUNK_HEADER + chunk->bytes;

    if (start < end && chunk->state != DVSM_CHUNK_OVERHEAD)
        inspection->handler(start, end, chunk->usable, inspection->context);
}

void dvsm_malloc_inspect_all(void (*handler)(void *start, void *end, size_t used_bytes,
                                             void *context),
                             void *context)
{
    struct inspection inspection = {handler, context};

    if (heap_default() != NULL)
        heap_walk(heap_default(), inspect_chunk, &inspection, "dvsm_malloc_inspect_all");
}

int dvsm_stats(dvsm_heap *heap, dvsm_stats_t *stats)
{
    if (registry_checked(heap) == NULL || !heap_begin_look(heap))
        return -1;
    heap_stats(heap, stats, "dvsm_stats");
    heap_end_look(heap);
    return 0;
}

struct dvsm_mallinfo dvsm_mallinfo(void)
{
    return heap_mallinfo(heap_default(), "dvsm_mallinfo");
}

struct dvsm_mallinfo dvsm_heap_mallinfo(dvsm_heap *heap)
{
    if (registry_checked(heap) == NULL || !heap_begin_look(heap))
        return (struct dvsm_mallinfo){0};
    struct dvsm_mallinfo info = heap_mallinfo(heap, "dvsm_heap_mallinfo");
    heap_end_look(heap);
    return info;
}

void dvsm_malloc_stats(void)
{
    heap_print_stats(heap_default(), "dvsm_malloc_stats");
}

int dvsm_check(dvsm_heap *heap, FILE *report)
{
    if (registry_checked(heap) == NULL || !heap_begin_look(heap))
        return -1;
    int violations = heap_check(heap, report);
    heap_end_look(heap);
    return violations;
}

int dvsm_reap(dvsm_heap *heap)
{
    return registry_writable(heap) != NULL ? heap_reap(heap, "dvsm_reap") : -1;
}

size_t dvsm_heap_ranges(dvsm_heap *heap, struct iovec *ranges, size_t count, uint64_t *generation)
{
    if (registry_checked(heap) == NULL || !heap_begin_look(heap))
        return 0;
    size_t all = heap_ranges(heap, ranges, count, generation);
    heap_end_look(heap);
    return all;
}
