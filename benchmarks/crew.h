/* crew.h - several workers, threads or processes, that start together and stop together.
 *
 * What a worker does is a function body(index, crew) that prepares, calls crew.ready(), works
 * until crew.stopped() and returns how many operations it did. crew_rate() lets n of them run
 * for a while and returns what all did together and in what time. Worker i runs on CPU i modulo
 * how many there are, so that what is measured is the allocator and not how soon the scheduler
 * spreads them.
 */
#ifndef BENCHMARKS_CREW_H
#define BENCHMARKS_CREW_H

#include <atomic>
#include <cstdint>
#include <ctime>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

inline double now()
{
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

/* A T in memory of its own that processes forked later share. */
template <class T> class InSharedMemory
{
  public:
    InSharedMemory()
    {
        void *base =
            mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED)
            throw std::bad_alloc();
        value = new (base) T();
    }
    InSharedMemory(const InSharedMemory &) = delete;
    ~InSharedMemory()
    {
        value->~T();
        munmap(value, sizeof(T));
    }
    T *operator->() const
    {
        return value;
    }
    T &operator*() const
    {
        return *value;
    }

  private:
    T *value;
};

enum class Kind { threads, processes };

constexpr unsigned crew_most = 64;

class Crew
{
  public:
    void begin(unsigned workers)
    {
        pthread_barrierattr_t shared;
        pthread_barrierattr_init(&shared);
        pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(&start, &shared, workers + 1);
        pthread_barrierattr_destroy(&shared);
    }
    void ready()
    {
        pthread_barrier_wait(&start);
    }
    bool stopped() const
    {
        return stop.load(std::memory_order_relaxed);
    }
    void finish()
    {
        stop.store(true, std::memory_order_relaxed);
    }
    uint64_t operations[crew_most] = {};

  private:
    alignas(64) pthread_barrier_t start;
    alignas(64) std::atomic<bool> stop{false};
};

inline void run_on_cpu(unsigned index)
{
    cpu_set_t allowed, one;
    sched_getaffinity(0, sizeof allowed, &allowed);
    int skip = int(index) % CPU_COUNT(&allowed), cpu = -1;
    do
        cpu++;
    while (!CPU_ISSET(cpu, &allowed) || skip-- > 0);
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

/* A child that died did not do its work: no result. */
inline void wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        throw std::runtime_error("a child process failed");
}

struct Rate {
    double operations, seconds;
};

template <class Body> Rate crew_rate(Kind kind, unsigned workers, double seconds, Body body)
{
    InSharedMemory<Crew> crew;
    std::vector<std::thread> threads;
    std::vector<pid_t> processes;

    crew->begin(workers);
    for (unsigned i = 0; i < workers; i++) {
        auto work = [&crew, &body, i] {
            run_on_cpu(i);
            crew->operations[i] = body(i, *crew);
        };
        if (kind == Kind::threads) {
            threads.emplace_back(work);
            continue;
        }
        pid_t child = fork();
        if (child == 0) {
            work();
            _exit(0);
        }
        processes.push_back(child);
    }
    crew->ready();
    double begin = now();
    usleep(useconds_t(seconds * 1e6));
    crew->finish();
    double end = now();
    for (std::thread &thread : threads)
        thread.join();
    for (pid_t child : processes)
        wait_for(child);

    double total = 0;
    for (uint64_t count : crew->operations)
        total += double(count);
    return {total, end - begin};
}

#endif
