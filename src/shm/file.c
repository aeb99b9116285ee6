/* file.c - the descriptor of a mapping's file: moved above stdio, found again where it was closed;
 * and making the file longer.
 *
 * The mapping keeps the file alive, but only a descriptor can make it longer. A program may have
 * closed that descriptor, or have another file under its number by now: the descriptor is the
 * heap's only if device and inode match. If not, another descriptor is looked for: through the
 * mapping itself (which needs a capability), among the descriptors of this process, among those of
 * its parent.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm/shm.h"
#include "shm/shm_internal.h"
#include "sync/page.h"

/* ---- above stdio */

int shm_fd_above_stdio(int fd)
{
    if (fd < 0 || fd > STDERR_FILENO)
        return fd;

    int above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), error = errno;
    close(fd);
    errno = error;
    return above;
}

int shm_open_above_stdio(const char *path, int flags)
{
    return shm_fd_above_stdio(shm_kernel.open(path, flags | O_CLOEXEC, 0));
}

/* ---- which file it is */

int shm_note_file(struct shm_record *record, int fd)
{
    struct stat file = {0};

    if (fd >= 0 && fstat(fd, &file) != 0)
        return errno;
    record->device = file.st_dev;
    record->inode = file.st_ino;
    atomic_store(&record->length, (size_t)file.st_size);
    atomic_store(&record->fd, fd);
    return 0;
}

static bool is_file_of(const struct shm_record *record, const struct stat *file)
{
    return record->inode != 0 && file->st_ino == record->inode && file->st_dev == record->device;
}

bool shm_is_file_seen(const dvsm_mapping *mapping, const struct stat *file)
{
    return is_file_of(shm_record(mapping), file);
}

bool shm_is_file_of_record(const struct shm_record *record, int fd)
{
    struct stat file;

    return fd >= 0 && fstat(fd, &file) == 0 && is_file_of(record, &file);
}

bool shm_is_file_of(const dvsm_mapping *mapping, int fd)
{
    return shm_is_file_of_record(shm_record(mapping), fd);
}

bool shm_owns_fd(const dvsm_mapping *mapping)
{
    return shm_is_file_of(mapping, atomic_load(&shm_record(mapping)->fd));
}

/* ---- finding it again */

/* Both build "/proc/<who>/<what>" without stdio, with numbers in base 10 or 16. */
static char *put_text(char *to, const char *text)
{
    while (*text != '\0')
        *to++ = *text++;
    *to = '\0';
    return to;
}

static char *put_number(char *to, uintptr_t number, unsigned base)
{
    char digits[2 * sizeof number + 8];
    char *first = digits + sizeof digits;

    *--first = '\0';
    do
        *--first = "0123456789abcdef"[number % base];
    while ((number /= base) != 0);
    return put_text(to, first);
}

/* NB: works only while the mapping is in one piece: mlock() and its like divide it. */
static int open_mapped_file(const dvsm_mapping *mapping)
{
    char path[80], *end = put_text(path, "/proc/self/map_files/");

    end = put_number(end, (uintptr_t)mapping->base, 16);
    end = put_text(end, "-");
    put_number(end, (uintptr_t)mapping->base + mapping->bytes, 16);
    return shm_kernel.open(path, O_RDWR | O_CLOEXEC, 0);
}

/* As the kernel writes it. */
struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short bytes;
    unsigned char type;
    char name[];
};

