/* replay.c - the arena a trace asks for, and its requests. */
#define _GNU_SOURCE
#include "replay.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ARENA_ID = 1, HOLD_ID = 2, IDS_MOST = 1 << 28, FAULT_STATUS = 1 };
#define BUFFER_BYTES ((size_t)1 << 30)

/* Where the first chunk lies decides what memalign does: the recordings were made with memory that
 * began at a multiple of any alignment, and with the reference's own state, of so many bytes, at
 * the start of a buffer. */
#define MEMORY_ALIGNMENT (SIZE_BITS == 64 ? BUFFER_BYTES : GRANULE)
enum { REFERENCE_STATE = 944 };

static _Noreturn void cannot(const char *what)
{
    perror(what);
    exit(2);
}

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    if (p == MAP_FAILED)
        cannot("dvsm-replay: memory for the arena");
    return p;
}

struct arena_call replay_call(struct replay *replay)
{
    struct arena_call call = {.arena = replay->arena};

    if (replay->trace.segments != 0)
        call.source = &replay->source.source;
    return call;
}

static void start_segments(struct replay *replay)
{
    size_t granules = replay->trace.segments;

    if (granules > SIZE_MAX / GRANULE / 4)
        trace_expected(&replay->trace, "as many granules as an address space holds");

    size_t map_bytes = segment_map_bytes(granules);
    replay->granules = (dvsm_mapping){
        .bytes = bits_round_up(map_bytes, GRANULE) + MEMORY_ALIGNMENT + granules * GRANULE,
        .fd = -1,
    };
    if (dvsm_backend_anon.reserve(&dvsm_backend_anon, &replay->granules) != 0)
        trace_expected(&replay->trace, "as many granules as this machine can reserve");

    char *place = replay->granules.base;
    char *first = (char *)bits_round_up((size_t)(uintptr_t)place + map_bytes, MEMORY_ALIGNMENT);
    if (dvsm_backend_anon.commit(&dvsm_backend_anon, &replay->granules, place,
                                 segment_map_committed_bytes()) != 0 ||
        segment_init(place, first, granules, SIZE_MAX) != 0)
        cannot("dvsm-replay: the granule map");
    replay->segments = (struct segments){
        .map = (struct segment_map *)(void *)place,
        .backend = &dvsm_backend_anon,
        .mapping = &replay->granules,
        .policy = &replay->policy,
    };
    policy_set_defaults(&replay->policy);
    region_source_init(&replay->source, &replay->segments);
    replay->arena = map(sizeof(struct arena));
    arena_init(replay->arena, ARENA_ID);
    replay->arena->large_threshold = ARENA_NEVER;
}

/* The arena's own state goes before the buffer, so that chunks have just the room they had in the
 * reference. */
static void start_buffer(struct replay *replay)
{
    size_t state = bits_round_up(sizeof(struct arena), CHUNK_ALIGN);
    char *mapped = map(BUFFER_BYTES + 2 * MEMORY_ALIGNMENT);
    char *buffer = (char *)bits_round_up((size_t)(uintptr_t)mapped + state, MEMORY_ALIGNMENT);

    replay->arena =
        arena_init_in(buffer + REFERENCE_STATE - state, BUFFER_BYTES - REFERENCE_STATE + state);
}

void replay_start(struct replay *replay)
{
    if (replay->trace.segments != 0)
        start_segments(replay);
    else
        start_buffer(replay);

    struct arena_call call = replay_call(replay);
    replay->origin = arena_malloc(&call, 16);
    if (replay->origin == NULL)
        cannot("dvsm-replay: the first block");
    arena_free(&call, replay->origin);
}

int replay_check(struct replay *replay)
{
    struct check check = {.report = stderr};

    arena_check(replay->arena, &check);
    if (replay->trace.segments != 0)
        segment_check(&replay->segments, &check);
    return check.violations;
}

/* The place of an id's value. */
static void **slot(struct replay *replay, struct id_table *table, size_t id)
{
    if (id >= IDS_MOST)
        trace_expected(&replay->trace, "an id below 268435456");
    if (id >= table->size) {
        size_t size = bits_power_of_two_above(id + 1);
        table->value = reallocarray(table->value, size, sizeof(void *));
        if (table->value == NULL)
            cannot("dvsm-replay: the table of ids");
        memset(table->value + table->size, 0, (size - table->size) * sizeof(void *));
        table->size = size;
    }
    return &table->value[id];
}

static void **block_slot(struct replay *replay, size_t id)
{
    return slot(replay, &replay->blocks, id);
}

static void print_block(struct replay *replay, size_t id, const void *block)
{
    if (block == NULL)
        printf("%zu null\n", id);
    else
        printf("%zu %lld %zu\n", id, replay_offset(replay, block),
               chunk_usable(chunk_of_payload(block)));
}

static void set_block(struct replay *replay, size_t id, void *block)
{
    *block_slot(replay, id) = block;
    print_block(replay, id, block);
}

