/* engine.c - the engine alone: malloc and free within a buffer of the program's own.
 *
 * Doug Lea's malloc 2.8.6 over one arena, without shared memory, threads, locks or the operating
 * system. An arena never leaves its buffer, which may lie anywhere: in static memory as here, in a
 * device's memory, in a file that is mapped. It keeps no pointer outside of it. Whoever uses it
 * from several threads puts a lock around each call.
 *
 * Another codebase takes these files, and compiles them with -I on the folder that has them:
 *
 *     files: base/bits.h base/check.c base/check.h base/compiler.h base/fault.c base/fault.h
 *     files: base/journal.c base/journal.h base/plant.h base/policy.c base/policy.h base/run.h
 *     files: bins/bins.c bins/bins.h bins/bins_internal.h bins/check.c bins/chunk.h bins/seal.h
 *     files: bins/tree.c
 *     files: engine/arena.c engine/arena.h engine/arena_internal.h engine/batch.c engine/check.c
 *     files: engine/diagnose.c engine/fill.c engine/free.c engine/grow.c engine/holes.c
 *     files: engine/large.c engine/malloc.c engine/memalign.c engine/peek.c engine/recover.c
 *     files: engine/resize.c engine/trim.c engine/walk.c
 */
#include <stdio.h>
#include <string.h>

#include "engine/arena.h"

static char buffer[1 << 20] __attribute__((aligned(64)));
static struct arena *arena;

/* A fault is a wrong pointer, or a record that was overwritten. */
static void tell(const struct arena_call *call)
{
    if (call->fault.kind != FAULT_NONE)
        fprintf(stderr, "%s at %p\n", call->fault.what, call->fault.address);
}

static void *get(size_t bytes)
{
    struct arena_call call = {.arena = arena}; /* no source: the arena cannot grow */
    void *block = arena_malloc(&call, bytes);

    tell(&call);
    return block;
}

static void *resize(void *block, size_t bytes)
{
    struct arena_call call = {.arena = arena};
    void *there = arena_resize_in_place(&call, block, bytes);
    size_t usable = there == NULL ? arena_usable(&call, block) : 0;

    tell(&call);
    if (there != NULL || call.fault.kind != FAULT_NONE)
        return there;
    void *copy = get(bytes);
    if (copy == NULL)
        return NULL;
    memcpy(copy, block, bytes < usable ? bytes : usable);
    arena_free(&call, block);
    return copy;
}

static int give(void *block)
{
    struct arena_call call = {.arena = arena};

    arena_free(&call, block);
    tell(&call);
    return call.fault.kind == FAULT_NONE;
}

int main(void)
{
    struct check check = {.report = stderr};
    char *line;
    size_t blocks = 0;

    arena = arena_init_in(buffer, sizeof buffer);
    if (arena == NULL || (line = get(6)) == NULL)
        return 1;
    memcpy(line, "hello", 6);
    line = resize(line, 100000);
    if (line == NULL || strcmp(line, "hello") != 0)
        return 1;
    give(line);

    char *first = get(1000), *last = first;
    while ((line = get(1000)) != NULL) { /* until the buffer is full; each names the one before */
        memcpy(line, &last, sizeof last);
        last = line;
        blocks++;
    }
    for (; last != first; last = line) {
        memcpy(&line, last, sizeof line);
        give(last);
    }
    give(first);
    arena_check(arena, &check);
    printf("%zu blocks of 1000 bytes in %zu, %d violations\n", blocks + 1, sizeof buffer,
           check.violations);
    return give(first) || check.violations != 0; /* the second free is a fault, and told */
}
