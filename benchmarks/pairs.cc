/* pairs.cc - the pair of malloc and free alone, for the bars that ask for it exactly. */
#include <algorithm>
#include <cstdio>
#include <map>

#include "allocators.h"
#include "crew.h"
#include "modes.h"
#include "workloads.h"

static const size_t sizes[] = {64, 500, 8000};

template <class A> static double pair_ns(size_t size, double seconds)
{
    constexpr size_t burst = 10000;
    Pair<A> pair(size);
    size_t bursts = 0;
    double begin = now(), end;

    do {
        for (size_t i = 0; i < burst; i++)
            pair.step();
        bursts++;
        end = now();
    } while (end - begin < seconds);
    return (end - begin) * 1e9 / double(bursts * burst);
}

/* The median, and all runs in the order they were made. */
static void print_runs(const char *name, const std::vector<double> &runs)
{
    std::vector<double> sorted = runs;
    std::sort(sorted.begin(), sorted.end());
    std::printf("\"%s\": {\"median\": %.3f, \"runs\": [", name, sorted[sorted.size() / 2]);
    for (size_t i = 0; i < runs.size(); i++)
        std::printf("%s%.3f", i == 0 ? "" : ", ", runs[i]);
    std::printf("]}");
}

void print_pairs(unsigned runs, double seconds)
{
    std::map<size_t, std::vector<double>> dvsm, libc;

    run_on_cpu(0);
    Dvsm::open();
    for (size_t size : sizes) {
        pair_ns<Dvsm>(size, seconds / 10);
        pair_ns<Libc>(size, seconds / 10);
    }
    for (unsigned run = 0; run < runs; run++) {
        for (size_t size : sizes) {
            /* Each is first as often as the other. */
            if (run % 2 == 0)
                dvsm[size].push_back(pair_ns<Dvsm>(size, seconds));
            libc[size].push_back(pair_ns<Libc>(size, seconds));
            if (run % 2 != 0)
                dvsm[size].push_back(pair_ns<Dvsm>(size, seconds));
        }
    }
    std::printf("{\n");
    for (size_t size : sizes) {
        std::printf("  \"%zu\": {", size);
        print_runs("dvsm", dvsm[size]);
        std::printf(", ");
        print_runs("libc", libc[size]);
        std::printf("}%s\n", size == sizes[2] ? "" : ",");
    }
    std::printf("}\n");
}
