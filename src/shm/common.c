/* common.c - mapping, committing, releasing, unmapping: what all backends do alike. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "shm/shm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "dvsm/dvsm.h"

/* Linux 5.14; the C library's headers may be older than the kernel. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    POPULATE_ATTEMPTS = 1000, /* before "try again" is taken for a no */
    ALLOCATE_PIECE = 2 << 20, /* a signal undoes a piece: a long one might never be done */
    HUGE_PAGE = 2 << 20       /* only ranges aligned to it, in memory and in the file, can be one */
};

static int set_seals(int fd, int seals)
{
    return fcntl(fd, F_ADD_SEALS, seals);
}

struct shm_kernel shm_kernel = {memfd_create, madvise, fallocate, set_seals};

/* ---- mapping */

/* A word that tells one file from another: kept in mapping->context, where nothing need be
 * allocated for it. The odd factor keeps device and inode numbers, small both, from cancelling. */
static void *identity(const struct stat *file)
{
    return (void *)(uintptr_t)((uint64_t)file->st_ino + (uint64_t)file->st_dev * 0x9e3779b9u);
}

bool shm_is_file_of(const dvsm_mapping *mapping, int fd)
{
    struct stat file;

    return fstat(fd, &file) == 0 && identity(&file) == mapping->context;
}

bool shm_owns_fd(const dvsm_mapping *mapping)
{
    return mapping->fd >= 0 && shm_is_file_of(mapping, mapping->fd);
}

/* A file that grows beyond RLIMIT_FSIZE gets its process SIGXFSZ: look first. A length that off_t
 * cannot hold is not an invalid one, as the system would say, but more than there is. */
static int set_length(int fd, size_t bytes)
{
    struct rlimit limit;
    off_t length = (off_t)bytes;

    if (length < 0)
        return ENOMEM;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur)
        return EFBIG;
    return ftruncate(fd, length) == 0 ? 0 : errno;
}

/* Too little of something, in the word that makes the library ask for less. */
static int mmap_error(int error)
{
    return error == EAGAIN ? ENOMEM : error;
}

static void advise_huge_pages(const dvsm_mapping *mapping)
{
    if ((mapping->flags & DVSM_HUGE_PAGES) != 0)
        shm_kernel.advise(mapping->base, mapping->bytes, MADV_HUGEPAGE);
}

/* Address space a little larger than wanted is taken, the shared memory is put over the aligned
 * part, and what is left over at both ends is given back. */
static int map_aligned(dvsm_mapping *mapping, int fd, int flags)
{
    size_t bytes = mapping->bytes;
    size_t align = (mapping->flags & DVSM_HUGE_PAGES) != 0 ? HUGE_PAGE : SHM_ALIGN;
    size_t room = bytes + align;

    if (room < bytes)
        return ENOMEM;
    char *space = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        return mmap_error(errno);
    char *base = (char *)bits_round_up((uintptr_t)space, align);
    if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED | flags,
             fd, 0) == MAP_FAILED) {
        int error = mmap_error(errno);
        munmap(space, room);
        return error;
    }
    if (base > space)
        munmap(space, (size_t)(base - space));
    munmap(base + bytes, (size_t)(space + room - (base + bytes)));
    mapping->base = base;
    mapping->fd = fd;
    advise_huge_pages(mapping);
    return 0;
}

int shm_map_file(dvsm_mapping *mapping, int fd)
{
    struct stat file;
    int error = set_length(fd, mapping->bytes);

    if (error != 0)
        return error;
    if (fstat(fd, &file) != 0)
        return errno;
    mapping->context = identity(&file);
    return map_aligned(mapping, fd, 0);
}

int shm_map_anonymous(dvsm_mapping *mapping)
{
    mapping->context = NULL;
    return map_aligned(mapping, -1, MAP_ANONYMOUS);
}

/* ---- committing */

/* Linux 5.14 and later. The pages are there when the kernel says so; what would have been a SIGBUS
 * is EFAULT. */
static int populate(void *start, size_t bytes)
{
    for (int attempt = 0; attempt < POPULATE_ATTEMPTS; attempt++) {
        if (shm_kernel.advise(start, bytes, MADV_POPULATE_WRITE) == 0)
            return 0;
        if (errno == EAGAIN)
            sched_yield();
        else if (errno != EINTR)
            return errno;
    }
    return ENOMEM;
}

static int allocate_in_file(const dvsm_mapping *mapping, const char *start, size_t bytes, int mode)
{
    off_t offset = start - (const char *)mapping->base;

    for (size_t done = 0; done < bytes;) {
        size_t piece = bytes - done < ALLOCATE_PIECE ? bytes - done : ALLOCATE_PIECE;

        if (shm_kernel.allocate(mapping->fd, mode | FALLOC_FL_KEEP_SIZE, offset + (off_t)done,
                                (off_t)piece) == 0)
            done += piece;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

/* Has the kernel store a word in each page: where there is no memory for it the kernel gets an
 * error and not we a signal. */
static int touch_each_page(char *start, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);

    for (size_t done = 0; done < bytes; done += page) {
        unsigned *word_in_page = (unsigned *)(void *)(start + done);

        if (syscall(SYS_getcpu, word_in_page, NULL, NULL) != 0)
            return errno;
        *word_in_page = 0;
    }
    return 0;
}

static int commit(const dvsm_mapping *mapping, void *start, size_t bytes)
{
    int error = populate(start, bytes);

    if (error != EINVAL)
        return error;
    if (shm_owns_fd(mapping))
        return allocate_in_file(mapping, start, bytes, 0);
    return touch_each_page(start, bytes);
}

/* A file system that is full says so by EFAULT, through a mapping; a machine that is, too. */
static int commit_error(const dvsm_backend *self, int error)
{
    if (error == ENOSPC || (error == EFAULT && self == &dvsm_backend_shm_open))
        return ENOSPC;
    return ENOMEM;
}

int shm_commit(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes)
{
    int error = commit(mapping, start, bytes);

    if (error == 0)
        return 0;
    shm_release(self, mapping, start, bytes); /* all or nothing */
    return commit_error(self, error);
}

/* ---- releasing and unmapping */

int shm_release(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes)
{
    (void)self;
    if (shm_kernel.advise(start, bytes, MADV_REMOVE) == 0)
        return 0;
    int error = errno; /* EINVAL: the program has locked its memory; a hole can still be punched */
    if (!shm_owns_fd(mapping))
        return error;
    return allocate_in_file(mapping, start, bytes, FALLOC_FL_PUNCH_HOLE);
}

int shm_unmap(const dvsm_backend *self, dvsm_mapping *mapping, int destroy)
{
    (void)self;
    (void)destroy;
    if (munmap(mapping->base, mapping->bytes) != 0)
        return errno;
    if (shm_owns_fd(mapping))
        close(mapping->fd);
    mapping->base = NULL;
    mapping->fd = -1;
    return 0;
}
