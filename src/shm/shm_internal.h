/* shm_internal.h - what the backends share; for this folder and its tests. */
#ifndef DVSM_SHM_SHM_INTERNAL_H
#define DVSM_SHM_SHM_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "dvsm/backend.h"

enum { SHM_ALIGN = 64 << 10 };

/* The calls that an older kernel may lack or that fail only on machines no test has. Tests replace
 * them; nothing else does. As the C library's: -1 and errno. */
struct shm_kernel {
    int (*memfd)(const char *name, unsigned flags);
    int (*advise)(void *start, size_t bytes, int advice);
    int (*allocate)(int fd, int mode, off_t offset, off_t bytes);
    int (*seal)(int fd, int seals);
};
extern struct shm_kernel shm_kernel;

/* Makes the new file `fd` mapping->bytes long and maps it; on success the fd is the mapping's, on
 * failure it is still the caller's. */
int shm_map_file(dvsm_mapping *mapping, int fd);

/* Maps shared memory without a file. */
int shm_map_anonymous(dvsm_mapping *mapping);

/* Whether mapping->fd is still the file that was mapped, not one opened since under that number. */
bool shm_owns_fd(const dvsm_mapping *mapping);

/* Whether `fd` is the file that was mapped. */
bool shm_is_file_of(const dvsm_mapping *mapping, int fd);

/* Three of the four calls, the same for all backends. */
int shm_commit(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes);
int shm_release(const dvsm_backend *self, const dvsm_mapping *mapping, void *start, size_t bytes);
int shm_unmap(const dvsm_backend *self, dvsm_mapping *mapping, int destroy);

#endif
