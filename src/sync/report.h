/* report.h - faults on their way to the program.
 *
 * A fault is reported at the boundary, when the thread holds no lock any more: by default, by one
 * line on stderr and abort(); the program's handler may decide otherwise. A fault that a lower
 * layer finds outside any call's `struct fault` is kept for the thread until then.
 */
#ifndef DVSM_SYNC_REPORT_H
#define DVSM_SYNC_REPORT_H

#include "base/fault.h"

extern __thread struct fault fault_noted
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Damage found by a call that took a lock whose holder died: part of the heap was set aside, and
 * the call goes on without it if it can. Kept for the calling thread until the public function
 * reports it, with no lock held. */
void fault_note(const char *what, const void *address);

/* Moves the first noted fault to *fault and forgets it; false: none was noted. */
bool fault_take_noted(struct fault *fault);

/* What the handler is told; matches dvsm_fault in dvsm.h, which documents it. */
struct fault_report {
    const char *what;
    const void *address;
    const char *heap;     /* the heap's label, or "no heap" */
    const char *function; /* the public function called */
};
typedef void (*fault_handler)(const struct fault_report *report);

/* Replaces the process's handler; NULL: the default. Returns the former one. */
fault_handler fault_set_handler(fault_handler handler);

/* Calls the handler, and returns if the handler does; without a handler, prints the line and
 * aborts. The caller holds no lock. */
void fault_report(const struct fault *fault, const char *heap, const char *function);

#endif
