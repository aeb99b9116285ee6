/* support/failing_backend.h - a backend around another one; its calls fail when a test says so.
 *
 *     struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
 *     failing_backend_fail(f, FAILING_COMMIT, 3, ENOMEM, false);     the third commit from now on
 *     dvsm_heap_create(&(dvsm_options){.backend = &f->backend, ...});
 *
 * A call that fails does nothing, except that it sets errno to something else than the error that
 * it returns. The counts are shared with children forked later. Each range is checked against the
 * contract of dvsm/backend.h; `misuses` counts violations.
 */
#ifndef DVSM_TESTS_SUPPORT_FAILING_BACKEND_H
#define DVSM_TESTS_SUPPORT_FAILING_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "dvsm/backend.h"

enum failing_call {
    FAILING_RESERVE,
    FAILING_COMMIT,
    FAILING_RELEASE,
    FAILING_UNMAP,
    FAILING_KINDS
};

struct failing_plan {
    atomic_ulong calls;    /* made since the last failing_backend_reset() */
    atomic_ulong failures; /* calls that failed */
    atomic_ulong fail_at;  /* the call, by number, that fails; 0: none */
    atomic_bool for_good;  /* every later call fails, too */
    atomic_int error;
};

struct failing_backend {
    dvsm_backend backend; /* pass a pointer to this */
    const dvsm_backend *inner;
    struct failing_plan plan[FAILING_KINDS];
    atomic_size_t mapped;    /* bytes reserved and not unmapped, all processes */
    atomic_size_t committed; /* bytes committed less bytes released */
    atomic_ulong misuses;
};

struct failing_backend *failing_backend_new(const dvsm_backend *inner);
void failing_backend_delete(struct failing_backend *f);

/* Forgets plans and counts of calls; keeps `mapped`, `committed` and `misuses`. */
void failing_backend_reset(struct failing_backend *f);

/* The k-th call of that kind from now on (1: the next) gives `error`, and with `for_good` so do all
 * after it. */
void failing_backend_fail(struct failing_backend *f, enum failing_call kind, unsigned long k,
                          int error, bool for_good);

/* How many calls of that kind were made, failed ones included. */
unsigned long failing_backend_calls(const struct failing_backend *f, enum failing_call kind);

#endif
