/* boundaries.c - a worker dies at every boundary between two instructions of its calls.
 *
 * The tracer steps the worker. Whenever a shared byte or the worker's list of locks has changed,
 * the tracer saves the region, does to it what the kernel does when the worker dies, and acts as
 * the survivor (survive.h). Then it puts the region back, and the worker goes on.
 */
#define _GNU_SOURCE
#include <errno.h>
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

/* ---- processes besides the worker */

static struct tracee holder;

static void holder_start(const struct scenario *scenario)
{
    if (scenario->hold == NULL)
        return;
    tracee_start(&holder, WORKERS_MOST - 1, scenario->hold);
    tracee_step(&holder);
}

/* A worker that waits for the holder goes on when the holder is dead. */
static void end_waiting(struct tracee *t)
{
    if (t->waits)
        tracee_kill(&holder);
    t->waits = false;
}

/* An earlier worker dies first: the scenario begins with what it leaves. */
static void die_before(const struct scenario *scenario)
{
    struct tracee t;
    size_t visited = boundaries_visited;

    if (scenario->act_before == NULL)
        return;
    tracee_start(&t, 0, scenario->act_before);
    while (tracee_step(&t) != STEP_ENDED && !scenario->died_when())
        continue;
    if (t.pid == 0)
        give_up("the worker before did not come to what it was to die at");
    tracee_kill(&t);
    boundaries_visited = visited;
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
    if (t->called_system)
        image_refresh(image);
    if (!t->wrote && !t->called_system)
        return false;

    bool list = tracee_list_changed(t);
    return list || image_differs(image);
}

typedef void (*at_death)(struct tracee *t, struct image *image, size_t state);

/* The state of a run that matters; ALL: each. */
static size_t victim_state;
enum { ALL = -1, NONE = -2 };

static bool matters(size_t state)
{
    return victim_state == (size_t)ALL || victim_state == state;
}

/* Calls `visit` at each state that matters; afterwards the region is as before. Returns how many
 * states there were. */
