/* failing_backend.c - counting calls, and failing some. */
#define _GNU_SOURCE
#include "support/failing_backend.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static struct failing_backend *wrapper(const dvsm_backend *self)
{
    return (struct failing_backend *)(uintptr_t)self; /* its first member */
}

/* Counts the call; returns the error that it is to fail with, or 0. */
static int planned_error(struct failing_backend *f, enum failing_call kind)
{
    struct failing_plan *plan = &f->plan[kind];
    unsigned long number = atomic_fetch_add(&plan->calls, 1) + 1;
    unsigned long fail_at = atomic_load(&plan->fail_at);

    if (fail_at == 0 || number < fail_at || (number > fail_at && !atomic_load(&plan->for_good)))
        return 0;
    atomic_fetch_add(&plan->failures, 1);
    errno = EFAULT; /* callers must use the returned error */
    return atomic_load(&plan->error);
}

static void check_range(struct failing_backend *f, const dvsm_mapping *m, const void *start,
                        size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t offset = (uintptr_t)start - (uintptr_t)m->base;

    if (bytes == 0 || offset % page != 0 || bytes % page != 0 || offset > m->bytes ||
        bytes > m->bytes - offset)
        atomic_fetch_add(&f->misuses, 1);
}

static int failing_reserve(const dvsm_backend *self, dvsm_mapping *m)
{
    struct failing_backend *f = wrapper(self);
    int error = planned_error(f, FAILING_RESERVE);

    if (error == 0)
        error = f->inner->reserve(f->inner, m);
    if (error == 0)
        atomic_fetch_add(&f->mapped, m->bytes);
    return error;
}

static int failing_commit(const dvsm_backend *self, const dvsm_mapping *m, void *start,
                          size_t bytes)
{
    struct failing_backend *f = wrapper(self);
    int error = planned_error(f, FAILING_COMMIT);

    check_range(f, m, start, bytes);
    if (error == 0)
        error = f->inner->commit(f->inner, m, start, bytes);
    if (error == 0)
        atomic_fetch_add(&f->committed, bytes);
    return error;
}

static int failing_release(const dvsm_backend *self, const dvsm_mapping *m, void *start,
                           size_t bytes)
{
    struct failing_backend *f = wrapper(self);
    int error = planned_error(f, FAILING_RELEASE);

    check_range(f, m, start, bytes);
    if (error == 0)
        error = f->inner->release(f->inner, m, start, bytes);
    if (error == 0)
        atomic_fetch_sub(&f->committed, bytes);
    return error;
}

static int failing_unmap(const dvsm_backend *self, dvsm_mapping *m, int destroy)
{
    struct failing_backend *f = wrapper(self);
    size_t bytes = m->bytes;
    int error = planned_error(f, FAILING_UNMAP);

    if (error == 0)
        error = f->inner->unmap(f->inner, m, destroy);
    if (error == 0)
        atomic_fetch_sub(&f->mapped, bytes);
    return error;
}

struct failing_backend *failing_backend_new(const dvsm_backend *inner)
{
    struct failing_backend *f =
        mmap(NULL, sizeof *f, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (f == MAP_FAILED) {
        perror("mmap");
        abort();
    }
    f->inner = inner;
    f->backend = (dvsm_backend){
        .size = sizeof(dvsm_backend),
        .name = "failing",
        .reserve = failing_reserve,
        .commit = failing_commit,
        .release = failing_release,
        .unmap = failing_unmap,
    };
    return f;
}

void failing_backend_delete(struct failing_backend *f)
{
    munmap(f, sizeof *f);
}

void failing_backend_reset(struct failing_backend *f)
{
    for (int kind = 0; kind < FAILING_KINDS; kind++) {
        atomic_store(&f->plan[kind].calls, 0);
        atomic_store(&f->plan[kind].failures, 0);
        atomic_store(&f->plan[kind].fail_at, 0);
    }
}

void failing_backend_fail(struct failing_backend *f, enum failing_call kind, unsigned long k,
                          int error, bool for_good)
{
    struct failing_plan *plan = &f->plan[kind];

    atomic_store(&plan->error, error);
    atomic_store(&plan->for_good, for_good);
    atomic_store(&plan->fail_at, atomic_load(&plan->calls) + k);
}

unsigned long failing_backend_calls(const struct failing_backend *f, enum failing_call kind)
{
    return atomic_load(&f->plan[kind].calls);
}
