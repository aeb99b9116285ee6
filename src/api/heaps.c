/* heaps.c - making heaps, destroying them, and finding one. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "heap/hardened.h"
#include "sync/cancel.h"

static int fail(int error)
{
    errno = error;
    return -1;
}

dvsm_heap *dvsm_heap_create(const dvsm_options *options)
{
    dvsm_options complete;
    int error = EINVAL;

    if (options_read(options, &complete)) {
        /* A reserve that the user asked for is given in full or refused; the default may be
         * halved. */
        struct dvsm_heap *heap = heap_make(&complete, "unnamed", complete.reserve, &error);
        if (heap != NULL)
            return heap;
    }
    errno = error;
    return NULL;
}

int dvsm_heap_destroy(dvsm_heap *heap)
{
    if (registry_checked(heap) == NULL)
        return -1;
    if (heap == heap_default())
        return fail(EINVAL);
    hardened_check(heap, "dvsm_heap_destroy");
    int error = heap_unmake(heap);
    if (error != 0)
        return fail(error);
    pthread_testcancel(); /* was put off, so that nothing is left half done */
    return 0;
}

int dvsm_heap_unlink(const char *name)
{
    if (name == NULL || name[0] != '/')
        return fail(EINVAL);

    int cancel = cancel_put_off(), result = shm_unlink(name);
    cancel_restore(cancel);
    return result;
}

int dvsm_version(void)
{
    return DVSM_VERSION;
}

dvsm_heap *dvsm_heap_default(void)
{
    return heap_default();
}

dvsm_heap *dvsm_heap_of(const void *block)
{
    return heap_of(block);
}

int dvsm_init(const dvsm_options *options)
{
    int error = heap_replace_default(options);

    return error == 0 ? 0 : fail(error);
}