void shm_each_entry(const char *path, shm_visit visit, void *context)
{
    _Alignas(struct entry) char entries[512];
    int directory = shm_open_above_stdio(path, O_RDONLY | O_DIRECTORY);
    bool on = directory >= 0;
    long bytes;

    while (on && (bytes = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
        for (long at = 0; at < bytes && on;) {
            const struct entry *entry = (const struct entry *)(const void *)(entries + at);

            on = visit(context, directory, entry->name);
            at += entry->bytes;
        }
    if (directory >= 0)
        close(directory);
}

/* A search for the mapping's file among the descriptors of a process. */
struct search {
    const dvsm_mapping *mapping;
    bool own; /* the calling process's */
    int fd;   /* what was found, or -1 */
};

/* Opens the entry's file once more if it is the mapping's; if it cannot be opened and the entry is
 * this process's, duplicates the descriptor. The file is checked before it is opened: opening an
 * unrelated device or pipe could have side effects. */
static bool open_entry(void *context, int directory, const char *name)
{
    struct search *search = context;
    struct stat file;

    if (*name < '0' || *name > '9' || fstatat(directory, name, &file, 0) != 0 ||
        !is_file_of(shm_record(search->mapping), &file))
        return true;
    search->fd = openat(directory, name, O_RDWR | O_CLOEXEC);
    if (search->fd < 0 && search->own) {
        int number = atoi(name), flags = fcntl(number, F_GETFL);

        if (flags >= 0 && (flags & O_ACCMODE) == O_RDWR)
            search->fd = fcntl(number, F_DUPFD_CLOEXEC, 3);
    }
    return search->fd < 0;
}

static int open_from(const dvsm_mapping *mapping, const char *path, bool own)
{
    struct search search = {mapping, own, -1};

    shm_each_entry(path, open_entry, &search);
    return search.fd;
}

static int open_from_parent(const dvsm_mapping *mapping)
{
    char path[64], *end = put_text(path, "/proc/");

    end = put_number(end, (uintptr_t)getppid(), 10);
    put_text(end, "/fd");
    return open_from(mapping, path, false);
}

/* Another thread may have found a descriptor, too: one of the two is kept. */
static int keep(const dvsm_mapping *mapping, int stale, int fd)
{
    fd = shm_fd_above_stdio(fd);
    if (fd < 0)
        return -1;
    if (shm_is_file_of(mapping, fd) &&
        atomic_compare_exchange_strong(&shm_record(mapping)->fd, &stale, fd))
        return fd;
    close(fd);
    return shm_is_file_of(mapping, stale) ? stale : -1;
}

static int find_again(const dvsm_mapping *mapping, int stale)
{
    int fd = open_mapped_file(mapping);

    if (fd < 0)
        fd = open_from(mapping, "/proc/self/fd", true);
    if (fd < 0)
        fd = open_from_parent(mapping);
    return keep(mapping, stale, fd);
}

int shm_own_fd(const dvsm_mapping *mapping)
{
    int fd = atomic_load(&shm_record(mapping)->fd);

    return fd < 0 || shm_is_file_of(mapping, fd) ? fd : find_again(mapping, fd);
}

/* ---- making it longer */

int shm_check_length(size_t length)
{
    struct rlimit limit;
    off_t as_offset = (off_t)length;

    if (as_offset < 0)
        return ENOMEM;
    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && length > limit.rlim_cur ? EFBIG : 0;
}

/* Only ever extends a file, whatever other processes do: if they made it longer, it stays so. NB:
 * writing one byte only extends the file, too, and overwrites nothing: only the process that
 * commits the last page can have anything in it. */
static int extend(int fd, size_t length)
{
    const size_t page = page_size();
    int error;

    do
        error = shm_kernel.allocate(fd, 0, (off_t)(length - page), (off_t)page) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == 0 || error == ENOSPC || error == ENOMEM || error == EFBIG)
        return error;
    return pwrite(fd, "", 1, (off_t)length - 1) == 1 ? 0 : errno;
}

/* Where a sandbox refuses to let us look at a file, the descriptor is taken to be still the
 * heap's. */
static bool may_not_look(int error)
{
    return error == EPERM || error == ENOSYS || error == EACCES;
}

/* Returns the file's descriptor, -1 without one; *length: how long the file is now. */
static int look_at_file(const dvsm_mapping *mapping, size_t *length)
{
    struct stat file;
    int fd = atomic_load(&shm_record(mapping)->fd);
    bool seen = fstat(fd, &file) == 0;

    if (!seen && may_not_look(errno)) {
        *length = 0;
        return fd;
    }
    if (!seen || !is_file_of(shm_record(mapping), &file)) {
        fd = find_again(mapping, fd);
        if (fd < 0 || fstat(fd, &file) != 0)
            return -1;
    }
    *length = (size_t)file.st_size;
    return fd;
}

static void note_length(struct shm_record *record, size_t length)
{
    size_t known = atomic_load(&record->length);

    while (known < length && !atomic_compare_exchange_weak(&record->length, &known, length))
        ;
}

int shm_lengthen(const dvsm_mapping *mapping, size_t length, bool *was_short)
{
    size_t now = 0;
    int fd = look_at_file(mapping, &now), error = 0;

    *was_short = fd < 0 || now < length;
    if (fd < 0)
        return ENOMEM;
    if (now < length)
        error = shm_check_length(length);
    if (now < length && error == 0)
        error = extend(fd, length);
    if (error == 0)
        note_length(shm_record(mapping), now < length ? length : now);
    return error;
}
