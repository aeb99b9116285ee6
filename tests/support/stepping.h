/* support/stepping.h - work done in a forked child, one instruction at a time.
 *
 *     struct stepped s;
 *     if (!stepping_start(&s, work, context))
 *         skip();                                    no ptrace here
 *     while (stepping_step(&s))
 *         ... look at what is shared, at stepping_at(&s) ...
 *     assert_int_equal(stepping_finish(&s), 0);
 *
 * NB: with a registered rseq area the kernel aborts a sequence at each step. To step through
 * sequences a child needs a stand-in (stand_in.h).
 */
#ifndef DVSM_TESTS_SUPPORT_STEPPING_H
#define DVSM_TESTS_SUPPORT_STEPPING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef void (*stepped_work)(void *context);

struct stepped {
    pid_t child;
};

/* Forks; the child is stopped just before it calls work(context). False: it cannot be done here. */
bool stepping_start(struct stepped *s, stepped_work work, void *context);

/* Executes one instruction; false: the work is done, and nothing was executed. */
bool stepping_step(struct stepped *s);

/* The address of the next instruction, and a word of the child's memory. */
uintptr_t stepping_at(const struct stepped *s);
uintptr_t stepping_stack_pointer(const struct stepped *s);
uintptr_t stepping_peek(const struct stepped *s, uintptr_t address);

/* Lets the child run to its end, or kills it where it is; returns its status as waitpid gives
 * it. */
int stepping_finish(struct stepped *s);
int stepping_kill(struct stepped *s);

/* The same without a tracer, and faster: a signal handler in the child calls each(step) after
 * every instruction of work(context). What each() finds out it leaves in shared memory; it may kill
 * the process. Returns the child's status as waitpid gives it, or -1: it cannot be done here. */
int stepping_through(stepped_work work, void *context, void (*each)(unsigned step));

#endif
