/* storm.c - eight processes of two threads each at work on one heap, killed at random, for minutes.
 *
 * Nothing is stepped, and the threads use the kernel's rseq areas. A shared table names the blocks:
 * a thread stores a block there once it has it, and takes it out before it frees it. A process that
 * dies in between loses blocks, at most one a thread. Such blocks must stay few as long as the
 * storm lasts, and in the end a walk finds them.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash/harness.h"
#include "support/clock.h"

enum {
    PROCESSES = 8,
    THREADS = 2,
    PLACES = 2000,
    PAUSE_US = 10000, /* at most, from one kill to the time of the next one */
    LARGE_ONE_IN = 200,
};

struct place_in_table {
    _Atomic(void *) block; /* NULL: none */
};

struct storm {
    struct place_in_table table[PLACES];
    atomic_ulong operations;
    atomic_ulong lost; /* how many operations may have been cut off */
};

static struct storm *storm;

/* Writes the block's size into its first word, and the complement into its last. */
static void stamp(size_t *block, size_t size)
{
    block[0] = size;
    block[size / sizeof *block - 1] = ~size;
}

static void check_stamp(const size_t *block)
{
    size_t size = block[0];

    if (size > 1 << 20 || block[size / sizeof *block - 1] != ~size)
        violation("a block at %p was overwritten", (const void *)block);
}

static void *new_block(struct random_source *random)
{
    size_t size =
        random_once_in(random, LARGE_ONE_IN) ? (size_t)300000 : 16 + random_size(random, 4000);
    size_t *block = dvsm_malloc(size &= ~(size_t)7);

    if (block != NULL)
        stamp(block, size);
    return block;
}

static void exchange_one(struct random_source *random)
{
    struct place_in_table *in = &storm->table[random_below(random, PLACES)];
    size_t *old = atomic_exchange(&in->block, NULL);

    if (old == NULL) {
        old = atomic_exchange(&in->block, new_block(random));
    } else if (random_once_in(random, 8)) {
        check_stamp(old);
        size_t size = (16 + random_size(random, 4000)) & ~(size_t)7;
        size_t *moved = dvsm_realloc(old, size);

        if (moved != NULL) {
            stamp(moved, size);
            old = atomic_exchange(&in->block, moved);
        }
    }
    if (old != NULL) {
        check_stamp(old);
        dvsm_free(old);
    }
}

static void *work(void *context)
{
    struct random_source random = {(uint64_t)(uintptr_t)context};

    for (;;) {
        exchange_one(&random);
        if (random_once_in(&random, 4000))
            dvsm_malloc_trim(1 << 20);
        if (random_once_in(&random, 64))
            atomic_fetch_add(&storm->operations, 64);
    }
    return NULL;
}

static pid_t start(uint64_t seed)
{
    pid_t child = fork();
    pthread_t thread;

    if (child < 0)
        give_up("fork"); /* otherwise kill(-1) would follow */
    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 1; i < THREADS; i++)
        if (pthread_create(&thread, NULL, work, (void *)(uintptr_t)(seed * 2 + 1)) != 0)
            _exit(4);
    work((void *)(uintptr_t)(seed * 2));
    _exit(0);
}

static double now(void)
{
    return clock_ns(CLOCK_MONOTONIC) / 1e9;
}

static void kill_one(pid_t *child, struct random_source *random)
{
    int status;
    pid_t *victim = &child[random_below(random, PROCESSES)];

    kill(*victim, SIGKILL);
    if (waitpid(*victim, &status, 0) != *victim || !WIFSIGNALED(status) ||
        WTERMSIG(status) != SIGKILL)
        violation("a worker of the storm ended with status %#x", (unsigned)status);
    *victim = start(random_next(random));
}

/* ---- blocks that nobody has any more are found and freed */

struct set {
    void **block;
    size_t count, most;
};

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;

    return (x > y) - (x < y);
}

static void add_used(const dvsm_chunk *chunk, void *context)
{
    struct set *set = context;

    if (chunk->state != DVSM_CHUNK_USED && chunk->state != DVSM_CHUNK_LARGE)
        return;
    if (set->count == set->most)
        violation("more blocks than the dead can have lost");
    set->block[set->count++] = chunk->block;
}

static struct set used_blocks(size_t most)
{
    struct set set = {.most = most + PLACES, .block = calloc(most + PLACES, sizeof(void *))};

    dvsm_walk(the_heap, add_used, &set);
    qsort(set.block, set.count, sizeof *set.block, by_address);
    return set;
}

/* The storm rests: all processes are dead. Frees blocks that nobody has; returns how many there
 * were. */
static size_t sweep(size_t kills)
{
    struct set set = used_blocks(THREADS * kills + PROCESSES * THREADS);
    size_t freed = set.count;

    for (size_t i = 0; i < PLACES; i++) {
        void *block = atomic_load(&storm->table[i].block);

        if (block == NULL)
            continue;
        void **found = bsearch(&block, set.block, set.count, sizeof *set.block, by_address);
        if (found == NULL)
            violation("a block of the table is lost");
        check_stamp(block);
        freed--;
        *found = (void *)((uintptr_t)*found | 1); /* known */
    }
    for (size_t i = 0; i < set.count; i++)
        if (((uintptr_t)set.block[i] & 1) == 0)
            dvsm_free(set.block[i]);
    free(set.block);
    return freed;
}

