/* faults.c - the user's fault handler. */
#include <stddef.h>

#include "heap/heap.h"

static _Atomic(dvsm_fault_handler) user_handler;

static void tell_user(const struct fault_report *report)
{
    const dvsm_fault fault = {.size = sizeof fault,
                              .what = report->what,
                              .address = report->address,
                              .heap = report->heap,
                              .function = report->function};

    atomic_load (&user_handler)(&fault);
}

/* The user's function is in place before anything could call it, and is never taken away while it
 * might be called. The handler in src/base decides whether it is called. */
dvsm_fault_handler dvsm_set_fault_handler(dvsm_fault_handler handler)
{
    dvsm_fault_handler former;

    if (handler == NULL) {
        former = atomic_load(&user_handler);
        return fault_set_handler(NULL) != NULL ? former : NULL;
    }
    former = atomic_exchange(&user_handler, handler);
    return fault_set_handler(tell_user) != NULL ? former : NULL;
}
