/* crews.h - the workloads of several workers, each a function that lets a crew work for a while and
 * returns what it did; and those of fork. */
#ifndef BENCHMARKS_CREWS_H
#define BENCHMARKS_CREWS_H

#include <cstdio>

#include "crew.h"
#include "workloads.h"

constexpr double crew_seconds = 0.2;

/* Steps `work` until the crew is stopped; how many steps that were. */
template <class Work> uint64_t steps_until_stopped(Work &work, const Crew &crew)
{
    uint64_t steps = 0;
    for (; !crew.stopped(); steps++)
        work.step();
    return steps;
}

/* Each worker its own ring. */
template <class A> Rate ring_crew(Kind kind, unsigned workers)
{
    return crew_rate(kind, workers, crew_seconds, [](unsigned, Crew &crew) {
        Ring<A> ring(0);
        crew.ready();
        return steps_until_stopped(ring, crew);
    });
}

/* The blocks of all workers, where each sees what the others put there if the allocator lets it. */
template <class A> class Slots
{
  public:
    explicit Slots(size_t count) : bytes(count * sizeof(void *))
    {
        int sharing = A::shared ? MAP_SHARED : MAP_PRIVATE;
        void *base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED)
            throw std::bad_alloc();
        blocks = static_cast<void **>(base);
    }
    Slots(const Slots &) = delete;
    ~Slots()
    {
        munmap(blocks, bytes);
    }
    void **blocks;

  private:
    size_t bytes;
};

/* The workers' blocks are made by the parent, and freed by it in the end; processes with private
 * heaps have copies of them. */
template <class A> Rate larson_crew(Kind kind, unsigned workers)
{
    constexpr size_t live = Larson<A>::live;
    Slots<A> slots(workers * live);

    for (unsigned i = 0; i < workers; i++)
        Larson<A>::fill(slots.blocks + i * live);
    Rate rate = crew_rate(kind, workers, crew_seconds, [&slots](unsigned i, Crew &crew) {
        Larson<A> larson(i, slots.blocks + i * live);
        crew.ready();
        return steps_until_stopped(larson, crew);
    });
    for (unsigned i = 0; i < workers; i++)
        Larson<A>::empty(slots.blocks + i * live);
    return rate;
}

/* A ring of pointers from one producer to one consumer (Lamport's), each of which keeps a copy
 * of the other's position and looks again only where the copy says it must wait. */
class Pipe
{
  public:
    bool push(void *block)
    {
        size_t at = written.load(std::memory_order_relaxed);
        if (at - read_seen == slots) {
            read_seen = read.load(std::memory_order_acquire);
            if (at - read_seen == slots)
                return false;
        }
        blocks[at % slots] = block;
        written.store(at + 1, std::memory_order_release);
        return true;
    }
    void *pop()
    {
        size_t at = read.load(std::memory_order_relaxed);
        if (at == written_seen) {
            written_seen = written.load(std::memory_order_acquire);
            if (at == written_seen)
                return nullptr;
        }
        void *block = blocks[at % slots];
        read.store(at + 1, std::memory_order_release);
        return block;
    }
    std::atomic<bool> closed{false};

  private:
    static constexpr size_t slots = 4096;
    alignas(64) std::atomic<size_t> written{0};
    size_t read_seen = 0;
    alignas(64) std::atomic<size_t> read{0};
    size_t written_seen = 0;
    alignas(64) void *blocks[slots];
};

/* One allocates blocks of 16 to 512 bytes, the other frees them; an operation is a block that
 * went all the way. */
template <class A> Rate producer_consumer(Kind kind, unsigned)
{
    InSharedMemory<Pipe> pipe;

    auto produce = [&pipe](Crew &crew) {
        Random random(9);
        void *block = nullptr;
        crew.ready();
        while (!crew.stopped()) {
            if (block == nullptr)
                block = touched(A::malloc(random.between(16, 512)));
            if (pipe->push(block))
                block = nullptr;
            else
                sched_yield();
        }
        if (block != nullptr)
            A::free(block);
        pipe->closed.store(true, std::memory_order_release);
        return uint64_t(0);
    };
    auto consume = [&pipe](Crew &crew) {
        uint64_t freed = 0;
        crew.ready();
        for (;;) {
            bool closed = pipe->closed.load(std::memory_order_acquire);
            void *block = pipe->pop();
            if (block != nullptr) {
                A::free(block);
                freed += !crew.stopped();
            } else if (closed) {
                return freed;
            } else {
                sched_yield();
            }
        }
    };
    return crew_rate(kind, 2, crew_seconds, [&](unsigned i, Crew &crew) {
        return i == 0 ? produce(crew) : consume(crew);
    });
}

/* Forks a child that runs `body` and waits for it. */
template <class Body> void in_child(Body body)
{
    pid_t child = fork();
    if (child == 0) {
        body();
        _exit(0);
    }
    wait_for(child);
}

/* A child is forked while 10,000 blocks are live, allocates 100 blocks of its own, frees them,
 * exits. */
template <class A> struct ForkStorm {
    static constexpr size_t operations = 1;
    PowerLawSizes<A> live{0};

    explicit ForkStorm(size_t)
    {
    }
    void step()
    {
        in_child([] {
            Random random(10);
            void *blocks[100];
            for (void *&block : blocks)
                block = touched(A::malloc(random.between(16, 512)));
            for (void *block : blocks)
                A::free(block);
        });
    }
};

/* How long fork() takes the parent while a heap of 1 GiB is in use. */
template <class A> class ForkBigHeap
{
  public:
    ForkBigHeap()
    {
        for (void *&block : blocks) {
            block = A::malloc(bytes);
            touch_every(block, bytes, 4096);
        }
    }
    ~ForkBigHeap()
    {
        for (void *block : blocks)
            A::free(block);
        A::trim();
    }
    double seconds()
    {
        double begin = now();
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        double end = now();
        wait_for(child);
        return end - begin;
    }

  private:
    static constexpr size_t bytes = size_t(1) << 20;
    void *blocks[1024];
};

/* Touch in a child, in which the pages are the first of their kind: seconds for all of them. */
template <class A> double fresh_touch_seconds()
{
    InSharedMemory<double> seconds;

    in_child([&seconds] {
        Touch<A> touch(0);
        double begin = now();
        touch.fill();
        *seconds = now() - begin;
        for (void *block : touch.blocks)
            A::free(block);
        A::trim();
    });
    return *seconds;
}

#endif
