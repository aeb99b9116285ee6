/* boundaries.c - a worker dies at every boundary between two instructions of its calls.
 *
 * The tracer steps it. Whenever a shared byte, or the worker's list of locks, is not what it was: the
 * region is saved, the kernel's part in the death done to it, and the tracer survives: see survive.h. Then
 * all is put back, and the worker goes on.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash/harness.h"
#include "crash/image.h"
#include "crash/ledger.h"
#include "crash/survive.h"
#include "crash/tracee.h"

/* ---- distinct states */

enum { STATES_MOST = 1 << 22 };
static uint64_t *state_set;
static size_t states_checked, states_distinct;

static void count_state(uint64_t hash)
{
    states_checked++;
    if (state_set == NULL)
        state_set = calloc(STATES_MOST, sizeof *state_set);
    if (state_set == NULL || states_distinct >= STATES_MOST / 2)
        return;
    hash += hash == 0;
    size_t i = hash % STATES_MOST;
    for (; state_set[i] != 0; i = (i + 1) % STATES_MOST)
        if (state_set[i] == hash)
            return;
    state_set[i] = hash;
    states_distinct++;
}

/* ---- one who holds a lock */

static struct tracee holder;

static void hold_first_arena(void)
{
    struct arena_hold held;

    arenas_enter_index(&the_heap->arenas, &held, 0);
    raise(SIGSTOP);
}

static void holder_start(void)
{
    tracee_start(&holder, WORKERS_MOST - 1, hold_first_arena);
    tracee_step(&holder);
}

/* ---- dying */

static void die(const struct tracee *t)
{
    tracee_die(t);
    if (holder.pid != 0)
        tracee_die(&holder);
}

static bool is_new_state(struct tracee *t, struct image *image)
{
    bool list = tracee_list_changed(t);

    if (t->called_system)
        image_refresh(image);
    return list || (t->wrote && image_differs(image));
}

typedef void (*at_death)(struct tracee *t, struct image *image, size_t state);

/* Calls `visit` at each state; the region is afterwards as before. */
static void at_every_state(struct tracee *t, struct image *image, at_death visit)
{
    size_t states = 0;

    image_save(image);
    for (enum step step = tracee_step(t); step != STEP_ENDED; step = tracee_step(t)) {
        place.step = t->steps;
        place.at = t->at;
        if (step == STEP_DONE && !is_new_state(t, image))
            continue;
        image_save(image);
        count_state(image->hash);
        die(t);
        visit(t, image, states++);
        if (t->pid == 0)
            return;
        image_restore(image);
    }
}

static bool every_variant;

static void survive_here(struct tracee *t, struct image *image, size_t state)
{
    static unsigned turn;

    (void)t;
    (void)state;
    if (!every_variant) {
        survive(turn++ % VARIANTS);
        return;
    }
    struct image *dead = calloc(1, sizeof *dead);
    image_open(dead, image->mapping);
    image_save(dead);
    for (unsigned variant = 0; variant < VARIANTS; variant++) {
        survive(variant);
        image_restore(dead);
    }
    image_close(dead);
    free(dead);
}

static void run_scenario(const struct scenario *scenario, uint64_t seed, at_death visit)
{
    static struct image image;
    struct tracee t;

    scenario_begin(scenario, seed);
    image_open(&image, &the_heap->mapping);
    if (scenario->held)
        holder_start();
    tracee_start(&t, 0, scenario->act);
    at_every_state(&t, &image, visit);
    tracee_kill(&t);
    tracee_kill(&holder);
    image_close(&image);
    scenario_end();
}

static bool wanted(const struct budget *budget, const struct scenario *scenario)
{
    return budget->only == NULL || strcmp(budget->only, scenario->name) == 0;
}

int run_boundaries(const struct budget *budget)
{
    size_t rounds = budget->full ? 20 : 2;

    place.part = "boundaries";
    every_variant = budget->full;
    for (size_t i = 0; i < scenario_count; i++) {
        bool random = strncmp(scenarios[i].name, "random", 6) == 0;

        for (size_t round = 0; round < (random ? rounds : 1); round++) {
            size_t visited = boundaries_visited, states = states_checked;

            if (!wanted(budget, &scenarios[i]))
                continue;
            run_scenario(&scenarios[i], budget->seed + round, survive_here);
            printf("  %-20s %7zu boundaries, %6zu states\n", scenarios[i].name,
                   boundaries_visited - visited, states_checked - states);
            fflush(stdout);
        }
    }
    printf("boundaries: %zu visited, %zu shared states checked, %zu distinct\n", boundaries_visited,
           states_checked, states_distinct);
    return 0;
}

int run_real(const struct budget *budget)
{
    (void)budget;
    return 0;
}
int run_recovery(const struct budget *budget)
{
    (void)budget;
    return 0;
}
