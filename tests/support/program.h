/* support/program.h - the test's own program, executed once more as an unrelated process.
 *
 *     static int work(char **arguments) { ... CHILD_CHECK(...) ... return 0; }
 *     static const struct program programs[] = {{"work", work}};
 *
 *     int main(int argc, char **argv)
 *     {
 *         if (program_is_asked_for(argc, argv))
 *             return program_run(programs, count, argv);
 *         ...
 *
 *     assert_int_equal(run_program("work", name, NULL), 0);
 *
 * It begins with another address space, as any program that is executed.
 */
#ifndef DVSM_TESTS_SUPPORT_PROGRAM_H
#define DVSM_TESTS_SUPPORT_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "support/child.h"

struct program {
    const char *name;
    int (*work)(char **arguments); /* as CHILD_CHECK() has it */
};

bool program_is_asked_for(int argc, char **argv);
int program_run(const struct program *programs, size_t count, char **argv);

/* Starts the program of that name with the arguments that follow, up to NULL. */
pid_t start_program(const char *name, ...) __attribute__((sentinel));

/* The same, and waits; the status as waitpid gives it. */
int run_program(const char *name, ...) __attribute__((sentinel));

#endif
