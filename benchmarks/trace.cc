/* trace.cc - reads the traces of tests/golden/. */
#include "trace.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

static size_t power_of_two(size_t at_least)
{
    size_t power = 1;
    while (power < at_least)
        power *= 2;
    return power;
}

/* False where the line is no request. */
static bool parse(const std::string &line, Request &q)
{
    std::istringstream words(line);
    size_t value;

    q = {};
    if (!(words >> q.kind) || std::string("mcfrpaikb").find(q.kind) == std::string::npos)
        return false;
    words >> q.id;
    if (std::string("mcrpaik").find(q.kind) != std::string::npos)
        words >> q.a;
    if (std::string("cai").find(q.kind) != std::string::npos)
        words >> q.b;
    /* Not every allocator rounds an alignment up. */
    if (q.kind == 'a')
        q.a = std::max<size_t>(power_of_two(q.a), 16);
    while (words >> value)
        q.list.push_back(value);
    return true;
}

static Trace read_trace(const std::filesystem::path &path)
{
    std::ifstream file(path);
    std::string line;
    Trace trace;
    Request q;

    trace.name = path.stem();
    while (std::getline(file, line)) {
        if (line.compare(0, 8, "segments") == 0 || !parse(line, q))
            continue;
        size_t after = q.kind == 'b' ? 0 : q.kind == 'i' || q.kind == 'k' ? q.id + q.a : q.id + 1;
        for (size_t id : q.kind == 'b' ? q.list : std::vector<size_t>())
            after = std::max(after, id + 1);
        trace.ids = std::max(trace.ids, after);
        trace.requests.push_back(q);
    }
    return trace;
}

static std::vector<Trace> read_traces(const std::string &folder)
{
    std::vector<Trace> traces;
    std::error_code none;

    for (const auto &entry : std::filesystem::directory_iterator(folder, none))
        if (entry.path().extension() == ".trace")
            traces.push_back(read_trace(entry.path()));
    std::sort(traces.begin(), traces.end(),
              [](const Trace &a, const Trace &b) { return a.name < b.name; });
    return traces;
}

const std::vector<Trace> &golden_traces()
{
    const char *folder = std::getenv("BENCHMARKS_TRACES");
    static const std::vector<Trace> traces =
        read_traces(folder != nullptr ? folder : TRACES_FOLDER);
    return traces;
}
