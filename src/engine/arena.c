/* arena.c - making an arena, recovering it, its parameters, the end of a call. */
#include "engine/arena_internal.h"

enum { GRANULARITY_LEAST = 4096 };

void arena_init(struct arena *a, size_t id)
{
    *a = (struct arena){
        .id = id,
        .trim_check = POLICY_TRIM_THRESHOLD,
        .release_countdown = POLICY_RELEASE_INTERVAL,
        .footprint_limit = SIZE_MAX,
        .trim_threshold = POLICY_TRIM_THRESHOLD,
        .granularity = POLICY_GRANULARITY,
        .large_threshold = POLICY_LARGE_THRESHOLD,
    };
    bins_init(&a->bins);
}

struct arena *arena_init_in(void *buffer, size_t bytes)
{
    char *start = (char *)bits_round_up((size_t)(uintptr_t)buffer, CHUNK_ALIGN);
    size_t skipped = (size_t)(start - (char *)buffer);
    size_t overhead = skipped + bits_round_up(sizeof(struct arena), CHUNK_ALIGN);

    if (bytes < overhead || bytes - overhead < CHUNK_MIN + ARENA_FOOT)
        return NULL;

    struct arena *a = (struct arena *)(void *)start;
    arena_init(a, 0);
    a->large_threshold = ARENA_NEVER;
    a->segment.base = (char *)buffer + overhead;
    a->segment.size = bits_round_down(bytes - overhead, CHUNK_ALIGN);
    a->segment.foreign = 1;
    a->footprint = a->footprint_most = a->segment.size;

    struct arena_call call = {.arena = a};
    bins_extend_range(&a->bins, &a->journal, a->segment.base, a->segment.size);
    arena_set_top(&call, arena_first_chunk(&a->segment), a->segment.size - ARENA_FOOT);
    journal_commit(&a->journal);
    return a;
}

bool arena_finish(struct arena_call *call)
{
    if (likely(!arena_faulted(call))) {
        journal_commit(arena_journal(call));
        return true;
    }
    journal_roll_back(arena_journal(call));
    if (call->fault.kind == FAULT_DAMAGE)
        call->arena->damaged = 1;
    if (call->arena->pending.bytes != 0 &&
        call->source != NULL) /* the run that was to become the arena's */
        call->source->give(call->source, call->arena, (struct run){0});
    return false;
}

bool arena_set_parameter(struct arena *a, int number, size_t value)
{
    switch (number) {
    case -1:
        a->trim_threshold = value;
        a->trim_check = value;
        return true;
    case -2:
        if (!bits_is_power_of_two(value) || value < GRANULARITY_LEAST)
            return false;
        a->granularity = value;
        return true;
    case -3:
        a->large_threshold = value;
        return true;
    default:
        return false;
    }
}

size_t arena_set_footprint_limit(struct arena *a, size_t bytes)
{
    size_t limit = bits_round_up(bytes, a->granularity);

    a->footprint_limit = bytes == SIZE_MAX || limit < bytes ? SIZE_MAX : limit;
    return a->footprint_limit;
}
