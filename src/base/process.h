/* process.h - noticing that this is a new process, without a handler of fork.
 *
 * A page that the kernel wipes in every process that is made by copying (MADV_WIPEONFORK) holds the
 * process's number: 0 means that nobody has looked yet. The first who does makes sure that the C
 * library knows which thread this is: robust locks hold the thread's id, and a child made by a raw
 * clone() behind the library's back has its parent's, so that its death would free nothing. Such a
 * child is stopped, with a message.
 */
#ifndef DVSM_BASE_PROCESS_H
#define DVSM_BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* NULL: the system cannot wipe pages (before Linux 4.14), or there was no memory. */
extern volatile uint32_t *process_number __attribute__((visibility("hidden")));

/* Makes the page, unless it is there. */
void process_start(void);

/* A new process: checks it, and gives it a number that none of its ancestors had: the thread that was
 * copied still has one of theirs, and must not be taken for known because another thread came first. */
void process_greet(void);

static inline bool process_is_new(void)
{
    return unlikely(process_number != NULL && *process_number == 0);
}

#endif
