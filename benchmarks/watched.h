/* watched.h - an allocator's policy that looks, every few calls, at how much memory the process
 * has. */
#ifndef BENCHMARKS_WATCHED_H
#define BENCHMARKS_WATCHED_H

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

/* Bytes of the process that are in memory, and those of them that are shared or a file's. */
struct Memory {
    size_t resident, shared;
};

inline Memory memory_now()
{
    static int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    static const auto page = size_t(sysconf(_SC_PAGESIZE));
    char text[128] = "";
    unsigned long total = 0, resident = 0, shared = 0;

    if (pread(file, text, sizeof text - 1, 0) > 0)
        std::sscanf(text, "%lu %lu %lu", &total, &resident, &shared);
    return {resident * page, shared * page};
}

struct Sample {
    size_t calls, resident, live;
};

/* Where all that a watched allocator did is written down. */
class Watch
{
  public:
    static constexpr size_t samples_most = 8192;

    void begin(size_t (*bytes)())
    {
        footprint = bytes;
        base = memory_now();
    }
    void gain(size_t bytes)
    {
        live += bytes;
        count(bytes);
    }
    void lose(size_t bytes)
    {
        live -= bytes;
        count(bytes);
    }
    size_t resident() const
    {
        return more(memory_now().resident, base.resident);
    }
    size_t shared() const
    {
        return more(memory_now().shared, base.shared);
    }
    /* What the allocator says it has; its own metadata count from the start. */
    size_t said() const
    {
        return footprint();
    }
    size_t calls = 0, live = 0, live_peak = 0, peak = 0, peak_said = 0;
    size_t sampled = 0;
    Sample samples[samples_most];

  private:
    static size_t more(size_t now, size_t before)
    {
        return now > before ? now - before : 0;
    }
    void count(size_t bytes)
    {
        calls++;
        live_peak = std::max(live_peak, live);
        if (calls % every != 0 && bytes < (64 << 10))
            return;
        size_t now = resident();
        peak = std::max(peak, now);
        peak_said = std::max(peak_said, footprint());
        if (calls - last < interval)
            return;
        if (sampled == samples_most)
            thin_out();
        samples[sampled++] = {calls, now, live};
        last = calls;
    }
    /* Every other sample goes; from now on half as many are taken. */
    void thin_out()
    {
        for (size_t i = 0; i < samples_most / 2; i++)
            samples[i] = samples[2 * i];
        sampled = samples_most / 2;
        interval *= 2;
    }
    static constexpr size_t every = 256;
    Memory base = {};
    size_t last = 0, interval = 1;
    size_t (*footprint)() = nullptr;
};

template <class A> struct Watched : A {
    static inline Watch *watch;

    static void *gained(void *block)
    {
        watch->gain(A::usable(block));
        return block;
    }
    static void *malloc(size_t size)
    {
        return gained(A::malloc(size));
    }
    static void free(void *block)
    {
        size_t bytes = A::usable(block);
        A::free(block);
        watch->lose(bytes);
    }
    static void *calloc(size_t count, size_t size)
    {
        return gained(A::calloc(count, size));
    }
    static void *memalign(size_t alignment, size_t size)
    {
        return gained(A::memalign(alignment, size));
    }
    static void *realloc(void *block, size_t size)
    {
        size_t before = A::usable(block);
        void *moved = A::realloc(block, size);
        if (moved != nullptr) {
            watch->lose(before);
            gained(moved);
        }
        return moved;
    }
    static void resize_in_place(void *block, size_t size)
    {
        size_t before = A::usable(block);
        A::resize_in_place(block, size);
        watch->lose(before);
        gained(block);
    }
    static void bulk_free(void **blocks, size_t count)
    {
        size_t bytes = 0;
        for (size_t i = 0; i < count; i++)
            bytes += A::usable(blocks[i]);
        A::bulk_free(blocks, count);
        watch->lose(bytes);
    }
    static void independent_calloc(size_t count, size_t size, void **blocks)
    {
        A::independent_calloc(count, size, blocks);
        std::for_each(blocks, blocks + count, gained);
    }
    static void independent_comalloc(size_t count, const size_t *sizes, void **blocks)
    {
        A::independent_comalloc(count, sizes, blocks);
        std::for_each(blocks, blocks + count, gained);
    }
};

#endif
