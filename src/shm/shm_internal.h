/* shm_internal.h - what the backends share; for this folder and its tests.
 *
 *     map.c        address space for a heap, and giving it back
 *     commit.c     memory behind a range, and taking it away
 *     file.c       the descriptor of a mapping's file: kept, found again; a longer file
 *     available.c  whether the machine and the cgroup have what is asked for
 */
#ifndef DVSM_SHM_SHM_INTERNAL_H
#define DVSM_SHM_SHM_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dvsm/backend.h"

enum {
    SHM_ALIGN = 64 << 10,
    SHM_LARGE = 64 << 20 /* requests from this size on always check what is available */
};

/* The calls that an older kernel may lack, that a sandbox may refuse, or that fail only on machines
 * no test has. Only tests replace them. They fail like the C library's, with -1 and errno. */
struct shm_kernel {
    int (*memfd)(const char *name, unsigned flags);
    int (*advise)(void *start, size_t bytes, int advice);
    int (*allocate)(int fd, int mode, off_t offset, off_t bytes);
    int (*seal)(int fd, int seals);
    int (*open)(const char *path, int flags, unsigned mode);
    /* Has the kernel store eight bytes at `word`. */
    int (*store)(void *word);
};
extern struct shm_kernel shm_kernel;

/* What this process knows of a mapping beyond what the library does: mapping->context. A forked
 * child has a copy. */
struct shm_record {
    atomic_bool taken;
    atomic_int fd;                /* -1: without a file; else the file's, as far as is known */
    uint64_t device, inode;       /* which file it is; both 0: none */
    _Atomic(size_t) length;       /* the file is at least so long */
    _Atomic(size_t) look_at;      /* beyond this offset, look at what is available; available.c */
    _Atomic(size_t) spent, share; /* committed since the last look; how much leads to the next */
};

static inline struct shm_record *shm_record(const dvsm_mapping *mapping)
{
    return mapping->context;
}

/* ---- map.c */

/* Maps mapping->bytes of the new, empty file `fd`. On success the mapping owns the fd; on failure
 * the caller still does. */
int shm_map_file(dvsm_mapping *mapping, int fd);

/* Maps shared memory without a file. */
int shm_map_anonymous(dvsm_mapping *mapping);

/* ---- file.c */

/* Moves the file to a descriptor of 3 or above, closed on exec, and closes the one it had below 3.
 * A program reads and prints through 0, 1 and 2, even where it was started without them. On
 * failure: -1 and errno, and the file is closed. */
int shm_fd_above_stdio(int fd);

/* Notes which file is mapped. */
int shm_note_file(struct shm_record *record, int fd);

/* Whether the mapping's descriptor is still the file that was mapped, not another opened since
 * under that number. */
bool shm_owns_fd(const dvsm_mapping *mapping);

/* Whether that is what stat() says of the mapping's file. */
struct stat;
bool shm_is_file_seen(const dvsm_mapping *mapping, const struct stat *file);

/* Whether `fd` is the file that the record names. */
bool shm_is_file_of_record(const struct shm_record *record, int fd);

/* The descriptor of a mapping of this library's, found again if need be; -1: none. */
int shm_own_fd(const dvsm_mapping *mapping);

/* Makes the file at least `length` bytes long, never shorter; *was_short: whether it was shorter,
 * or could not be looked at. Returns 0 or an errno value. */
int shm_lengthen(const dvsm_mapping *mapping, size_t length, bool *was_short);

/* EFBIG: the process may not write a file of that length (and gets SIGXFSZ if it tries); ENOMEM: no
 * file can have it. */
int shm_check_length(size_t length);

/* ---- commit.c: the same for all backends */

int shm_commit(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes);
int shm_release(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes);
int shm_unmap(const dvsm_backend *self, dvsm_mapping *mapping, int destroy);

/* ---- available.c */

/* Resets the record for a new mapping: nothing was seen yet. */
void shm_start_watching(struct shm_record *record);

/* Whether `bytes` more, which end at offset `end` of the mapping, may be committed: false where the
 * kernel would have to kill a process for them. */
bool shm_is_available(struct shm_record *record, size_t end, size_t bytes);

/* The same for a large request, before anything is done for it. */
bool shm_has_available(size_t bytes);

/* Bytes that can be had now, as far as the system tells; SIZE_MAX: it does not tell. */
size_t shm_available(void);

#endif
