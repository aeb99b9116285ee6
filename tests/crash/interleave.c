/* interleave.c - two or three workers are stepped in random turns until one is killed; the others
 * go on for a while, and die, too.
 *
 * They share one CPU's lane, or move between lanes. When another worker gets its turn, a worker
 * inside a restartable sequence is sent to the abort address, as by the kernel. Each schedule has
 * its own seed; a failure prints it, and `seed=` with that number repeats it first.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "crash/harness.h"
#include "crash/ledger.h"
#include "crash/survive.h"
#include "crash/tracee.h"

enum {
    TOGETHER_MOST = 3,
    PREPARED = 90,
    CALLS = 6,
    BURST_MOST = 300,
    KILL_BEFORE = 4000,
    AFTERWARDS = 1500
};

static struct scenario mixed = {.name = "mixed"};
static uint64_t schedule_seed;

/* Blocks of all workers, side by side. */
static void prepare_mixed(void)
{
    for (size_t i = 0; i < PREPARED; i++) {
        ledger_me = (int)random_below(&dice, TOGETHER_MOST);
        act_some(1);
    }
    ledger_me = 0;
}

static void act_mixed(void)
{
    dice.state = schedule_seed * 31 + (uint64_t)ledger_me;
    act_some(CALLS);
}

static size_t alive(const struct tracee *t, size_t count)
{
    size_t running = 0;

    for (size_t i = 0; i < count; i++)
        running += t[i].pid != 0;
    return running;
}

static struct tracee *pick(struct tracee *t, size_t count, struct random_source *random)
{
    struct tracee *picked;

    do
        picked = &t[random_below(random, count)];
    while (picked->pid == 0);
    return picked;
}

/* Steps the worker at most `most` times, or until it finds a lock taken; returns the number of
 * steps. */
static size_t take_turn(struct tracee *t, struct random_source *random, size_t most)
{
    size_t length = random_size(random, BURST_MOST), steps = 0;

    if (the_heap->region->cache.mode == LANES_SEQUENCES)
        tracee_preempt(t, (unsigned)random_below(random, the_heap->region->cache.cpus));
    for (t->waits = false; steps < length && steps < most && !t->waits; steps++) {
        place.step = t->steps;
        place.at = t->at;
        if (tracee_step(t) == STEP_ENDED)
            return steps + 1;
    }
    return steps;
}

/* Returns whether a worker was killed. */
static bool run_schedule(struct random_source *random)
{
    struct tracee t[TOGETHER_MOST] = {{0}};
    size_t count = 2 + random_below(random, TOGETHER_MOST - 1), made = 0;
    size_t kill_at = random_below(random, random_size(random, KILL_BEFORE));
    bool killed = false;

    for (size_t i = 0; i < count; i++)
        tracee_start(&t[i], (int)i, act_mixed);
    while (alive(t, count) > 0 && (!killed || made < kill_at + AFTERWARDS)) {
        struct tracee *next = pick(t, count, random);

        made += take_turn(next, random, killed ? AFTERWARDS : kill_at - made + 1);
        if (!killed && made >= kill_at && next->pid != 0) {
            tracee_kill(next);
            killed = true;
        }
    }
    for (size_t i = 0; i < count; i++)
        tracee_kill(&t[i]);
    survive((enum variant)random_below(random, VARIANTS));
    return killed;
}

int run_interleave(const struct budget *budget)
{
    size_t wanted = budget->full ? 5200 : 200, killed = 0, schedules = 0;

    place.part = "interleave";
    mixed.prepare = prepare_mixed;
    for (; killed < wanted; schedules++) {
        struct random_source random = {schedule_seed = budget->seed + schedules};

        mixed.options.cache_bytes = random_once_in(&random, 4) ? SIZE_MAX : 0;
        mixed.options.arenas = (unsigned)random_below(&random, 3);
        scenario_begin(&mixed, schedule_seed);
        killed += run_schedule(&random);
        scenario_end();
    }
    printf("interleave: %zu schedules, a kill in %zu, %zu boundaries\n", schedules, killed,
           boundaries_visited);
    return 0;
}
