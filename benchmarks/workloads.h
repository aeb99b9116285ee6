/* workloads.h - what is measured, each as a struct over an allocator's policy:
 *
 *     W(argument)   makes what is live before the clock starts; a size, an order, or 0
 *     step()        one step: `operations` calls of malloc with the calls of free that go with them
 *     ~W()          frees what is live
 *
 * Every block is written to, at least one byte of it, so that no compiler may leave a pair out
 * and a block costs the same memory accesses whoever made it.
 */
#ifndef BENCHMARKS_WORKLOADS_H
#define BENCHMARKS_WORKLOADS_H

#include <algorithm>
#include <cstdio>
#include <random>
#include <unistd.h>
#include <vector>

#include <benchmark/benchmark.h>

#include "random.h"

/* A request that fails is faster than one that does not: none may pass for a result. */
[[noreturn, gnu::cold, gnu::noinline]] inline void out_of_memory()
{
    std::fputs("benchmarks: an allocation failed\n", stderr);
    _exit(1);
}

/* Writes to the block, unless it has no byte. */
inline void *touched(void *block, size_t bytes = 1)
{
    if (block == nullptr)
        out_of_memory();
    if (bytes > 0)
        *static_cast<volatile char *>(block) = 1;
    benchmark::DoNotOptimize(block);
    return block;
}

inline void touch_every(void *block, size_t bytes, size_t stride)
{
    if (block == nullptr)
        out_of_memory();
    for (size_t at = 0; at < bytes; at += stride)
        static_cast<volatile char *>(block)[at] = 1;
    benchmark::DoNotOptimize(block);
}

/* One block of one size, allocated and freed. */
template <class A> struct Pair {
    static constexpr size_t operations = 1;
    size_t size;

    explicit Pair(size_t bytes) : size(bytes)
    {
    }
    void step()
    {
        A::free(touched(A::malloc(size)));
    }
};

/* The same with sizes from 1 to 512 bytes in random order. */
template <class A> struct Mixed {
    static constexpr size_t operations = 1;
    Random random;

    explicit Mixed(size_t) : random(1)
    {
    }
    void step()
    {
        A::free(touched(A::malloc(random.between(1, 512))));
    }
};

/* 1,000 live blocks of 16 to 512 bytes: the oldest goes, a new one comes. */
template <class A> struct Ring {
    static constexpr size_t operations = 1, live = 1000;
    Random random{2};
    size_t oldest = 0;
    void *blocks[live];

    explicit Ring(size_t)
    {
        for (void *&block : blocks)
            block = touched(A::malloc(random.between(16, 512)));
    }
    ~Ring()
    {
        for (void *block : blocks)
            A::free(block);
    }
    void step()
    {
        A::free(blocks[oldest]);
        blocks[oldest] = touched(A::malloc(random.between(16, 512)));
        oldest = oldest + 1 == live ? 0 : oldest + 1;
    }
};

/* 10,000 live blocks with sizes by a power law: one at random is replaced. */
template <class A> struct PowerLawSizes {
    static constexpr size_t operations = 1, live = 10000;
    Random random{3};
    PowerLaw sizes;
    std::vector<void *> blocks{live};

    explicit PowerLawSizes(size_t)
    {
        for (void *&block : blocks)
            block = touched(A::malloc(sizes.draw(random)));
    }
    ~PowerLawSizes()
    {
        for (void *block : blocks)
            A::free(block);
    }
    void step()
    {
        void *&block = blocks[random.below(live)];
        A::free(block);
        block = touched(A::malloc(sizes.draw(random)));
    }
};

enum Order { in_order, reverse, at_random };

/* 200,000 blocks of 16 to 256 bytes are allocated, then all are freed in some order. */
template <class A> struct Batch {
    static constexpr size_t operations = 200000;
    std::vector<uint16_t> sizes;
    std::vector<uint32_t> order;
    std::vector<void *> blocks{operations};

    explicit Batch(size_t which)
    {
        Random random(4);
        for (size_t i = 0; i < operations; i++) {
            sizes.push_back(uint16_t(random.between(16, 256)));
            order.push_back(uint32_t(i));
        }
        if (which == reverse)
            std::reverse(order.begin(), order.end());
        if (which == at_random)
            std::shuffle(order.begin(), order.end(), std::mt19937(5));
    }
    void step()
    {
        for (size_t i = 0; i < operations; i++)
            blocks[i] = touched(A::malloc(sizes[i]));
        for (uint32_t i : order)
            A::free(blocks[i]);
    }
};

constexpr size_t growth_steps(size_t first, size_t last)
{
    size_t steps = 0;
    for (size_t size = first; size < last; size += size / 2)
        steps++;
    return steps;
}

/* A block grows by halves from 16 bytes to 1 MiB, its end written at each step: an operation. */
template <class A> struct Growth {
    static constexpr size_t first = 16, last = size_t(1) << 20;
    static constexpr size_t operations = growth_steps(first, last);

    explicit Growth(size_t)
    {
    }
    void step()
    {
        auto *block = static_cast<char *>(touched(A::malloc(first)));
        for (size_t size = first; size < last;) {
            size += size / 2;
            block = static_cast<char *>(touched(A::realloc(block, size)));
            touched(block + size - 1);
        }
        A::free(block);
    }
};

/* A zeroed block of one size, freed again. */
template <class A> struct Zeroed {
    static constexpr size_t operations = 1;
    size_t size;

    explicit Zeroed(size_t bytes) : size(bytes)
    {
    }
    void step()
    {
        A::free(touched(A::calloc(1, size)));
    }
};

/* A block of 256 KiB to 4 MiB, touched every 64 KiB. */
template <class A> struct Large {
    static constexpr size_t operations = 1;
    Random random{6};

    explicit Large(size_t)
    {
    }
    void step()
    {
        size_t size = random.between(256 << 10, 4 << 20);
        void *block = A::malloc(size);
        touch_every(block, size, 64 << 10);
        A::free(block);
    }
};

/* 64 blocks of 1 MiB, all pages touched, then all freed; an operation is a page. */
template <class A> struct Touch {
    static constexpr size_t count = 64, bytes = size_t(1) << 20, page = 4096;
    static constexpr size_t operations = count * bytes / page;
    void *blocks[count] = {};

    explicit Touch(size_t)
    {
    }
    void fill()
    {
        for (void *&block : blocks) {
            block = A::malloc(bytes);
            touch_every(block, bytes, page);
        }
    }
    void step()
    {
        fill();
        for (void *block : blocks)
            A::free(block);
    }
};

/* Larson and Krishnan's server: each worker replaces blocks of 16 to 512 bytes at random among the
 * 1,000 that another one left it. */
template <class A> struct Larson {
    static constexpr size_t operations = 1, live = 1000;
    static void fill(void **blocks)
    {
        Random random(7);
        for (size_t i = 0; i < live; i++)
            blocks[i] = touched(A::malloc(random.between(16, 512)));
    }
    static void empty(void **blocks)
    {
        for (size_t i = 0; i < live; i++)
            A::free(blocks[i]);
    }
    Random random;
    void **blocks;

    Larson(size_t worker, void **mine) : random(worker + 8), blocks(mine)
    {
    }
    void step()
    {
        void *&block = blocks[random.below(live)];
        A::free(block);
        block = touched(A::malloc(random.between(16, 512)));
    }
};

#endif
