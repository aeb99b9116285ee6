/* percentiles.cc - how long single calls take: two processes, each with its ring of 1,000 live
 * blocks of 16 to 512 bytes, every call between two looks at the clock. */
#include <algorithm>
#include <array>
#include <cstdio>

#if defined __x86_64__
#include <x86intrin.h>
#endif

#include "allocators.h"
#include "crews.h"
#include "modes.h"

/* Clock ticks; what comes before is done when it is read. */
static inline uint64_t ticks()
{
#if defined __x86_64__
    unsigned core;
    uint64_t t = __rdtscp(&core);
    _mm_lfence();
    return t;
#else
    return uint64_t(now() * 1e9);
#endif
}

static double ns_per_tick()
{
    double begin = now();
    uint64_t first = ticks();
    while (now() - begin < 0.05)
        ;
    return (now() - begin) * 1e9 / double(ticks() - first);
}

/* Counts by size, 32 classes to each doubling: values are kept to within 3 %. */
class Histogram
{
  public:
    void add(uint64_t value)
    {
        counts[index(value)]++;
    }
    void add(const Histogram &other)
    {
        for (size_t i = 0; i < counts.size(); i++)
            counts[i] += other.counts[i];
    }
    uint64_t percentile(double share) const
    {
        uint64_t total = 0, below = 0;
        for (uint64_t count : counts)
            total += count;
        for (size_t i = 0; i < counts.size(); i++) {
            below += counts[i];
            if (double(below) >= share * double(total))
                return value(i);
        }
        return 0;
    }

  private:
    static constexpr unsigned bits = 5;

    static size_t index(uint64_t value)
    {
        unsigned shift = value < 2u << bits ? 0 : 63 - bits - unsigned(__builtin_clzll(value));
        return (size_t(shift) << bits) + size_t(value >> shift);
    }
    /* The largest of the class. */
    static uint64_t value(size_t index)
    {
        unsigned shift = index < 2u << bits ? 0 : unsigned(index >> bits) - 1;
        return ((uint64_t(index) - (uint64_t(shift) << bits) + 1) << shift) - 1;
    }
    std::array<uint64_t, (64 - bits + 1) << bits> counts{};
};

struct Calls {
    Histogram allocating, freeing;
};

template <class A> static Calls ring_calls(double seconds)
{
    constexpr unsigned workers = 2;
    InSharedMemory<std::array<Calls, workers>> calls;

    crew_rate(Kind::processes, workers, seconds, [&calls](unsigned i, Crew &crew) {
        Ring<A> ring(0);
        Calls &mine = (*calls)[i];
        for (size_t warm = 0; warm < 200 * ring.live; warm++)
            ring.step();
        crew.ready();
        while (!crew.stopped()) {
            void *&block = ring.blocks[ring.oldest];
            size_t size = ring.random.between(16, 512);
            uint64_t t0 = ticks();
            A::free(block);
            uint64_t t1 = ticks();
            block = A::malloc(size);
            uint64_t t2 = ticks();
            touched(block);
            mine.freeing.add(t1 - t0);
            mine.allocating.add(t2 - t1);
            ring.oldest = ring.oldest + 1 == ring.live ? 0 : ring.oldest + 1;
        }
        return uint64_t(0);
    });
    (*calls)[0].allocating.add((*calls)[1].allocating);
    (*calls)[0].freeing.add((*calls)[1].freeing);
    return (*calls)[0];
}

static const double shares[] = {0.5, 0.9, 0.99, 0.999, 0.9999};
static const char *const share_names[] = {"p50", "p90", "p99", "p99.9", "p99.99"};

/* The median over the runs of each percentile. */
static void print_call(const char *call, const std::vector<Calls> &runs, Histogram Calls::*which,
                       double scale)
{
    std::printf("\"%s\": {", call);
    for (size_t i = 0; i < std::size(shares); i++) {
        std::vector<uint64_t> values;
        for (const Calls &run : runs)
            values.push_back((run.*which).percentile(shares[i]));
        std::sort(values.begin(), values.end());
        std::printf("%s\"%s\": %.1f", i == 0 ? "" : ", ", share_names[i],
                    double(values[values.size() / 2]) * scale);
    }
    std::printf("}");
}

static void print_allocator(const char *name, const std::vector<Calls> &runs, double scale)
{
    std::printf("  \"%s\": {", name);
    print_call("malloc", runs, &Calls::allocating, scale);
    std::printf(", ");
    print_call("free", runs, &Calls::freeing, scale);
    std::printf("},\n");
}

/* What the clock itself costs is part of every figure. */
static uint64_t clock_ticks()
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < 10000; i++) {
        uint64_t t = ticks();
        least = std::min(least, ticks() - t);
    }
    return least;
}

void print_percentiles(unsigned runs)
{
    constexpr double seconds = 0.4;
    std::vector<Calls> dvsm, libc;
    double scale = ns_per_tick();

    Dvsm::open();
    for (unsigned run = 0; run < runs; run++) {
        dvsm.push_back(ring_calls<Dvsm>(seconds));
        libc.push_back(ring_calls<Libc>(seconds));
    }
    std::printf("{\n");
    print_allocator(Dvsm::name, dvsm, scale);
    print_allocator(Libc::name, libc, scale);
    std::printf("  \"clock\": %.1f\n}\n", double(clock_ticks()) * scale);
}
