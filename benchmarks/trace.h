/* trace.h - the requests of tests/golden/NAME.trace (FORMAT.md there), and a workload that makes
 * them. Lines that only the reference's segments have a meaning for (h u t l) are left out. */
#ifndef BENCHMARKS_TRACE_H
#define BENCHMARKS_TRACE_H

#include <string>
#include <utility>
#include <vector>

#include "workloads.h"

struct Request {
    char kind;   /* the first letter of its line */
    size_t id;   /* of the block; for b: how many */
    size_t a, b; /* m: size; c: n, size; r p: size; a: alignment, size; i: n, size; k: n */
    std::vector<size_t> list; /* b: ids; k: sizes */
};

struct Trace {
    std::string name;
    size_t ids = 0; /* they are below this */
    std::vector<Request> requests;
};

/* Those of the folder that BENCHMARKS_TRACES names, else of tests/golden/, by name; read once. */
const std::vector<Trace> &golden_traces();

/* All traces, one after the other, each with its blocks freed at its end. */
template <class A> class Replay
{
  public:
    explicit Replay(size_t) : traces(golden_traces())
    {
        for (const Trace &trace : traces) {
            operations += trace.requests.size();
            blocks.resize(std::max(blocks.size(), trace.ids));
        }
    }
    void step()
    {
        for (const Trace &trace : traces) {
            for (const Request &request : trace.requests)
                make(request);
            for (size_t id = 0; id < trace.ids; id++)
                A::free(std::exchange(blocks[id], nullptr));
        }
    }
    size_t operations = 0;

  private:
    void make(const Request &q)
    {
        void **block = &blocks[q.kind == 'b' ? 0 : q.id];
        switch (q.kind) {
        case 'm':
            *block = touched(A::malloc(q.a), q.a);
            return;
        case 'c':
            *block = touched(A::calloc(q.a, q.b), q.a * q.b);
            return;
        case 'f':
            A::free(std::exchange(*block, nullptr));
            return;
        case 'r':
            *block = touched(A::realloc(*block, q.a), q.a);
            return;
        case 'p':
            A::resize_in_place(*block, q.a);
            return;
        case 'a':
            *block = touched(A::memalign(q.a, q.b), q.b);
            return;
        case 'i':
            A::independent_calloc(q.a, q.b, block);
            return;
        case 'k':
            A::independent_comalloc(q.a, q.list.data(), block);
            return;
        case 'b':
            batch.clear();
            for (size_t id : q.list)
                batch.push_back(std::exchange(blocks[id], nullptr));
            A::bulk_free(batch.data(), batch.size());
            return;
        }
    }

    const std::vector<Trace> &traces;
    std::vector<void *> blocks, batch;
};

#endif
