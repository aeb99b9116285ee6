/* shm.c - choosing a backend, and a size it can reserve. */
#include "shm/shm.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/bits.h"
#include "shm/shm_internal.h"

const dvsm_backend *shm_backend_named(const char *name)
{
    static const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open,
                                                   &dvsm_backend_anon};

    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

/* What is wrong with what the backend has mapped: the rest of the library relies on the alignment;
 * and a backend may not know that a base can be wanted. */
static int look_at(const dvsm_mapping *mapping, const void *wanted)
{
    if ((uintptr_t)mapping->base % SHM_ALIGN != 0)
        return EPROTO;
    return wanted != NULL && mapping->base != wanted ? EADDRNOTAVAIL : 0;
}

static int reserve(const dvsm_backend *backend, dvsm_mapping *mapping)
{
    void *wanted = mapping->base;
    int error = backend->reserve(backend, mapping);

    if (error == 0) {
        error = look_at(mapping, wanted);
        if (error != 0)
            backend->unmap(backend, mapping, 1);
    }
    if (error != 0)
        mapping->base = wanted;
    return error;
}

int shm_publish(const dvsm_backend *backend, const dvsm_mapping *mapping)
{
    bool knows = backend->size >= offsetof(dvsm_backend, publish) + sizeof backend->publish;

    return knows && backend->publish != NULL ? backend->publish(backend, mapping) : 0;
}

static bool is_too_large(int error)
{
    return error == ENOMEM || error == EFBIG || error == EINVAL;
}

int shm_reserve_fitting(const dvsm_backend *backend, dvsm_mapping *mapping, size_t least)
{
    const size_t wanted = mapping->bytes;
    int error = reserve(backend, mapping);

    while (is_too_large(error) && mapping->bytes > least) {
        size_t half = bits_round_down(mapping->bytes / 2, SHM_ALIGN);

        mapping->bytes = half > least ? half : least;
        error = reserve(backend, mapping);
    }
    if (error != 0)
        mapping->bytes = wanted;
    return error;
}
