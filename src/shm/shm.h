/* shm.h - the backends that come with the library, and reserving as much as the system grants.
 *
 * A backend (dvsm/backend.h) is four calls: reserve, commit, release, unmap; and a fifth, publish,
 * where a name is given last. Those of the library
 * differ only in what they reserve:
 *
 *     memfd     a file without a name, sealed so that nobody who gets its fd can make it shorter
 *     shm_open  a file in /dev/shm; a nameless heap's file never has a name, a named heap's name
 *               goes at destroy
 *     anon      MAP_SHARED | MAP_ANONYMOUS: no file descriptor, so only descendants can have it
 *
 * All map MAP_SHARED | MAP_NORESERVE at a base aligned to 64 KiB. The file ends with the highest
 * page that was ever committed, so unused address space cannot be dumped, locked or copied. (Memory
 * without a file has no such end: what was never committed is kept out of core files, but
 * mlockall() locks all of it.)
 *
 * Committing makes the file long enough, then puts pages there by one system call, which reports
 * the error that would have killed a store. Releasing punches a hole. Only making a file longer
 * needs its descriptor. A program that closes fds it does not know, or has other files under their
 * numbers, does no harm: the library first checks that the fd is still the heap's file. If it is
 * not, the library looks for another: through the mapping (/proc/self/map_files, which needs
 * CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN), among this process's descriptors, among its parent's.
 * If there is none, the file cannot grow, and the heap keeps what it has.
 */
#ifndef DVSM_SHM_SHM_H
#define DVSM_SHM_SHM_H

#include <stdbool.h>
#include <stddef.h>

#include "dvsm/backend.h"

/* The backend of a name as in DVSM_BACKEND; NULL: the library has none of that name. */
const dvsm_backend *shm_backend_named(const char *name);

/* Reserves mapping->bytes; where that is too large for the system, half of it, and so on down to
 * `least`. Both are multiples of 64 KiB. Returns 0, or the errno value of the last attempt, with
 * mapping->bytes as it was. */
int shm_reserve_fitting(const dvsm_backend *backend, dvsm_mapping *mapping, size_t least);

/* Gives the finished heap its name; a backend that gives names otherwise, or knows none, does
 * nothing. Returns 0 or an errno value. */
int shm_publish(const dvsm_backend *backend, const dvsm_mapping *mapping);

/* Whether `name` may be the name of shared memory. 0, EINVAL or ENAMETOOLONG. */
int shm_check_name(const char *name);

/* Opens the shared memory of that name, closed on exec; what the name is a link to is not opened
 * (ELOOP). On failure: -1 and errno. */
int shm_open_name(const char *name, bool read_only);

/* Whether the mapping's name leads to its file: somebody may have removed it, and given it to
 * another file. */
bool shm_has_its_name(const dvsm_mapping *mapping);

/* Maps `fd`, a heap's file, to mapping->base: there or nowhere (EADDRNOTAVAIL). On success the
 * mapping owns the fd; on failure the caller still does. With `read_only`, it can be read, and
 * shows what others write; made writable, it takes what is written as a copy of this process's own.
 */
int shm_attach(dvsm_mapping *mapping, int fd, bool read_only);

/* The descriptor of the mapping's file, found again if the program closed it; -1: none. That of a
 * user's backend is as it was. */
int shm_fd(const dvsm_mapping *mapping);

/* Whether `fd` is the file of a mapping; false for one of a user's backend, too. */
bool shm_maps_file(const dvsm_mapping *mapping, int fd);

/* The same for a mapping of this library's. */
bool shm_is_file_of(const dvsm_mapping *mapping, int fd);

/* Calls `visit` for each entry of a directory until that returns false. Needs no memory. */
typedef bool (*shm_visit)(void *context, int directory, const char *name);
void shm_each_entry(const char *path, shm_visit visit, void *context);

/* Where named memory is. */
#define SHM_DIRECTORY "/dev/shm"

/* Whether to prepare for committing `bytes` more: false where the machine or the cgroup does not
 * have them. commit() looks again. */
bool shm_may_commit(const dvsm_backend *backend, size_t bytes);

/* Opens a file for a short use, closed on exec, under a number that is not one of stdio's: the
 * program may have been started without these. On failure: -1 and errno. */
int shm_open_above_stdio(const char *path, int flags);

#endif
