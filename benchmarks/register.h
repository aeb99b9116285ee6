/* register.h - the workloads of an allocator A as benchmarks named
 * `workload/allocator[/parameter]`.
 *
 * Google Benchmark appends /manual_time to the names of those that bring their own clock,
 * /real_time to those that wait for a child. items_per_second is operations a second for all of
 * them.
 */
#ifndef BENCHMARKS_REGISTER_H
#define BENCHMARKS_REGISTER_H

#include <string>

#include "crews.h"
#include "trace.h"

template <class A> class Register
{
  public:
    Register()
    {
        for (size_t size : {64, 500, 8000})
            add<Pair<A>>("pair", std::to_string(size), size);
        add<Mixed<A>>("mixed");
        add<Ring<A>>("ring");
        add<Growth<A>>("realloc");
        add<Zeroed<A>>("calloc", "4096", 4096);
        add<Large<A>>("large");
        if constexpr (!A::cramped)
            add<Touch<A>>("touch");
        if constexpr (!A::linear) {
            add<PowerLawSizes<A>>("powerlaw");
            add<Batch<A>>("batch", "order", in_order);
            add<Batch<A>>("batch", "reverse", reverse);
            add<Batch<A>>("batch", "random", at_random);
            add<ForkStorm<A>>("fork-storm")->UseRealTime();
        }
        if constexpr (A::complete) {
            add_replay();
            add_timed("fork-1GiB", "", 1, [](size_t) {
                static ForkBigHeap<A> *heap = new ForkBigHeap<A>;
                return Rate{1, heap->seconds()};
            });
            add_timed("first-touch", "", 1, [](size_t) {
                return Rate{double(Touch<A>::operations), fresh_touch_seconds<A>()};
            });
        }
        if constexpr (A::threads) {
            add_crew("producer-consumer", "threads", Kind::threads, 2, producer_consumer<A>);
            for (unsigned n : {2, 4, 8})
                add_crew("larson-threads", std::to_string(n), Kind::threads, n, larson_crew<A>);
        }
        if constexpr (A::shared)
            add_crew("producer-consumer", "processes", Kind::processes, 2, producer_consumer<A>);
        for (unsigned n : {1, 2, 4, 8, 16}) {
            std::string count = std::to_string(n);
            add_crew("larson-processes", count, Kind::processes, n, larson_crew<A>);
            add_crew("ring-processes", count, Kind::processes, n, ring_crew<A>);
        }
    }

  private:
    using Benchmark = benchmark::internal::Benchmark;

    template <class Function>
    static Benchmark *add_any(std::string workload, const std::string &parameter, Function function)
    {
        workload += std::string("/") + A::name;
        if (!parameter.empty())
            workload += "/" + parameter;
        return benchmark::RegisterBenchmark(workload.c_str(), [=](benchmark::State &state) {
            try {
                if (A::open())
                    function(state);
                else
                    state.SkipWithError("the allocator cannot be opened");
            } catch (const std::exception &failure) {
                state.SkipWithError(failure.what());
            }
        });
    }

    template <class Work> static void run(benchmark::State &state, Work &work, size_t operations)
    {
        for (auto _ : state)
            work.step();
        state.SetItemsProcessed(int64_t(state.iterations() * operations));
    }

    template <class Work>
    static Benchmark *add(const char *workload, const std::string &parameter = "", size_t value = 0)
    {
        return add_any(workload, parameter, [=](benchmark::State &state) {
            Work work(value);
            run(state, work, Work::operations);
        });
    }

    static void add_replay()
    {
        add_any("replay", "", [](benchmark::State &state) {
            Replay<A> replay(0);
            if (replay.operations == 0)
                state.SkipWithError("no traces found: BENCHMARKS_TRACES says where");
            run(state, replay, replay.operations);
        });
    }

    /* `measure` returns a Rate of its own. */
    template <class Measure>
    static void add_timed(const char *workload, const std::string &parameter, size_t value,
                          Measure measure)
    {
        add_any(workload, parameter, [=](benchmark::State &state) {
            double operations = 0;
            for (auto _ : state) {
                Rate rate = measure(value);
                state.SetIterationTime(rate.seconds);
                operations += rate.operations;
            }
            state.SetItemsProcessed(int64_t(operations));
        })->UseManualTime();
    }

    static void add_crew(const char *workload, const std::string &parameter, Kind kind, unsigned n,
                         Rate (*crew)(Kind, unsigned))
    {
        add_timed(workload, parameter, n,
                  [=](size_t workers) { return crew(kind, unsigned(workers)); });
    }
};

#endif
