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
#include "heap/window.h"
#include "shm/shm.h"
#include "sync/cancel.h"
#include "sync/tsan.h"
#include "sync/word_lock.h"

enum { JOIN_TRIES = 100 };

/* Bytes of address space to try first, rounded up to whole granules; near SIZE_MAX, down. */
static size_t wanted_bytes(const dvsm_options *options)
{
    bool named = options->backend == &dvsm_backend_shm_open && options->name != NULL;
    size_t wanted = options->reserve != 0 ? options->reserve : options_default_reserve(named);

    if (wanted < region_least_bytes())
        wanted = region_least_bytes();
    return wanted > SIZE_MAX - GRANULE ? bits_round_down(wanted, GRANULE)
                                       : bits_round_up(wanted, GRANULE);
}

/* Others can map the backend's memory, by its file, and will want to do so at the same addresses.
 * NB: a backend of the user's is not told where to map: it may not know that it can be. */
static bool has_window(const dvsm_backend *backend)
{
    return backend == &dvsm_backend_memfd || backend == &dvsm_backend_shm_open;
}

/* Where the user says; else in a window; else where the system puts it. */
static int reserve_somewhere(struct dvsm_heap *heap, const dvsm_options *options, enum heap_use use,
                             size_t least)
{
    const char *name = heap->backend == &dvsm_backend_shm_open ? options->name : NULL;
    unsigned tries = name != NULL ? WINDOW_TRIES : WINDOW_TRIES_UNNAMED;
    dvsm_mapping *mapping = &heap->mapping;
    int error = EADDRNOTAVAIL;

    if (options->address != NULL || !has_window(heap->backend)) {
        mapping->base = options->address;
        return shm_reserve_fitting(heap->backend, mapping, least);
    }
    for (unsigned nth = 0; nth < tries && error == EADDRNOTAVAIL; nth++) {
        mapping->base = window_place(name, use == HEAP_DEFAULT, mapping->bytes, nth);
        if (mapping->base != NULL)
            error = shm_reserve_fitting(heap->backend, mapping, least);
    }
    if (error != EADDRNOTAVAIL)
        return error;
    mapping->base = NULL;
    return shm_reserve_fitting(heap->backend, mapping, least);
}

static int reserve_from(const dvsm_backend *backend, struct dvsm_heap *heap,
                        const dvsm_options *options, enum heap_use use, size_t least)
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
    return reserve_somewhere(heap, options, use, least < wanted ? least : wanted);
}

/* The kernel has no memory files, or a sandbox refuses them. If the user chose no backend, memory
 * without a file will do. */
static bool has_no_memory_files(int error)
{
    return error == ENOSYS || error == EPERM || error == EACCES;
}

static int reserve(struct dvsm_heap *heap, const dvsm_options *options, enum heap_use use,
                   size_t least)
{
    if (options->backend != NULL)
        return reserve_from(options->backend, heap, options, use, least);

    int error = reserve_from(&dvsm_backend_memfd, heap, options, use, least);
    return has_no_memory_files(error) ? reserve_from(&dvsm_backend_anon, heap, options, use, least)
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

void heap_open(struct dvsm_heap *heap, pid_t creator)
{
    word_lock_start();
    open_parts(heap);
    if (heap->read_only) {
        lane_view_close(&heap->cache.view);
        lane_view_close(&heap->cache.freeing);
    }
    heap->creator = creator;
    heap_watch_forks();
    registry_publish(heap);
}

/* The heap is complete before it has its name. */
static int make_region(struct dvsm_heap *heap, const dvsm_options *options)
{
    int error = region_make(heap->backend, &heap->mapping, options);

    if (error == 0)
        error = shm_publish(heap->backend, &heap->mapping);
    if (error != 0)
        heap->backend->unmap(heap->backend, &heap->mapping, 1);
    return error;
}

static struct dvsm_heap *make(const dvsm_options *options, enum heap_use use, size_t least,
                              int *error)
{
    struct dvsm_heap *heap = registry_claim();

    if (heap == NULL) {
        *error = ENOSPC;
        return NULL;
    }
    heap->read_only = false;
    snprintf(heap->label, sizeof heap->label, "%s",
             options->name != NULL ? options->name
             : use == HEAP_DEFAULT ? "default"
                                   : "unnamed");
    *error = reserve(heap, options, use, least);
    if (*error == 0)
        *error = make_region(heap, options);
    if (*error != 0) {
        registry_free(heap);
        return NULL;
    }
    atomic_store(&heap->joined, 1);
    heap_open(heap, getpid());
    return heap;
}

/* Whether the heap that has the name already, if one has, will do. */
static bool may_join(const dvsm_options *options)
{
    return options->backend == &dvsm_backend_shm_open && options->name != NULL &&
           (options->flags & DVSM_EXCLUSIVE) == 0;
}

/* Joins the heap of that name, or makes it. NB: of two processes that make it, one comes first, and
 * the other joins that one's, unless it was unlinked meanwhile. */
static struct dvsm_heap *join_or_make(const dvsm_options *options, enum heap_use use, size_t least,
                                      int *error)
{
    struct dvsm_heap *heap = NULL;

    for (int tries = 0; heap == NULL && tries < JOIN_TRIES; tries++) {
        if (may_join(options))
            heap = heap_attach(options->name, false, error);
        if (heap != NULL || (may_join(options) && *error != ENOENT))
            break;
        heap_say("%s", "");
        heap = make(options, use, least, error);
        if (heap != NULL || *error != EEXIST || !may_join(options))
            break;
    }
    return heap;
}

struct dvsm_heap *heap_make(const dvsm_options *options, enum heap_use use, size_t least,
                            int *error)
{
    int cancel = cancel_put_off();
    dvsm_options suited = *options;

    if (tsan_watches())                /* ThreadSanitizer sees nothing of lanes */
        suited.cache_bytes = SIZE_MAX; /* none */
    struct dvsm_heap *heap = join_or_make(&suited, use, least, error);

    cancel_restore(cancel);
    return heap;
}

static int unmake(struct dvsm_heap *heap, bool destroy)
{
    size_t joined = atomic_exchange(&heap->joined, 0);

    if (!registry_withdraw(heap))
        return EINVAL;
    lane_view_close(&heap->cache.view);
    int error = heap->backend->unmap(heap->backend, &heap->mapping, destroy);
    if (error != 0 && heap->mapping.base != NULL) {
        atomic_store(&heap->joined, joined != 0 ? joined : 1);
        heap_open(heap, heap->creator);
    } else {
        registry_free(heap);
    }
    return error;
}

bool heap_leave_once(struct dvsm_heap *heap)
{
    size_t joined = atomic_load(&heap->joined);

    while (joined > 1)
        if (atomic_compare_exchange_weak(&heap->joined, &joined, joined - 1))
            return true;
    return false;
}

/* Whether it is left for good: from then on no other thread joins this heap once more. */
static bool leave_last(struct dvsm_heap *heap)
{
    size_t one = 1;

    return atomic_compare_exchange_strong(&heap->joined, &one, 0);
}

/* Nobody finds the heap any more before it is unmapped, and its slot stays taken until it is. A
 * heap that cannot be unmapped lives on; if a backend unmaps it and still returns an error, no heap
 * is left. */
int heap_unmake(struct dvsm_heap *heap, bool destroy)
{
    while (!destroy && !leave_last(heap))
        if (heap_leave_once(heap))
            return 0;
        else if (atomic_load(&heap->joined) == 0)
            return EINVAL;

    int cancel = cancel_put_off(), error = unmake(heap, destroy);

    cancel_restore(cancel);
    return error;
}
