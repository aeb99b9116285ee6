/* shm_open.c - shared memory in a file that may have a name. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "shm/shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PRIVATE_MODE = 0600 };

static int create(const char *name)
{
    return shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, PRIVATE_MODE);
}

/* Gives the new file a number above stdio's, and removes what another thread printed to it before
 * that. Returns 0, or an errno value and nothing is open. */
static int move_above_stdio(int *fd)
{
    int low = *fd;

    *fd = shm_fd_above_stdio(low);
    if (*fd < 0)
        return errno;
    if (*fd == low || ftruncate(*fd, 0) == 0)
        return 0;
    int error = errno;
    close(*fd);
    return error;
}

/* Creates a file that never has a name; O_EXCL keeps it from getting one. Where the file system has
 * no such files, a memory file does as well. */
static int create_unnamed(void)
{
    int fd = shm_kernel.open("/dev/shm", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, PRIVATE_MODE);

    if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOSPC)
        fd = shm_kernel.memfd("dvsm:shm_open", MFD_CLOEXEC);
    return fd;
}

static int reserve_unnamed(dvsm_mapping *mapping)
{
    int fd = create_unnamed(), error = move_above_stdio(&fd);

    if (error != 0)
        return error;
    error = shm_map_file(mapping, fd);
    if (error != 0)
        close(fd);
    return error;
}

/* fchmod(), so that the umask does not change the mode that the user asked for. */
static int reserve_named(dvsm_mapping *mapping)
{
    const mode_t mode = mapping->mode != 0 ? (mode_t)mapping->mode : PRIVATE_MODE;

    if (mapping->name[0] != '/')
        return EINVAL;
    int fd = create(mapping->name);
    if (fd < 0)
        return errno;
    int error = move_above_stdio(&fd);
    if (error == 0) {
        error = fchmod(fd, mode) == 0 ? shm_map_file(mapping, fd) : errno;
        if (error != 0)
            close(fd);
    }
    if (error != 0)
        shm_unlink(mapping->name);
    return error;
}

static int shm_open_reserve(const dvsm_backend *self, dvsm_mapping *mapping)
{
    (void)self;
    return mapping->name == NULL ? reserve_unnamed(mapping) : reserve_named(mapping);
}

/* Somebody may have given the name to another file since. Where the file cannot be opened to see,
 * the name counts as ours. */
static bool name_is_of_another(const dvsm_mapping *mapping)
{
    int fd = shm_fd_above_stdio(shm_open(mapping->name, O_RDONLY | O_CLOEXEC, 0));

    if (fd < 0)
        return false;
    bool another = !shm_is_file_of(mapping, fd);
    close(fd);
    return another;
}

static int remove_name(const dvsm_mapping *mapping)
{
    if (mapping->name == NULL || name_is_of_another(mapping))
        return 0;
    return shm_unlink(mapping->name) == 0 || errno == ENOENT ? 0 : errno;
}

/* Removes the name first: this process may not be allowed to remove it, and then nothing has
 * happened yet. */
static int shm_open_unmap(const dvsm_backend *self, dvsm_mapping *mapping, int destroy)
{
    int error = destroy ? remove_name(mapping) : 0;

    return error != 0 ? error : shm_unmap(self, mapping, destroy);
}

const dvsm_backend dvsm_backend_shm_open = {
    .size = sizeof(dvsm_backend),
    .name = "shm_open",
    .reserve = shm_open_reserve,
    .commit = shm_commit,
    .release = shm_release,
    .unmap = shm_open_unmap,
};