static void replay_calloc(struct replay *replay, struct arena_call *call, const size_t *n)
{
    unsigned char *block = arena_calloc(call, n[1], n[2]);

    for (size_t i = 0; block != NULL && i < n[1] * n[2]; i++)
        if (block[i] != 0) {
            fprintf(stderr, "%s:%zu: calloc gave a byte that is not 0\n", replay->trace.name,
                    replay->trace.line);
            exit(FAULT_STATUS);
        }
    set_block(replay, n[0], block);
}

static void replay_realloc(struct replay *replay, struct arena_call *call, const size_t *n)
{
    void *block = arena_realloc(call, *block_slot(replay, n[0]), n[1]);

    if (block != NULL)
        *block_slot(replay, n[0]) = block;
    print_block(replay, n[0], block);
}

static void replay_in_place(struct replay *replay, struct arena_call *call, const size_t *n)
{
    void *block = *block_slot(replay, n[0]);

    if (block == NULL || arena_resize_in_place(call, block, n[1]) == NULL)
        printf("%zu fail\n", n[0]);
    else
        print_block(replay, n[0], block);
}

/* i and k: `sizes` NULL: n[1] elements of n[2] bytes each. */
static void replay_independent(struct replay *replay, struct arena_call *call, const size_t *n,
                               const size_t *sizes)
{
    size_t count = n[1];

    if (count >= IDS_MOST)
        trace_expected(&replay->trace, "fewer elements than 268435456");
    void **array = calloc(count + 1, sizeof *array);
    if (array == NULL)
        cannot("dvsm-replay: an array of elements");
    bool done = (sizes == NULL ? arena_independent_calloc(call, count, n[2], array)
                               : arena_independent_comalloc(call, count, sizes, array)) != NULL;
    for (size_t i = 0; i < count; i++)
        set_block(replay, n[0] + i, done ? array[i] : NULL);
    free(array);
}

static void replay_bulk(struct replay *replay, struct arena_call *call, const size_t *n)
{
    size_t count = n[0];
    void **array = calloc(count + 1, sizeof *array);

    if (array == NULL)
        cannot("dvsm-replay: an array of blocks");
    for (size_t i = 0; i < count; i++) {
        array[i] = *block_slot(replay, n[1 + i]);
        *block_slot(replay, n[1 + i]) = NULL;
    }
    size_t left = arena_bulk_free(call, array, count);
    if (left != 0)
        printf("unfreed %zu\n", left);
    free(array);
}

static void replay_hold(struct replay *replay, const size_t *n)
{
    struct run *run = calloc(1, sizeof *run);

    if (run == NULL)
        cannot("dvsm-replay: a hold");
    if (n[1] == 0 || n[1] > SIZE_MAX / GRANULE ||
        !segment_take(&replay->segments, HOLD_ID, RUN_SEGMENT, n[1] * GRANULE, run)) {
        printf("hold %zu null\n", n[0]);
        free(run);
        run = NULL;
    } else {
        printf("hold %zu %lld\n", n[0], replay_offset(replay, run->start));
    }
    *slot(replay, &replay->holds, n[0]) = run;
}

static void replay_unhold(struct replay *replay, const size_t *n)
{
    struct run **run = (struct run **)slot(replay, &replay->holds, n[0]);

    if (*run == NULL)
        return;
    segment_give(&replay->segments, *run, (struct run){0});
    free(*run);
    *run = NULL;
}

void replay_request(struct replay *replay, const struct request *request)
{
    struct arena_call call = replay_call(replay);
    const size_t *n = request->number;

    switch (request->kind) {
    case 'm':
        set_block(replay, n[0], arena_malloc(&call, n[1]));
        break;
    case 'c':
        replay_calloc(replay, &call, n);
        break;
    case 'f':
        arena_free(&call, *block_slot(replay, n[0]));
        *block_slot(replay, n[0]) = NULL;
        break;
    case 'r':
        replay_realloc(replay, &call, n);
        break;
    case 'p':
        replay_in_place(replay, &call, n);
        break;
    case 'a':
        set_block(replay, n[0], arena_memalign(&call, n[1], n[2]));
        break;
    case 'i':
        replay_independent(replay, &call, n, NULL);
        break;
    case 'k':
        replay_independent(replay, &call, n, n + 2);
        break;
    case 'b':
        replay_bulk(replay, &call, n);
        break;
    case 'h':
        replay_hold(replay, n);
        break;
    case 'u':
        replay_unhold(replay, n);
        break;
    case 't':
        printf("trim %d\n", arena_trim(&call, n[0]));
        break;
    case 'l':
        arena_set_footprint_limit(replay->arena, n[0]);
        break;
    }
    if (call.fault.kind != FAULT_NONE) {
        fprintf(stderr, "%s:%zu: %s at %p\n", replay->trace.name, replay->trace.line,
                call.fault.what, call.fault.address);
        exit(FAULT_STATUS);
    }
}
