/* guarded_backend.c - protection around the calls of the memfd backend. */
#include "support/guarded_backend.h"

#include <errno.h>
#include <sys/mman.h>

static const dvsm_backend *const inner = &dvsm_backend_memfd;

static int guarded_reserve(const dvsm_backend *self, dvsm_mapping *mapping)
{
    (void)self;
    return inner->reserve(inner, mapping);
}

static int guarded_commit(const dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                          size_t bytes)
{
    (void)self;
    if (mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0)
        return errno;
    return inner->commit(inner, mapping, start, bytes);
}

static int guarded_release(const dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                           size_t bytes)
{
    (void)self;
    int error = inner->release(inner, mapping, start, bytes);
    if (error == 0 && mprotect(start, bytes, PROT_NONE) != 0)
        return errno;
    return error;
}

static int guarded_unmap(const dvsm_backend *self, dvsm_mapping *mapping, int destroy)
{
    (void)self;
    return inner->unmap(inner, mapping, destroy);
}

const dvsm_backend guarded_backend = {
    .size = sizeof(dvsm_backend),
    .name = "guarded",
    .reserve = guarded_reserve,
    .commit = guarded_commit,
    .release = guarded_release,
    .unmap = guarded_unmap,
};
