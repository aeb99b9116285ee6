/* peers.h - other heaps in shared memory, as policies like those of allocators.h. Each lives in one
 * mapping of fixed size made by open(), as its users have it. Compiled in where CMake found it. */
#ifndef BENCHMARKS_PEERS_H
#define BENCHMARKS_PEERS_H

#include <algorithm>
#include <cstring>
#include <new>
#include <sys/mman.h>

#include "allocators.h"

constexpr size_t peer_bytes = size_t(1) << 30;

inline void *shared_mapping(size_t bytes)
{
    void *base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? nullptr : base;
}

#ifdef BENCHMARKS_BOOST
#include <boost/interprocess/indexes/iset_index.hpp>
#include <boost/interprocess/managed_external_buffer.hpp>
#include <boost/interprocess/mem_algo/rbtree_best_fit.hpp>
#include <boost/interprocess/mem_algo/simple_seq_fit.hpp>
#include <boost/interprocess/sync/mutex_family.hpp>

/* A managed segment with `Algorithm` behind a process-shared mutex. */
template <class Self, class Algorithm> struct BoostSegment : Loops<Self> {
    using Segment =
        boost::interprocess::basic_managed_external_buffer<char, Algorithm,
                                                           boost::interprocess::iset_index>;
    static constexpr bool shared = true, threads = true, cramped = false, complete = false;
    static inline Segment *segment;

    static bool open()
    {
        void *base = segment == nullptr ? shared_mapping(peer_bytes) : nullptr;
        if (base != nullptr)
            segment = new Segment(boost::interprocess::create_only, base, peer_bytes);
        return segment != nullptr;
    }
    static void *malloc(size_t size)
    {
        return segment->allocate(size, std::nothrow);
    }
    static void free(void *block)
    {
        segment->deallocate(block);
    }
    static size_t usable(void *block)
    {
        return segment->get_segment_manager()->size(block);
    }
    static void *calloc(size_t count, size_t size)
    {
        void *block = malloc(count * size);
        return block == nullptr ? nullptr : std::memset(block, 0, count * size);
    }
    static void *realloc(void *block, size_t size)
    {
        void *moved = malloc(size);
        if (moved != nullptr && block != nullptr) {
            std::memcpy(moved, block, std::min(size, usable(block)));
            free(block);
        }
        return moved;
    }
};

struct BoostTree
    : BoostSegment<BoostTree,
                   boost::interprocess::rbtree_best_fit<boost::interprocess::mutex_family>> {
    static constexpr const char *name = "boost-rbtree";
    static constexpr bool linear = false;
};

struct BoostSequence
    : BoostSegment<BoostSequence,
                   boost::interprocess::simple_seq_fit<boost::interprocess::mutex_family>> {
    static constexpr const char *name = "boost-simple-seq";
    static constexpr bool linear = true;
};
#endif

#ifdef BENCHMARKS_OSSP_MM
extern "C" {
#include <mm.h>
}

/* Its lock is a file's, which keeps processes apart, not threads. */
struct OsspMm : Loops<OsspMm> {
    static constexpr const char *name = "ossp-mm";
    static constexpr bool shared = true, threads = false, linear = true, cramped = true,
                          complete = false;
    static inline MM *pool;

    static bool open()
    {
        if (pool == nullptr)
            pool = mm_create(std::min(peer_bytes, mm_maxsize()), nullptr);
        return pool != nullptr;
    }
    static void *malloc(size_t size)
    {
        return mm_malloc(pool, size);
    }
    static void free(void *block)
    {
        mm_free(pool, block);
    }
    static void *realloc(void *block, size_t size)
    {
        return mm_realloc(pool, block, size);
    }
    static void *calloc(size_t count, size_t size)
    {
        return mm_calloc(pool, count, size);
    }
    static size_t usable(void *block)
    {
        return mm_sizeof(pool, block);
    }
};
#endif

#ifdef BENCHMARKS_APR
#include <apr_general.h>
#include <apr_proc_mutex.h>
#include <apr_rmm.h>

/* Gives offsets; a user turns them into addresses and back. */
struct AprRmm : Loops<AprRmm> {
    static constexpr const char *name = "apr-rmm";
    static constexpr bool shared = true, threads = true, linear = true, cramped = false,
                          complete = false;
    static inline apr_rmm_t *rmm;

    static bool open()
    {
        static apr_anylock_t lock;
        apr_pool_t *pool;

        if (rmm != nullptr)
            return true;
        if (apr_initialize() != APR_SUCCESS || apr_pool_create(&pool, nullptr) != APR_SUCCESS)
            return false;
        lock.type = lock.apr_anylock_procmutex;
        if (apr_proc_mutex_create(&lock.lock.pm, nullptr, APR_LOCK_PROC_PTHREAD, pool) !=
            APR_SUCCESS)
            return false;
        void *base = shared_mapping(peer_bytes);
        if (base != nullptr && apr_rmm_init(&rmm, &lock, base, peer_bytes, pool) != APR_SUCCESS)
            rmm = nullptr;
        return rmm != nullptr;
    }
    static void *address(apr_rmm_off_t offset)
    {
        return offset == 0 ? nullptr : apr_rmm_addr_get(rmm, offset);
    }
    static void *malloc(size_t size)
    {
        return address(apr_rmm_malloc(rmm, size));
    }
    static void free(void *block)
    {
        apr_rmm_free(rmm, apr_rmm_offset_get(rmm, block));
    }
    static void *realloc(void *block, size_t size)
    {
        return address(apr_rmm_realloc(rmm, block, size));
    }
    static void *calloc(size_t count, size_t size)
    {
        return address(apr_rmm_calloc(rmm, count * size));
    }
};
#endif

#endif
