/* tracee.h - a worker that is stepped instruction by instruction, and dies where the tracer says.
 *
 *     tracee_start   forks; the worker is stopped before its first call
 *     tracee_step    executes one instruction of a call, or goes on to the next call
 *     tracee_die     what the kernel would do to the locks if the worker were killed here
 *     tracee_kill    kills it
 *     tracee_preempt what the kernel does to a restartable sequence when another thread gets the
 * CPU
 *
 * A worker that would wait for a lock goes on as after a spurious wake-up: it tries the lock again.
 */
#ifndef DVSM_TESTS_CRASH_TRACEE_H
#define DVSM_TESTS_CRASH_TRACEE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum step {
    STEP_DONE,
    STEP_CALL,
    STEP_ENDED
}; /* an instruction; a call begins; the worker ended */

struct tracee {
    pid_t pid; /* 0: none */
    int who;
    uintptr_t at;       /* the next instruction */
    uintptr_t robust;   /* its list of robust locks, in its own memory */
    uintptr_t named[3]; /* what stood there last time */
    size_t steps;
    bool wrote;         /* the last step may have stored to memory that is not its stack */
    bool called_system; /* ... or was a system call */
    bool waits;         /* it found a lock taken */
    bool tried;         /* its death is tried at each instruction: they are noted */
};

void tracee_start(struct tracee *t, int who, void (*act)(void));
enum step tracee_step(struct tracee *t);
/* Whether the list of locks that the kernel would go through has changed since the last call. */
bool tracee_list_changed(struct tracee *t);
void tracee_die(const struct tracee *t);
void tracee_kill(struct tracee *t);
/* Lets it run to its end, unstepped. */
void tracee_finish(struct tracee *t);
void tracee_preempt(struct tracee *t, unsigned cpu);

/* How many instructions inside calls were stepped, by all tracees. visited_write() writes which of
 * the program's own were among those at which deaths are tried. */
extern size_t boundaries_visited;
void visited_write(void);

#endif