static size_t at_every_state(struct tracee *t, struct image *image, at_death visit)
{
    size_t states = 0;

    image_save(image);
    for (enum step step = tracee_step(t); step != STEP_ENDED; step = tracee_step(t)) {
        place.step = t->steps;
        place.at = t->at;
        end_waiting(t);
        if (step == STEP_DONE && !is_new_state(t, image))
            continue;
        image_save(image);
        if (!matters(states++))
            continue;
        count_state(image->hash);
        die(t);
        visit(t, image, states - 1);
        if (t->pid == 0)
            break;
        image_restore(image);
    }
    return states;
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

static size_t run_scenario(const struct scenario *scenario, uint64_t seed, at_death visit)
{
    static struct image image;
    struct tracee t;

    scenario_begin(scenario, seed);
    image_open(&image, &the_heap->mapping);
    holder_start(scenario);
    die_before(scenario);
    tracee_start(&t, scenario->act_before != NULL ? 1 : 0, scenario->act);
    t.tried = victim_state == (size_t)ALL;
    size_t states = at_every_state(&t, &image, visit);
    tracee_kill(&t);
    tracee_kill(&holder);
    image_close(&image);
    scenario_end();
    return states;
}

static bool wanted(const struct budget *budget, const struct scenario *scenario)
{
    return budget->only == NULL || strcmp(budget->only, scenario->name) == 0;
}

/* ---- a heap's creator, and its end */

static char made_name[40]; /* a different one in each run: two may run side by side */

static void act_make(void)
{
    const dvsm_options options = {
        .size = sizeof options,
        .backend = &dvsm_backend_shm_open,
        .name = made_name,
        .reserve = (size_t)16 << 20,
    };

    call_enter();
    dvsm_heap_detach(dvsm_heap_create(&options));
    dvsm_heap_destroy(dvsm_heap_attach(made_name, 0));
    call_leave();
}

/* The dead maker has left no name, or that of a whole heap. */
static void join_what_is_left(void)
{
    the_heap = dvsm_heap_attach(made_name, 0);
    if (the_heap == NULL && errno != ENOENT)
        violation("the name that a dead maker left leads to no heap");
    if (the_heap == NULL)
        return;
    dvsm_free(dvsm_heap_malloc(the_heap, 1000));
    if (dvsm_check(the_heap, stderr) != 0)
        violation("the heap that a dead maker left is not sound");
    dvsm_heap_destroy(the_heap);
}

/* A heap of the name can be made again, and works. */
static void make_again(void)
{
    struct dvsm_heap *there = the_heap;

    join_what_is_left();
    the_heap = dvsm_heap_create(&(dvsm_options){
        .size = sizeof(dvsm_options), .backend = &dvsm_backend_shm_open, .name = made_name});
    if (the_heap == NULL)
        violation("no heap can be made where another maker died");
    dvsm_free(dvsm_heap_malloc(the_heap, 1000));
    if (dvsm_check(the_heap, stderr) != 0)
        violation("a heap made after another maker died is not sound");
    dvsm_heap_destroy(the_heap);
    the_heap = there;
    survive(CHECK_FIRST);
}

/* Kills the maker at its step `last`; sets `ended` if it had ended before. */
static void make_and_die(size_t last, bool *ended)
{
    struct tracee t;

    dvsm_heap_unlink(made_name);
    tracee_start(&t, 0, act_make);
    /* Counted as tried, though only a sample is: nobody else has anything in the heap yet. */
    t.tried = true;
    while (t.steps < last && tracee_step(&t) != STEP_ENDED) {
        place.step = t.steps;
        place.at = t.at;
    }
    *ended = t.pid == 0;
    tracee_kill(&t);
}

/* Kills makers of a heap at some of their instructions, from the first to the last. */
static void run_creation(uint64_t seed, size_t stride)
{
    struct random_source random = {seed};
    size_t tried = 0, visited = boundaries_visited;
    bool ended = false;

    snprintf(made_name, sizeof made_name, "/dvsm-crash-made-%ld", (long)getpid());
    scenario_begin(&scenarios[0], seed);
    place.scenario = "creation";
    for (size_t last = 1; !ended; last += 1 + random_below(&random, stride)) {
        make_and_die(last, &ended);
        make_again();
        tried++;
    }
    dvsm_heap_unlink(made_name);
    scenario_end();
    boundaries_visited = visited; /* deaths were tried at some of them only */
    printf("  %-20s %7zu makers killed\n", "creation", tried);
}

int run_boundaries(const struct budget *budget)
{
    size_t rounds = budget->full ? 6 : 1;

    place.part = "boundaries";
    victim_state = (size_t)ALL;
    for (size_t i = 0; i < scenario_count; i++) {
        bool random = strncmp(scenarios[i].name, "random", 6) == 0;

        every_variant = budget->full && !random; /* random states are many and alike */
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
    if (budget->only == NULL || strcmp(budget->only, "creation") == 0)
        run_creation(budget->seed, budget->full ? 200 : 1000);
    printf("boundaries: %zu visited, %zu shared states checked, %zu distinct\n", boundaries_visited,
           states_checked, states_distinct);
    return 0;
}

/* ---- really killed */

/* Really kills the worker, and compares what the kernel leaves with what the simulation left. */
static void kill_here(struct tracee *t, struct image *image, size_t state)
{
    struct image simulated = {0};

    image_open(&simulated, image->mapping);
    image_save(&simulated);
    image_restore(image);
    tracee_kill(t);
    tracee_kill(&holder);
    image_refresh(&simulated);
    if (image_differs(&simulated))
        violation("really killed, the worker leaves something else than the simulation says");
    image_close(&simulated);
    survive((enum variant)(state % VARIANTS));
}

static const struct scenario *random_scenario(const struct budget *budget,
                                              struct random_source *random)
{
    const struct scenario *scenario;

    do
        scenario = &scenarios[random_below(random, scenario_count)];
    while (budget->only != NULL ? !wanted(budget, scenario) : scenario->looks);
    return scenario;
}

/* Has the worker die in one of the scenario's states. */
static void run_to_a_state(const struct scenario *scenario, uint64_t seed,
                           struct random_source *random, at_death visit)
{
    static size_t states[100];
    size_t number = (size_t)(scenario - scenarios);

    if (states[number] == 0) {
        victim_state = (size_t)NONE;
        states[number] = run_scenario(scenario, seed, visit);
    }
    victim_state = random_below(random, states[number]);
    run_scenario(scenario, seed, visit);
}

int run_real(const struct budget *budget)
{
    struct random_source random = {budget->seed};
    size_t kills = budget->full ? 1100 : 40;

    place.part = "real";
    for (size_t i = 0; i < kills; i++)
        run_to_a_state(random_scenario(budget, &random), budget->seed, &random, kill_here);
    printf("real: %zu kills, all as simulated; %zu boundaries\n", kills, boundaries_visited);
    return 0;
}

/* ---- the survivor dies, too */

/* Once it has recovered, the survivor does only what workers do: steps beyond these are not
 * tried. */
enum { RECOVERY_STEPS = 2000 };

static size_t recovery_boundaries, recovery_states;

/* Kills the survivor at every state of its work; the first worker stays dead. */
static void die_in_recovery(struct tracee *t, struct image *image, size_t state)
{
    static struct ledger saved;
    struct image second = {0};
    struct tracee survivor;
    size_t visited = boundaries_visited, first_step = t->steps;

    (void)state;
    place.variant = (unsigned)(victim_state % VARIANTS);
    saved = *ledger;
    image_open(&second, image->mapping);
    image_save(&second);
    tracee_start(&survivor, 2, act_as_survivor);
    survivor.tried = true;
    for (enum step step = tracee_step(&survivor);
         step != STEP_ENDED && survivor.steps < RECOVERY_STEPS; step = tracee_step(&survivor)) {
        place.step = first_step;
        place.second = survivor.steps;
        place.at = survivor.at;
        if (step == STEP_DONE && !is_new_state(&survivor, &second))
            continue;
        image_save(&second);
        count_state(second.hash);
        recovery_states++;
        tracee_die(&survivor);
        enum variant variant = (enum variant)(recovery_states % VARIANTS);
        unsigned first = place.variant;
        survive(variant);
        place.variant = first;
        image_restore(&second);
    }
    if (survivor.pid == 0)
        survive(CHECK_FIRST);
    tracee_kill(&survivor);
    place.second = 0;
    recovery_boundaries += boundaries_visited - visited;
    image_close(&second);
    *ledger = saved;
    tracee_kill(t);
}

int run_recovery(const struct budget *budget)
{
    struct random_source random = {budget->seed};
    size_t wanted_boundaries = budget->full ? 50000 : 30000, deaths = 0;

    place.part = "recovery";
    for (; recovery_boundaries < wanted_boundaries; deaths++)
        run_to_a_state(random_scenario(budget, &random), budget->seed, &random, die_in_recovery);
    printf("recovery: after %zu deaths the survivor died at %zu boundaries, in %zu states\n",
           deaths, recovery_boundaries, recovery_states);
    return 0;
}
