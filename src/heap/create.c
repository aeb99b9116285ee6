/* create.c - making a heap, and destroying it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "heap/heap.h"
#include "shm/shm.h"
#include "sync/cancel.h"
#include "sync/tsan.h"

/* Bytes of address space to try first, rounded up to whole granules; near SIZE_MAX, down. */
static size_t wanted_bytes(const dvsm_options *options)
{
    size_t wanted = options->reserve != 0 ? options->reserve : options_default_reserve();

    if (wanted < region_least_bytes())
        wanted = region_least_bytes();
    return wanted > SIZE_MAX - GRANULE ? bits_round_down(wanted, GRANULE)
                                       : bits_round_up(wanted, GRANULE);
}

static int reserve_from(const dvsm_backend *backend, struct dvsm_heap *heap,
                        const dvsm_options *options, size_t least)
{
    size_t wanted = wanted_bytes(options);

    if (least < region_least_bytes())
        least = region_least_bytes();
    heap->backend = backend;
    heap->mapping = (dvsm_mapping){
        .size = sizeof heap->mapping,
        .bytes = wanted,
        .fd = -1,
        .name = options->name != NULL ? heap->label : NULL,
        .mode = options->mode,
        .flags = options->flags,
    };
    return shm_reserve_fitting(heap->backend, &heap->mapping, least < wanted ? least : wanted);
}

/* The kernel has no memory files, or a sandbox refuses them. If the user chose no backend, memory
 * without a file will do. */
static bool has_no_memory_files(int error)
{
    return error == ENOSYS || error == EPERM || error == EACCES;
}

static int reserve(struct dvsm_heap *heap, const dvsm_options *options, size_t least)
{
    if (options->backend != NULL)
        return reserve_from(options->backend, heap, options, least);

    int error = reserve_from(&dvsm_backend_memfd, heap, options, least);
    return has_no_memory_files(error) ? reserve_from(&dvsm_backend_anon, heap, options, least)
                                      : error;
}

/* The process's own access to each part of the region. */
static void open_parts(struct dvsm_heap *heap)
{
    struct region *region = heap->mapping.base;

    heap->region = region;
    heap->hardened = region->cache.hardened;
    heap->marks = region_marks(region);
    heap->segments = (struct segments){
        .map = region->map,
        .backend = heap->backend,
        .mapping = &heap->mapping,
        .policy = &region->policy,
        .marks = &heap->marks.guard,
    };
    arenas_open(&heap->arenas, &region->arenas, &heap->segments);
    cache_open(&heap->cache, &region->cache, &heap->arenas, &heap->segments, region->granules);
}

static struct dvsm_heap *make(const dvsm_options *options, const char *label, size_t least,
                              int *error)
{
    struct dvsm_heap *heap = registry_claim();

    if (heap == NULL) {
        *error = ENOSPC;
        return NULL;
    }
    snprintf(heap->label, sizeof heap->label, "%s", options->name != NULL ? options->name : label);
    *error = reserve(heap, options, least);
    if (*error == 0) {
        *error = region_make(heap->backend, &heap->mapping, options);
        if (*error != 0)
            heap->backend->unmap(heap->backend, &heap->mapping, 1);
    }
    if (*error != 0) {
        registry_free(heap);
        return NULL;
    }
    open_parts(heap);
    heap->creator = getpid();
    heap_watch_forks();
    registry_publish(heap);
    return heap;
}

struct dvsm_heap *heap_make(const dvsm_options *options, const char *label, size_t least,
                            int *error)
{
    int cancel = cancel_put_off();
    dvsm_options suited = *options;

    if (tsan_watches())                /* ThreadSanitizer sees nothing of lanes */
        suited.cache_bytes = SIZE_MAX; /* none */
    struct dvsm_heap *heap = make(&suited, label, least, error);

    cancel_restore(cancel);
    return heap;
}

static int unmake(struct dvsm_heap *heap)
{
    if (!registry_withdraw(heap))
        return EINVAL;
    lane_view_close(&heap->cache.view);
    int error = heap->backend->unmap(heap->backend, &heap->mapping, 1);
    if (error != 0 && heap->mapping.base != NULL) {
        open_parts(heap);
        registry_publish(heap);
    } else {
        registry_free(heap);
    }
    return error;
}

/* Nobody finds the heap any more before it is unmapped, and its slot stays taken until it is. A
 * heap that cannot be unmapped lives on; if a backend unmaps it and still returns an error, no heap
 * is left. */
int heap_unmake(struct dvsm_heap *heap)
{
    int cancel = cancel_put_off(), error = unmake(heap);

    cancel_restore(cancel);
    return error;
}
