/* support/child.h - work done in a forked child.
 *
 * A CMocka assertion must not fail in a child: it would jump into the parent's test runner. Work in
 * a child uses CHILD_CHECK(condition) instead, and returns 0 at its end.
 */
#ifndef DVSM_TESTS_SUPPORT_CHILD_H
#define DVSM_TESTS_SUPPORT_CHILD_H

#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

/* Returns the child's exit code. */
typedef int (*child_work)(void *context);

/* Work returns this if it cannot be done here: the test is then skipped. */
enum { CHILD_SKIP = 77 };

#define CHILD_CHECK(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: in a child: %s\n", __FILE__, __LINE__, #condition);            \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* Forks; the child does the work and ends by _exit(). Aborts the test if fork fails. */
pid_t start_child(child_work work, void *context);

/* The child's status as waitpid gives it. */
int wait_for_child(pid_t child);

/* Starts the child and waits for it. */
int run_in_child(child_work work, void *context);

/* The same; `text` gets what the child wrote to stderr, cut to `bytes` and ended by a zero. */
int run_in_child_with_stderr(child_work work, void *context, char *text, size_t bytes);

#endif
