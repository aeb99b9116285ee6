/* options.c - a heap's options: versions, limits of what may be asked for, defaults. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "heap/heap.h"

/* The first version's options; later ones are longer. NB: all of `size` bytes are read: one that no
 * version will ever have is a variable that was not initialised. */
enum { OPTIONS_LEAST = sizeof(dvsm_options), OPTIONS_MOST = 4096 };

static bool is_size_of_options(size_t size)
{
    return size >= OPTIONS_LEAST && size <= OPTIONS_MOST;
}

/* Options of a later version are understood if what this one does not know is not used. */
static bool rest_is_zero(const dvsm_options *options)
{
    const char *bytes = (const char *)options;

    for (size_t i = sizeof *options; i < options->size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static bool backend_is_complete(const dvsm_backend *backend)
{
    return backend->size >= sizeof *backend && backend->name != NULL && backend->reserve != NULL &&
           backend->commit != NULL && backend->release != NULL && backend->unmap != NULL;
}

bool options_read(const dvsm_options *options, dvsm_options *out)
{
    *out = (dvsm_options){.size = sizeof *out};
    if (options == NULL)
        return true;
    if (options->size != 0 && !(is_size_of_options(options->size) && rest_is_zero(options)))
        return false;
    *out = *options;
    out->size = sizeof *out;
    if (out->name != NULL && strlen(out->name) >= HEAP_LABEL)
        return false;
    if ((out->flags & ~(DVSM_HUGE_PAGES | DVSM_EXCLUSIVE | DVSM_LAZY)) != 0 ||
        (out->mode & ~0777u) != 0)
        return false;
    return out->backend == NULL || backend_is_complete(out->backend);
}

size_t options_default_reserve(void)
{
    if (sizeof(void *) < 8)
        return (size_t)1 << 30;

    size_t least = (size_t)1 << 30 << 6; /* 64 GiB, in two steps for 32 bit */
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t twice = pages > 0 && page > 0 ? 2 * (size_t)pages * (size_t)page : 0;

    return twice > least ? twice : least;
}
