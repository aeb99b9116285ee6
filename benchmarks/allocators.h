/* allocators.h - what the workloads run on: one policy a struct, all of its functions static, so
 * that every call is a direct one through the PLT, the same for each.
 *
 *     name            as it stands in the benchmarks' names
 *     shared          a block may be used and freed in any process forked after open()
 *     threads         threads of one process may use it side by side
 *     linear          searches a list: workloads with many live blocks would take hours
 *     cramped         cannot hold 64 MiB at once
 *     complete        has realloc_in_place or a stand-in, and aligned blocks: can replay traces
 *     open()          makes it ready; before any fork. false: it cannot be had
 *     trim()          gives free memory back to the system
 *     footprint()     bytes it has from the system, or 0 if it does not say
 *     usable(p)       bytes of a block
 */
#ifndef BENCHMARKS_ALLOCATORS_H
#define BENCHMARKS_ALLOCATORS_H

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <malloc.h>

#include <dvsm/dvsm.h>

/* The default heap, through the shared library. */
struct Dvsm {
    static constexpr const char *name = "dvsm";
    static constexpr bool shared = true, threads = true, linear = false, cramped = false,
                          complete = true;

    static bool open()
    {
        return dvsm_heap_default() != nullptr;
    }
    static void *malloc(size_t size)
    {
        return dvsm_malloc(size);
    }
    static void free(void *block)
    {
        dvsm_free(block);
    }
    static void *realloc(void *block, size_t size)
    {
        return dvsm_realloc(block, size);
    }
    static void *calloc(size_t count, size_t size)
    {
        return dvsm_calloc(count, size);
    }
    static void *memalign(size_t alignment, size_t size)
    {
        return dvsm_memalign(alignment, size);
    }
    static void resize_in_place(void *block, size_t size)
    {
        dvsm_realloc_in_place(block, size);
    }
    static void bulk_free(void **blocks, size_t count)
    {
        dvsm_bulk_free(blocks, count);
    }
    static void independent_calloc(size_t count, size_t size, void **blocks)
    {
        dvsm_independent_calloc(count, size, blocks);
    }
    static void independent_comalloc(size_t count, const size_t *sizes, void **blocks)
    {
        dvsm_independent_comalloc(count, sizes, blocks);
    }
    static void trim()
    {
        dvsm_malloc_trim(0);
    }
    static size_t footprint()
    {
        return dvsm_malloc_footprint();
    }
    static size_t usable(void *block)
    {
        return dvsm_malloc_usable_size(block);
    }
};

/* The same on a heap without a cache: what an arena alone costs. */
struct DvsmNoCache : Dvsm {
    static constexpr const char *name = "dvsm-nocache";
    static inline dvsm_heap *heap;

    static bool open()
    {
        if (heap == nullptr) {
            dvsm_options options = {};
            options.size = sizeof options;
            options.cache_bytes = SIZE_MAX;
            heap = dvsm_heap_create(&options);
        }
        return heap != nullptr;
    }
    static void *malloc(size_t size)
    {
        return dvsm_heap_malloc(heap, size);
    }
    static void *calloc(size_t count, size_t size)
    {
        return dvsm_heap_calloc(heap, count, size);
    }
    static void *memalign(size_t alignment, size_t size)
    {
        return dvsm_heap_memalign(heap, alignment, size);
    }
    static void independent_calloc(size_t count, size_t size, void **blocks)
    {
        dvsm_heap_independent_calloc(heap, count, size, blocks);
    }
    static void independent_comalloc(size_t count, const size_t *sizes, void **blocks)
    {
        dvsm_heap_independent_comalloc(heap, count, sizes, blocks);
    }
    static void trim()
    {
        dvsm_heap_trim(heap, 0);
    }
    static size_t footprint()
    {
        return dvsm_heap_footprint(heap);
    }
};

/* What dlmalloc's calls beyond ISO C are for an allocator A without them. */
template <class A> struct Loops {
    static void resize_in_place(void *, size_t)
    {
    }
    static void bulk_free(void **blocks, size_t count)
    {
        for (size_t i = 0; i < count; i++)
            A::free(blocks[i]);
    }
    static void independent_calloc(size_t count, size_t size, void **blocks)
    {
        for (size_t i = 0; i < count; i++)
            blocks[i] = A::calloc(1, size);
    }
    static void independent_comalloc(size_t count, const size_t *sizes, void **blocks)
    {
        for (size_t i = 0; i < count; i++)
            blocks[i] = A::malloc(sizes[i]);
    }
    static void trim()
    {
    }
    static size_t footprint()
    {
        return 0;
    }
};

/* The program's malloc: glibc's, or what LD_PRELOAD puts in its place. */
struct Libc : Loops<Libc> {
    static constexpr const char *name = "libc";
    static constexpr bool shared = false, threads = true, linear = false, cramped = false,
                          complete = true;

    static bool open()
    {
        return true;
    }
    static void *malloc(size_t size)
    {
        return ::malloc(size);
    }
    static void free(void *block)
    {
        ::free(block);
    }
    static void *realloc(void *block, size_t size)
    {
        return ::realloc(block, size);
    }
    static void *calloc(size_t count, size_t size)
    {
        return ::calloc(count, size);
    }
    static void *memalign(size_t alignment, size_t size)
    {
        return ::memalign(alignment, size);
    }
    static void trim()
    {
        ::malloc_trim(0);
    }
    static size_t usable(void *block)
    {
        return ::malloc_usable_size(block);
    }
};

#endif
