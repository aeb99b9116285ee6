/* fault.h - what a call found wrong, and what happens then.
 *
 * Code deep inside a call that finds a bad pointer or damaged metadata records it in the call's
 * `struct fault` and returns failure; each level up returns at once. At the boundary, when no lock
 * is held any more, fault_report() reports it: by default, by one line on stderr and abort(); a
 * handler may decide otherwise.
 *
 *     FAULT_ARGUMENT  the caller handed over a pointer it should not have; shared metadata is sound
 *     FAULT_DAMAGE    metadata is not what the allocator wrote: the arena must be set aside
 */
#ifndef DVSM_BASE_FAULT_H
#define DVSM_BASE_FAULT_H

#include <stdbool.h>

enum fault_kind { FAULT_NONE, FAULT_ARGUMENT, FAULT_DAMAGE };

struct fault {
    enum fault_kind kind;
    const char *what;    /* a string constant: "double free" */
    const void *address; /* the block, chunk or link concerned */
};

/* Records the first fault of a call. Returns false, so that a check can `return fault_raise(...)`.
 */
bool fault_raise(struct fault *fault, enum fault_kind kind, const char *what, const void *address);

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
