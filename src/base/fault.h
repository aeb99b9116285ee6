/* fault.h - what a call found wrong, and what happens then.
 *
 * Code deep inside a call that finds a bad pointer or damaged metadata records it in the call's
 * `struct fault` and returns failure; each level up returns at once. At the boundary, when no lock
 * is held any more, it is reported (sync/report.h).
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

#endif
