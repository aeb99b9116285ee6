/* commit.c - putting memory behind a range and taking it away, the same for all backends.
 *
 * One call, MADV_POPULATE_WRITE, commits memory and reports the error that would have killed a
 * store. Before that the file is made long enough. Where the kernel lacks the call (before Linux
 * 5.14) or a sandbox refuses it, other calls do the same.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shm/shm.h"
#include "shm/shm_internal.h"
#include "sync/cancel.h"
#include "sync/page.h"

/* Linux 5.14; the C library's headers may be older than the kernel. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
    POPULATE_ATTEMPTS = 1000, /* then "try again" counts as a refusal */
    ALLOCATE_PIECE = 2 << 20, /* a signal undoes a piece: a longer one might never finish */
    DUMP_PIECE = 1 << 20      /* shorter ranges are not worth splitting the mapping for */
};

static int set_seals(int fd, int seals)
{
    return fcntl(fd, F_ADD_SEALS, seals);
}

static int open_path(const char *path, int flags, unsigned mode)
{
    return open(path, flags, mode);
}

/* Has the kernel store the signal mask, which stays unchanged: a call that every sandbox allows. */
static int store_mask(void *word)
{
    return (int)syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, word, sizeof(uint64_t));
}

struct shm_kernel shm_kernel = {memfd_create, madvise, fallocate, set_seals, open_path, store_mask};

/* ---- committing */

/* Whether the error means that the kernel does not know the call, or that a sandbox refuses it. */
static bool is_refused(int error)
{
    return error == EINVAL || error == EPERM || error == ENOSYS || error == EACCES ||
           error == EOPNOTSUPP;
}

/* When the kernel returns success, the pages are there; where a store would get SIGBUS, it returns
 * EFAULT. */
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
    int fd = atomic_load(&shm_record(mapping)->fd);
    off_t offset = start - (const char *)mapping->base;

    for (size_t done = 0; done < bytes;) {
        size_t piece = bytes - done < ALLOCATE_PIECE ? bytes - done : ALLOCATE_PIECE;

        if (shm_kernel.allocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset + (off_t)done,
                                (off_t)piece) == 0)
            done += piece;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

/* Has the kernel store a word in each page: without memory for the page the kernel returns an
 * error, where our own store would get a signal. NB: what the word held is lost; nothing is kept in
 * a range that is being committed. */
static int touch_each_page(char *start, size_t bytes)
{
    const size_t page = page_size();

    for (size_t done = 0; done < bytes; done += page) {
        if (shm_kernel.store(start + done) != 0)
            return errno;
        memset(start + done, 0, sizeof(uint64_t));
    }
    return 0;
}

/* Without populate(). */
static int commit_otherwise(const dvsm_mapping *mapping, char *start, size_t bytes)
{
    if (shm_owns_fd(mapping)) {
        int error = allocate_in_file(mapping, start, bytes, 0);

        if (!is_refused(error))
            return error;
    }
    return touch_each_page(start, bytes);
}

static int commit_within_file(const dvsm_mapping *mapping, char *start, size_t bytes)
{
    int error = populate(start, bytes);

    return is_refused(error) ? commit_otherwise(mapping, start, bytes) : error;
}

static bool has_file(const dvsm_mapping *mapping)
{
    return shm_record(mapping)->inode != 0;
}

/* NB: somebody may have made a file with a name shorter since its length was seen: after EFAULT the
 * length is looked at again. */
static int commit_in_file(const dvsm_mapping *mapping, char *start, size_t bytes, size_t end)
{
    bool was_short = false;
    int error = 0;

    if (end > atomic_load(&shm_record(mapping)->length))
        error = shm_lengthen(mapping, end, &was_short);
    if (error == 0)
        error = commit_within_file(mapping, start, bytes);
    if (error != EFAULT || was_short)
        return error;
    error = shm_lengthen(mapping, end, &was_short);
    return was_short && error == 0 ? commit_within_file(mapping, start, bytes) : EFAULT;
}

static int commit(const dvsm_mapping *mapping, char *start, size_t bytes, size_t end)
{
    return has_file(mapping) ? commit_in_file(mapping, start, bytes, end)
                             : commit_within_file(mapping, start, bytes);
}

/* Through a mapping, a full file system gives EFAULT; so does a machine without memory. */
static int commit_error(const dvsm_backend *self, int error)
{
    if (error == ENOSPC || (error == EFAULT && self == &dvsm_backend_shm_open))
        return ENOSPC;
    return ENOMEM;
}

/* Says whether a range is in core files. Only needed without a file: memory that has a file is
 * dumped up to the file's end. */
static void advise_dump(const dvsm_mapping *mapping, void *start, size_t bytes, int advice)
{
    if (!has_file(mapping))
        shm_kernel.advise(start, bytes, advice);
}

int shm_commit(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes)
{
    size_t end = (size_t)((char *)start - (char *)mapping->base) + bytes;
    int saved = errno, cancel = cancel_put_off(), error = ENOMEM;

    if (shm_is_available(shm_record(mapping), end, bytes)) {
        error = commit(mapping, start, bytes, end);
        if (error == 0)
            advise_dump(mapping, start, bytes, MADV_DODUMP);
        else
            shm_release(self, mapping, start, bytes); /* all or nothing */
    }
    cancel_restore(cancel);
    errno = saved;
    return error == 0 ? 0 : commit_error(self, error);
}

/* ---- releasing */

static int release(const dvsm_mapping *mapping, void *start, size_t bytes)
{
    if (shm_kernel.advise(start, bytes, MADV_REMOVE) == 0)
        return 0;
    int error = errno; /* EINVAL: the program has locked its memory; a hole can still be punched */
    if (!shm_owns_fd(mapping))
        return error;
    return allocate_in_file(mapping, start, bytes, FALLOC_FL_PUNCH_HOLE);
}

int shm_release(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes)
{
    int saved = errno, cancel = cancel_put_off(), error = release(mapping, start, bytes);

    (void)self;
    if (error == 0 && bytes >= DUMP_PIECE)
        advise_dump(mapping, start, bytes, MADV_DONTDUMP);
    cancel_restore(cancel);
    errno = saved;
    return error;
}

bool shm_may_commit(const dvsm_backend *backend, size_t bytes)
{
    if (bytes < SHM_LARGE || backend->commit != shm_commit)
        return true;

    int cancel = cancel_put_off(), saved = errno;
    bool may = shm_has_available(bytes);
    cancel_restore(cancel);
    errno = saved;
    return may;
}
