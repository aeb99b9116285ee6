/* inherit.c - letting the programs that this process executes join a heap. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "heap/heap.h"
#include "shm/shm.h"
#include "sync/cancel.h"

static int inherit(struct dvsm_heap *heap)
{
    char value[HEAP_LABEL];
    int fd = shm_fd(&heap->mapping);

    if (fd < 0)
        return ENOTSUP;
    /* Rather by name: a program that is executed may find all descriptors closed. */
    if (heap->backend == &dvsm_backend_shm_open && shm_has_its_name(&heap->mapping))
        snprintf(value, sizeof value, "%s", heap->label);
    else
        snprintf(value, sizeof value, "fd:%d", fd);
    if (fcntl(fd, F_SETFD, 0) != 0 || setenv("DVSM_HEAP", value, 1) != 0)
        return errno;
    return 0;
}

int heap_inherit(struct dvsm_heap *heap)
{
    int cancel = cancel_put_off(), error = inherit(heap);

    cancel_restore(cancel);
    return error;
}
