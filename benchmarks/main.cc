/* main.cc - Usage: benchmarks [--benchmark_filter=REGEX and Google Benchmark's other flags]
 *                  benchmarks --pairs [RUNS [SECONDS]] | --percentiles [RUNS] | --footprint
 *
 * The filter is for names `workload/allocator[/parameter]`: `--benchmark_filter=/dvsm(/|$)`,
 * `=^ring/`. What `libc` stands for is up to LD_PRELOAD. BENCHMARKS_TRACES: the folder of the
 * traces to replay.
 */
#include <cstdio>
#include <cstring>

#include "allocators.h"
#include "modes.h"
#include "peers.h"
#include "register.h"

static int run_mode(int argc, char **argv)
{
    unsigned runs = argc > 2 ? unsigned(std::atoi(argv[2])) : 9;
    double seconds = argc > 3 ? std::atof(argv[3]) : 0.2;

    if (runs == 0 || seconds <= 0) {
        std::fprintf(stderr, "%s: RUNS and SECONDS are numbers above 0\n", argv[0]);
        return 2;
    }
    if (std::strcmp(argv[1], "--pairs") == 0)
        print_pairs(runs, seconds);
    else if (std::strcmp(argv[1], "--percentiles") == 0)
        print_percentiles(runs);
    else
        print_footprint();
    return 0;
}

static bool is_mode(const char *argument)
{
    for (const char *mode : {"--pairs", "--percentiles", "--footprint"})
        if (std::strcmp(argument, mode) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    if (argc > 1 && is_mode(argv[1]))
        return run_mode(argc, argv);

    Register<Dvsm> dvsm;
    Register<DvsmNoCache> without_cache;
    Register<Libc> libc;
#ifdef BENCHMARKS_BOOST
    Register<BoostTree> boost_tree;
    Register<BoostSequence> boost_sequence;
#endif
#ifdef BENCHMARKS_OSSP_MM
    Register<OsspMm> ossp_mm;
#endif
#ifdef BENCHMARKS_APR
    Register<AprRmm> apr_rmm;
#endif
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 2;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
