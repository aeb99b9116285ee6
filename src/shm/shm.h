/* shm.h - the backends that come with the library, and reserving as much as the system grants.
 *
 * A backend (dvsm/backend.h) is four calls: reserve, commit, release, unmap. Those of the library
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

/* Whether to prepare for committing `bytes` more: false where the machine or the cgroup does not
 * have them. commit() looks again. */
bool shm_may_commit(const dvsm_backend *backend, size_t bytes);

/* Opens a file for a short use, closed on exec, under a number that is not one of stdio's: the
 * program may have been started without these. On failure: -1 and errno. */
int shm_open_above_stdio(const char *path, int flags);

#endif
