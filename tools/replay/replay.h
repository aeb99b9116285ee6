/* replay.h - carrying out a trace on one arena and printing where everything went. */
#ifndef DVSM_REPLAY_REPLAY_H
#define DVSM_REPLAY_REPLAY_H

#include "arena/region_source.h"
#include "engine/arena.h"
#include "trace.h"

/* What the trace's ids stand for. */
struct id_table {
    void **value;
    size_t size;
};

struct replay {
    struct trace trace;
    struct arena *arena;
    struct region_source source;
    struct policy policy;
    struct segments segments;
    dvsm_mapping granules; /* of a trace with segments */
    struct id_table blocks, holds;
    char *origin;
    bool check; /* after each request */
};

/* The arena that the trace asks for, over fresh memory, with its origin taken. */
void replay_start(struct replay *replay);

/* One request, and its lines. */
void replay_request(struct replay *replay, const struct request *request);

/* The state at the end, as lines. */
void replay_print_state(struct replay *replay);

/* Every check of the arena and the map; how many violations, each with a line on stderr. */
int replay_check(struct replay *replay);

struct arena_call replay_call(struct replay *replay);

/* An address as the trace's offset. */
static inline long long replay_offset(const struct replay *replay, const void *payload)
{
    return (long long)((const char *)payload - replay->origin);
}

#endif