static void check_all(void)
{
    int violations = dvsm_check(the_heap, stderr);

    if (violations != 0)
        violation("dvsm_check: %d violations", violations);
}

/* Frees everything: only what the heap itself needs may be left. */
static void end_storm(size_t kills)
{
    dvsm_stats_t stats;

    sweep(kills);
    for (size_t i = 0; i < PLACES; i++)
        dvsm_free(atomic_exchange(&storm->table[i].block, NULL));
    dvsm_malloc_trim(0);
    check_all();
    dvsm_stats(the_heap, &stats);
    printf("  at the end %zu bytes committed, %zu of them metadata, %zu free in %zu arenas\n",
           stats.committed_bytes, stats.metadata_bytes, stats.free_bytes, stats.arenas);
    for (size_t cpu = 0; cpu < the_heap->region->cache.cpus; cpu++)
        if (the_heap->region->cache.lanes[cpu].lock != 0)
            violation("the lock of lane %zu holds %#x, we are %d", cpu,
                      the_heap->region->cache.lanes[cpu].lock, getpid());
    if (stats.used_blocks != 0 || stats.cached_blocks != 0)
        violation("%zu blocks in use and %zu cached after all were freed", stats.used_blocks,
                  stats.cached_blocks);
}

static void stop_all(pid_t *child)
{
    for (size_t i = 0; i < PROCESSES; i++)
        kill(child[i], SIGKILL);
    for (size_t i = 0; i < PROCESSES; i++)
        waitpid(child[i], NULL, 0);
}

/* Waits for the rest of the time until `due`, so that the time to make a new worker does not
 * delay the next kill. */
static void wait_until(double due)
{
    double pause = due - now();

    if (pause > 0)
        usleep((useconds_t)(pause * 1e6));
}

/* The storm blows for so many seconds; then all processes are killed, and everything is checked. */
static void blow(double seconds, struct random_source *random, size_t *kills, size_t *freed)
{
    pid_t child[PROCESSES];
    double due = now(), end = due + seconds;
    size_t before = *kills;

    for (size_t i = 0; i < PROCESSES; i++)
        child[i] = start(random_next(random));
    while (now() < end) {
        due += (double)random_below(random, PAUSE_US) / 1e6;
        wait_until(due);
        kill_one(child, random);
        ++*kills;
        /* A check of a heap in use must give no false alarm. (A hang shows by operations that do
         * not go on.) */
        if (*kills % 500 == 0) {
            alarm(30);
            check_all();
            alarm(0);
        }
    }
    stop_all(child);
    *kills += PROCESSES;
    alarm(60);
    check_all();
    *freed += sweep(*kills - before);
    alarm(0);
}

/* Means over a minute: a single value depends on the random blocks of the moment. */
struct minute {
    double from, to, footprint, used, looks;
};

/* Retained granules do not count: there may be 128 MiB of them at any time. */
static double footprint_of(const dvsm_stats_t *stats)
{
    return (double)(stats->committed_bytes - stats->retained_bytes);
}

static void look(struct minute *minute, double at, const dvsm_stats_t *stats)
{
    if (at <= minute->from || at > minute->to)
        return;
    minute->footprint += footprint_of(stats);
    minute->used += (double)stats->used_bytes;
    minute->looks++;
}

static void print_minute(const char *name, const struct minute *minute)
{
    printf("; in the %s minute %.0f bytes on average, %.0f of them in use", name,
           minute->footprint / minute->looks, minute->used / minute->looks);
}

/* The footprint beyond what is in use: the bytes in use depend on how many large blocks there
 * happen to be. */
static double mean_surplus(const struct minute *minute)
{
    return (minute->footprint - minute->used) / minute->looks;
}

int run_storm(const struct budget *budget)
{
    double length = budget->full ? 300 : 10, piece = budget->full ? 10 : 2, begun = now();
    struct random_source random = {budget->seed};
    size_t kills = 0, freed = 0;
    struct minute second = {.from = 60, .to = 120}, fifth = {.from = 240, .to = 300};

    place.part = "storm";
    place.seed = budget->seed;
    storm = mmap(NULL, sizeof *storm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    the_heap = dvsm_heap_default();
    while (now() - begun < length) {
        unsigned long before = atomic_load(&storm->operations);
        dvsm_stats_t stats;

        blow(piece, &random, &kills, &freed);
        double at = now() - begun;

        if (atomic_load(&storm->operations) == before)
            violation("the storm stands still");
        dvsm_stats(the_heap, &stats);
        look(&second, at, &stats);
        look(&fifth, at, &stats);
        if (budget->full)
            printf(
                "  %4.0f s: %zu kills, %.0f bytes: used %zu, free %zu, cached %zu, metadata %zu\n",
                at, kills, footprint_of(&stats), stats.used_bytes, stats.free_bytes,
                stats.cached_bytes, stats.metadata_bytes);
        fflush(stdout);
    }
    length = now() - begun;
    end_storm(kills);
    printf(
        "storm: %zu kills in %.0f s, one in %.1f ms, %lu operations, %zu blocks of the dead found",
        kills, length, length * 1000 / (double)kills, atomic_load(&storm->operations), freed);
    if (second.looks > 0 && fifth.looks > 0) {
        print_minute("2nd", &second);
        print_minute("5th", &fifth);
    }
    printf("\n");
    if (fifth.looks > 0 && mean_surplus(&fifth) > 1.15 * mean_surplus(&second))
        violation("the footprint grew");
    return 0;
}
