/* memfd.c - shared memory in a file without a name. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "shm/shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Linux 6.3: a system may demand that memory files cannot be executed. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

/* /proc shows the label. It need not be unique, and the kernel takes up to 249 bytes. */
static int open_file(const char *label)
{
    char name[64];
    const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

    snprintf(name, sizeof name, "dvsm:%s", label != NULL ? label : "");
    int fd = shm_kernel.memfd(name, flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = shm_kernel.memfd(name, flags);
    return fd;
}

/* Seals the file, so that nobody makes it shorter or adds a seal; it can still grow with the heap.
 * If the file for a moment had one of stdio's numbers, another thread may have printed to it: empty
 * it. */
static int prepare(int fd, bool moved)
{
    if (moved && ftruncate(fd, 0) != 0)
        return errno;
    return shm_kernel.seal(fd, F_SEAL_SHRINK | F_SEAL_SEAL) == 0 ? 0 : errno;
}

static int memfd_reserve(const dvsm_backend *self, dvsm_mapping *mapping)
{
    (void)self;
    int low = open_file(mapping->name), fd = shm_fd_above_stdio(low);
    if (fd < 0)
        return errno;
    int error = prepare(fd, fd != low);
    if (error == 0)
        error = shm_map_file(mapping, fd);
    if (error != 0)
        close(fd);
    return error;
}

const dvsm_backend dvsm_backend_memfd = {
    .size = sizeof(dvsm_backend),
    .name = "memfd",
    .reserve = memfd_reserve,
    .commit = shm_commit,
    .release = shm_release,
    .unmap = shm_unmap,
};
