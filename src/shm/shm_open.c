/* shm_open.c - shared memory in a file that may have a name.
 *
 * A file gets its name when the heap in it is complete, by one link(). So nobody ever finds a heap
 * that is being made, and a creator that is killed leaves nothing. Where the file system has no
 * files without a name, or /proc is missing, the file has its name from the start: then whoever
 * comes while it is being made finds a heap without a mark (EAGAIN).
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "shm/shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/shm.h"

enum { PRIVATE_MODE = 0600 };

/* ---- names */

int shm_check_name(const char *name)
{
    if (name == NULL || name[0] != '/' || name[1] == '\0' || strchr(name + 1, '/') != NULL ||
        strcmp(name, "/.") == 0 || strcmp(name, "/..") == 0)
        return EINVAL;
    return strlen(name + 1) > NAME_MAX ? ENAMETOOLONG : 0;
}

int shm_open_name(const char *name, bool read_only)
{
    int error = shm_check_name(name);

    if (error != 0) {
        errno = error;
        return -1;
    }
    return shm_fd_above_stdio(shm_open(name, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC, 0));
}

static void put_path(char path[static sizeof SHM_DIRECTORY + NAME_MAX + 1], const char *name)
{
    snprintf(path, sizeof SHM_DIRECTORY + NAME_MAX + 1, SHM_DIRECTORY "%s", name);
}

bool shm_has_its_name(const dvsm_mapping *mapping)
{
    char path[sizeof SHM_DIRECTORY + NAME_MAX + 1];
    struct stat file;

    if (mapping->name == NULL)
        return false;
    put_path(path, mapping->name);
    return lstat(path, &file) == 0 && shm_is_file_seen(mapping, &file);
}

static int remove_name(const dvsm_mapping *mapping)
{
    if (!shm_has_its_name(mapping))
        return 0;
    return shm_unlink(mapping->name) == 0 || errno == ENOENT ? 0 : errno;
}

static int shm_open_publish(const dvsm_backend *self, const dvsm_mapping *mapping)
{
    char from[32], to[sizeof SHM_DIRECTORY + NAME_MAX + 1];

    (void)self;
    if (mapping->name == NULL || shm_has_its_name(mapping))
        return 0;
    snprintf(from, sizeof from, "/proc/self/fd/%d", mapping->fd);
    put_path(to, mapping->name);
    return linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

/* ---- files */

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

static bool is_lack_of_room(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOSPC;
}

static int create_without_name(int flags)
{
    return shm_kernel.open(SHM_DIRECTORY, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, PRIVATE_MODE);
}

/* Creates a file that never has a name; O_EXCL keeps it from getting one. Where the file system has
 * no such files, a memory file does as well. */
static int create_unnamed(void)
{
    int fd = create_without_name(O_EXCL);

    if (fd < 0 && !is_lack_of_room(errno))
        fd = shm_kernel.memfd("dvsm:shm_open", MFD_CLOEXEC);
    return fd;
}

/* *named: it has its name already. */
static int create_named(const char *name, bool *named)
{
    int fd = access("/proc/self/fd", X_OK) == 0 ? create_without_name(0) : -1;

    *named = fd < 0 && !is_lack_of_room(errno);
    return *named ? shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, PRIVATE_MODE) : fd;
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
    int error = shm_check_name(mapping->name);
    bool named;

    if (error != 0)
        return error;
    int fd = create_named(mapping->name, &named);
    if (fd < 0)
        return errno;
    error = move_above_stdio(&fd);
    if (error == 0) {
        error = fchmod(fd, mode) == 0 ? shm_map_file(mapping, fd) : errno;
        if (error != 0)
            close(fd);
    }
    if (error != 0 && named)
        shm_unlink(mapping->name);
    return error;
}

static int shm_open_reserve(const dvsm_backend *self, dvsm_mapping *mapping)
{
    (void)self;
    return mapping->name == NULL ? reserve_unnamed(mapping) : reserve_named(mapping);
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
    .publish = shm_open_publish,
};
