/* shm.h - the backends that come with the library, and reserving as much as the system grants.
 *
 * A backend (dvsm/backend.h) is four calls: reserve, commit, release, unmap. Those of the library
 * differ only in what they reserve:
 *
 *     memfd     a file without a name, sealed: nobody who gets its fd can make it shorter
 *     shm_open  a file in /dev/shm; a nameless heap's never has a name, a named one's goes at
 *               destroy
 *     anon      MAP_SHARED | MAP_ANONYMOUS: no file descriptor, so none but descendants have it
 *
 * All map MAP_SHARED | MAP_NORESERVE at a base aligned to 64 KiB. The file ends where the highest
 * page that was ever committed does: what was never used is not there to be dumped, locked or
 * copied. (Memory without a file has no end: what was never committed is kept out of core files,
 * but mlockall() takes it all.)
 *
 * Committing makes the file long enough, then puts pages there by one system call that reports what
 * a store would have died of; releasing punches a hole. Only making a file longer needs its
 * descriptor. A program that closes fds it does not know, or has other files under their numbers,
 * does no harm: the fd is first seen to be still the heap's file, and where it is not, another is
 * looked for: through the mapping (/proc/self/map_files, which needs CAP_CHECKPOINT_RESTORE or
 * CAP_SYS_ADMIN), among this process's descriptors, among its parent's. Where there is none the
 * heap has no more than it had.
 */
#ifndef DVSM_SHM_SHM_H
#define DVSM_SHM_SHM_H

#include <stdbool.h>
#include <stddef.h>

#include "dvsm/backend.h"

/* As in DVSM_BACKEND; NULL: the library has none of that name. */
const dvsm_backend *shm_backend_named(const char *name);

/* Reserves mapping->bytes or, where that is too large for the system, the half of it, and so on
 * down to `least`; both are multiples of 64 KiB. 0, or the errno value of the last attempt, with
 * mapping->bytes as it was. */
int shm_reserve_fitting(const dvsm_backend *backend, dvsm_mapping *mapping, size_t least);

/* Whether it is worth while to make ready for committing so many bytes more: false where the
 * machine or the cgroup does not have them. commit() looks again. */
bool shm_may_commit(const dvsm_backend *backend, size_t bytes);

/* Opens a file to work with for a moment, closed on exec, under a number that is not one of
 * stdio's: the program may have been started without them. -1 and errno. */
int shm_open_above_stdio(const char *path, int flags);

#endif
