/* harness.h - what the parts of the crash harness share.
 *
 *     image.c      copies of the region
 *     ledger.c     the calls that workers make, and which blocks are known to be whose
 *     tracee.c     workers stepped instruction by instruction; what the kernel does when they die
 *     survive.c    what a survivor does with a heap whose users died, and what must hold then
 *     scenarios*.c what workers do, by what it is about
 *     boundaries.c death at every boundary, really killed, and during recovery
 *     interleave.c two or three workers stepped in turn
 *     storm.c      many processes and threads, killed at random
 *     plants.c     faults planted in the library, all to be found
 *     main.c       which of these
 *
 * The process that traces is the survivor, too: it shares the region, and what it does to it is
 * undone by putting an image back. The first thing found wrong ends the program with a line that
 * says where.
 */
#ifndef DVSM_TESTS_CRASH_HARNESS_H
#define DVSM_TESTS_CRASH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "heap/fast.h"
#include "support/random.h"

/* Where we are, for messages. */
struct place {
    const char *part, *scenario;
    uint64_t seed;
    size_t step;      /* of the worker that dies */
    size_t second;    /* of the survivor that dies, too */
    uintptr_t at;     /* the worker's next instruction */
    unsigned variant; /* what the survivor does first */
};
extern struct place place;

/* Set to 0 where alarm() is: how many were let pass since. */
extern unsigned alarms;

/* Says what is wrong and where, and ends the program: 1. */
_Noreturn void violation(const char *format, ...) PRINTF_LIKE(1, 2);
/* The harness itself cannot go on: 2. */
_Noreturn void give_up(const char *format, ...) PRINTF_LIKE(1, 2);

/* The heap that all of it is about; the default heap at the same time. */
extern struct dvsm_heap *the_heap;

struct scenario {
    const char *name;
    dvsm_options options;
    void (*prepare)(void); /* by the survivor, not stepped */
    void (*act)(void);     /* by the worker */
    bool failing;          /* the backend fails when the worker begins */
    bool looks;            /* many steps that change nothing: not for samples */
    void (*hold)(
        void); /* another process does this meanwhile, and dies when the worker does or, if that
                           waits for it, before */
    /* An earlier worker did this, and was killed as soon as that was true. */
    void (*act_before)(void);
    bool (*died_when)(void);
};
extern const struct scenario scenarios[];
extern const size_t scenario_count;

/* scenarios_calls.c: so many random calls on the worker's own slots. */
void act_some(size_t calls);

/* What a survivor does whose own death is tried, by variant. */
void act_as_survivor(void);

/* Makes the scenario's heap and prepares it; its end. */
void scenario_begin(const struct scenario *scenario, uint64_t seed);
void scenario_end(void);

/* Random numbers of whoever acts. */
extern struct random_source dice;

/* The thread's rseq area as long as it is stepped: sequences are plain code then, on this CPU. */
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
