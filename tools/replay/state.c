/* state.c - the state of the arena at a trace's end. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "replay.h"

/* Lines to be printed in the order of their addresses. */
struct line {
    const void *at;
    size_t bytes;
    bool dv;
};

struct lines {
    struct line *line;
    size_t count, size;
};

static void add_line(struct lines *lines, const void *at, size_t bytes, bool dv)
{
    if (lines->count == lines->size) {
        lines->size = lines->size == 0 ? 256 : 2 * lines->size;
        lines->line = reallocarray(lines->line, lines->size, sizeof *lines->line);
        if (lines->line == NULL) {
            perror("dvsm-replay: the list of chunks");
            exit(2);
        }
    }
    lines->line[lines->count++] = (struct line){at, bytes, dv};
}

static int by_address(const void *a, const void *b)
{
    const char *x = ((const struct line *)a)->at, *y = ((const struct line *)b)->at;

    return (x > y) - (x < y);
}

static void print_lines(struct replay *replay, const char *what, struct lines *lines)
{
    if (lines->count != 0)
        qsort(lines->line, lines->count, sizeof *lines->line, by_address);
    for (size_t i = 0; i < lines->count; i++)
        printf("%s %lld %zu%s\n", what, replay_offset(replay, lines->line[i].at),
               lines->line[i].bytes, lines->line[i].dv ? " dv" : "");
    free(lines->line);
}

static void add_free_chunk(void *context, const struct chunk *c, size_t bytes,
                           enum arena_chunk_state state)
{
    if (state == ARENA_CHUNK_FREE || state == ARENA_CHUNK_DV)
        add_line(context, chunk_payload(c), bytes, state == ARENA_CHUNK_DV);
}

static void print_segments(struct replay *replay)
{
    struct lines lines = {0};

    for (const struct arena_segment *s = &replay->arena->segment; s != NULL; s = s->next)
        add_line(&lines, s->base + CHUNK_HEADER, s->size, false);
    print_lines(replay, "segment", &lines);
}

void replay_print_state(struct replay *replay)
{
    const struct arena *a = replay->arena;
    bool segments = replay->trace.segments != 0;
    struct lines lines = {0};
    struct arena_usage usage;

    arena_usage(a, &usage);
    arena_walk(a, add_free_chunk, &lines);
    print_lines(replay, "free", &lines);
    printf("top %lld", replay_offset(replay, chunk_payload(a->top)));
    if (segments) {
        printf(" %zu\n", a->top_size);
        print_segments(replay);
    } else {
        printf("\n");
    }
    printf("inuse %zu %zu\n", usage.used_chunks, usage.used_bytes);
    printf("freed %zu %zu\n", usage.free_chunks - 1, usage.free_bytes - usage.top_bytes);
    if (segments)
        printf("footprint %zu %zu\n", usage.footprint, usage.footprint_most);
}
