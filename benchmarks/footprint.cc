/* footprint.cc - how much memory each workload takes: over time, at the peak, after a trim while
 * its blocks are still live, and after a trim when all are freed. Each run is in a child of its
 * own. */
#include <cstdio>

#include "allocators.h"
#include "crews.h"
#include "modes.h"
#include "trace.h"
#include "watched.h"

static void print_peak(const Watch &watch)
{
    std::printf("      \"peak\": {\"resident\": %zu, \"said\": %zu, \"live\": %zu},\n", watch.peak,
                watch.peak_said, watch.live_peak);
}

/* `shared`: what of it is shared memory: dvsm's, without the workload's own tables. */
static void print_now(const char *name, const Watch &watch)
{
    std::printf("      \"%s\": {\"resident\": %zu, \"shared\": %zu, \"said\": %zu, "
                "\"live\": %zu},\n",
                name, watch.resident(), watch.shared(), watch.said(), watch.live);
}

/* At most 200 samples, the first and the last of each stretch among them. */
static void print_samples(const Watch &watch)
{
    size_t stride = watch.sampled / 200 + 1;

    std::printf("      \"samples\": [");
    for (size_t i = 0; i < watch.sampled; i += stride) {
        const Sample &s = watch.samples[i];
        std::printf("%s[%zu, %zu, %zu]", i == 0 ? "" : ", ", s.calls, s.resident, s.live);
    }
    std::printf("]\n");
}

/* `work` makes a workload's object; `steps` steps of it are watched. */
template <class A, class Make> static void watch_child(Watch &watch, size_t steps, Make make)
{
    Watched<A>::watch = &watch;
    A::trim();
    watch.begin(A::footprint);
    {
        auto work = make();
        for (size_t i = 0; i < steps; i++)
            work.step();
        A::trim();
        print_peak(watch);
        print_now("trimmed", watch);
    }
    A::trim();
    ::malloc_trim(0); /* the workload's tables */
    print_now("empty", watch);
    print_samples(watch);
    std::fflush(stdout);
}

template <class A, class Make> static void print_run(size_t steps, Make make, const char *after)
{
    InSharedMemory<Watch> watch;

    std::printf("    \"%s\": {\n", A::name);
    std::fflush(stdout);
    in_child([&] { watch_child<A>(*watch, steps, make); });
    std::printf("    }%s\n", after);
}

/* `Work` as a template over the allocator, with the argument it is made with. */
template <template <class> class Work>
static void print_workload(const char *name, size_t steps, size_t argument, const char *after = ",")
{
    std::printf("  \"%s\": {\n", name);
    print_run<Dvsm>(
        steps, [&] { return Work<Watched<Dvsm>>(argument); }, ",");
    print_run<Libc>(
        steps, [&] { return Work<Watched<Libc>>(argument); }, "");
    std::printf("  }%s\n", after);
}

void print_footprint()
{
    constexpr size_t many = 500000, some = 2000, few = 3;
    const size_t none = 0;

    Dvsm::open();
    golden_traces(); /* here, not in a child, where they would count */
    std::printf("{\n");
    print_workload<Pair>("pair/64", many, size_t(64));
    print_workload<Mixed>("mixed", many, none);
    print_workload<Ring>("ring", many, none);
    print_workload<PowerLawSizes>("powerlaw", many, none);
    print_workload<Batch>("batch/order", few, size_t(in_order));
    print_workload<Batch>("batch/reverse", few, size_t(reverse));
    print_workload<Batch>("batch/random", few, size_t(at_random));
    print_workload<Growth>("realloc", some, none);
    print_workload<Zeroed>("calloc/4096", many, size_t(4096));
    print_workload<Large>("large", some, none);
    print_workload<Touch>("touch", few, none);
    print_workload<Replay>("replay", few, none, "");
    std::printf("}\n");
}
