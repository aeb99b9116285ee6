/* harness.h - what the parts of the crash harness share.
 *
 *     image.c      copies of the region
 *     ledger.c     the calls that workers make, and which blocks are known to be whose
 *     tracee.c     workers stepped instruction by instruction; what the kernel does when they die
 *     survive.c    what a survivor does with a heap whose users died, and what must hold then
 *     scenarios*.c what workers do, by subject
 *     boundaries.c death at every boundary, real kills, and death during recovery
 *     interleave.c two or three workers stepped in turn
 *     storm.c      many processes and threads, killed at random
 *     plants.c     faults planted in the library, all to be found
 *     main.c       chooses which of these runs
 *
 * The process that traces is also the survivor: it shares the region, and what it does to it is
 * undone by putting an image back. The first violation ends the program with a line that says where
 * it is.
 */
#ifndef DVSM_TESTS_CRASH_HARNESS_H
#define DVSM_TESTS_CRASH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "heap/fast.h"
#include "support/random.h"

/* Where the harness is, for messages. */
struct place {
    const char *part, *scenario;
    uint64_t seed;
    size_t step;      /* of the worker that dies */
    size_t second;    /* of the survivor that dies, too */
    uintptr_t at;     /* the worker's next instruction */
    unsigned variant; /* what the survivor does first */
};
extern struct place place;

/* How many alarms have passed since alarm() was last called, which also sets this to 0. */
extern unsigned alarms;

/* Says what is wrong and where, and ends the program with status 1. */
_Noreturn void violation(const char *format, ...) PRINTF_LIKE(1, 2);
/* Says why the harness itself cannot go on, and ends the program with status 2. */
_Noreturn void give_up(const char *format, ...) PRINTF_LIKE(1, 2);

/* The heap that is tested, which is also the default heap. */
extern struct dvsm_heap *the_heap;

struct scenario {
    const char *name;
    dvsm_options options;
    void (*prepare)(void); /* by the survivor, not stepped */
    void (*act)(void);     /* by the worker */
    bool failing;          /* the backend fails when the worker begins */
    bool looks;            /* many steps change nothing: left out of samples */
    void (*hold)(
        void); /* another process does this meanwhile, and dies when the worker does or, if that
                           waits for it, before */
    /* An earlier worker does this, and is killed as soon as died_when() is true. */
    void (*act_before)(void);
    bool (*died_when)(void);
};
extern const struct scenario scenarios[];
extern const size_t scenario_count;

/* scenarios_calls.c: makes so many random calls on the worker's own slots. */
void act_some(size_t calls);

/* What a survivor does while its own death is tried, by variant. */
void act_as_survivor(void);

/* Makes the scenario's heap and prepares it; ends the scenario. */
void scenario_begin(const struct scenario *scenario, uint64_t seed);
void scenario_end(void);

/* Random numbers for the process that acts. */
extern struct random_source dice;

/* The thread's rseq area while it is stepped: sequences are plain code then, on this CPU. */
struct standin {
    uint32_t cpu_id_start, cpu_id;
    uint64_t rseq_cs;
    uint64_t rest[2];
};
extern _Thread_local struct standin standin;
void use_standin(struct dvsm_heap *which);

struct budget {
    bool full;
    uint64_t seed;
    const char *only; /* the scenario of that name */
};

int run_boundaries(const struct budget *budget);
int run_real(const struct budget *budget);
int run_recovery(const struct budget *budget);
int run_interleave(const struct budget *budget);
int run_storm(const struct budget *budget);
int run_plants(const struct budget *budget);

#endif
