/* heaps.c - making heaps, destroying them, and finding one. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "heap/hardened.h"
#include "shm/shm.h"
#include "sync/cancel.h"

static int fail(int error)
{
    errno = error;
    return -1;
}

/* What is not told in words yet is told by what the error means in general. */
static dvsm_heap *refuse(int error)
{
    if (heap_message()[0] == '\0')
        heap_say("%s", strerror(error));
    return heap_fail(error);
}

dvsm_heap *dvsm_heap_create(const dvsm_options *options)
{
    dvsm_options complete;
    int error = EINVAL;

    heap_say("%s", "");
    if (options_read(options, &complete)) {
        /* A reserve that the user asked for is given in full or refused; the default may be
         * halved. */
        struct dvsm_heap *heap = heap_make(&complete, HEAP_CREATED, complete.reserve, &error);
        if (heap != NULL)
            return heap;
    }
    return refuse(error);
}

dvsm_heap *dvsm_heap_attach(const char *name, unsigned flags)
{
    int error = (flags & ~DVSM_READ_ONLY) != 0 || name == NULL ? EINVAL : 0;

    heap_say("%s", "");
    struct dvsm_heap *heap = error == 0 ? heap_attach(name, flags != 0, &error) : NULL;
    return heap != NULL ? heap : refuse(error);
}

dvsm_heap *dvsm_heap_attach_fd(int fd, unsigned flags)
{
    int error = (flags & ~DVSM_READ_ONLY) != 0 ? EINVAL : 0;

    heap_say("%s", "");
    struct dvsm_heap *heap = error == 0 ? heap_attach_fd(fd, flags != 0, &error) : NULL;
    return heap != NULL ? heap : refuse(error);
}

const char *dvsm_heap_message(void)
{
    return heap_message();
}

int dvsm_heap_fd(const dvsm_heap *heap)
{
    if (registry_checked((dvsm_heap *)(uintptr_t)heap) == NULL)
        return -1;

    int cancel = cancel_put_off(), fd = shm_fd(&heap->mapping);
    cancel_restore(cancel);
    return fd >= 0 ? fd : fail(ENOTSUP);
}

int dvsm_heap_inherit(dvsm_heap *heap)
{
    if (registry_writable(heap) == NULL)
        return -1;
    int error = heap_inherit(heap);
    return error == 0 ? 0 : fail(error);
}

static int leave(dvsm_heap *heap, bool destroy, const char *function)
{
    if (registry_checked(heap) == NULL)
        return -1;
    if (destroy && heap->read_only)
        return fail(EROFS);
    if (heap == heap_default())
        return !destroy && heap_leave_once(heap) ? 0 : fail(EINVAL);
    if (!heap->read_only)
        hardened_check(heap, function);
    int error = heap_unmake(heap, destroy);
    if (error != 0)
        return fail(error);
    pthread_testcancel(); /* was put off, so that nothing is left half done */
    return 0;
}

int dvsm_heap_destroy(dvsm_heap *heap)
{
    return leave(heap, true, "dvsm_heap_destroy");
}

int dvsm_heap_detach(dvsm_heap *heap)
{
    return leave(heap, false, "dvsm_heap_detach");
}

int dvsm_heap_unlink(const char *name)
{
    int error = shm_check_name(name);

    if (error != 0)
        return fail(error);

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
