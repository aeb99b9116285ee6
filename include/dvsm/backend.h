/* dvsm/backend.h - where a heap's pages come from; write your own.
 *
 * A backend reserves one contiguous range of addresses that every process forked later shares, puts
 * memory behind parts of it, takes memory away again, and unmaps the whole. The library never
 * touches a page before commit() has succeeded for it, nor after release(); NB below. Ranges handed
 * to commit() and release() are whole pages of the system's size, single ones too, and lie inside
 * the mapping.
 *
 * NB: this holds as long as the program overwrites nothing of what the library keeps beside blocks
 * and in freed ones. It holds further for sizes and links of free memory in dvsm_check(), and for
 * an overwritten size of a block, which is followed only into committed memory. Except that
 * dvsm_free(), for the default heap, looks up to 32 KiB behind a block where its size says so, and
 * at the first two words of a block that a wrong pointer says begins just behind a segment, or in
 * free memory, some pages of which may have been released by a trim.
 *
 * It does not hold elsewhere: calls that allocate, resize, trim, or join a freed block with what is
 * free beside it, or said to be, follow such sizes and links, and calls that look through a whole
 * arena the records at the ends of its segments, to anywhere between the lowest and the highest of
 * these. Before the damage is found, or where it is not, such a call may read a page there that is
 * not committed, and through an overwritten child link in a tree of free memory write to it. With
 * the backends below that is a page of zeros, taken from the system unasked, and SIGBUS where the
 * system has none; with one that protects such pages from access it is SIGSEGV.
 *
 * Each function returns 0 or an errno value (it need not set errno), may be called by any process
 * and thread of the heap at the same time for different ranges, must not call the library's
 * allocating functions, must be no cancellation point, and must be safe in a child between fork and
 * exec. `self` is the backend as registered in dvsm_options.
 */
#ifndef DVSM_BACKEND_H
#define DVSM_BACKEND_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One heap's mapping as one process sees it; kept in that process, never in the region. A forked
 * child has a copy. */
typedef struct dvsm_mapping {
    void *base;       /* start of the range, aligned to 64 KiB; set by reserve() */
    size_t bytes;     /* its length, a multiple of 64 KiB: what is wanted, set by the library */
    int fd;           /* of the memory, or -1; set by reserve(). 3 or above: the program's stdio may
                       * have been closed. The program may close it, or reuse the number */
    const char *name; /* dvsm_options.name, or NULL; valid during reserve() and unmap() */
    unsigned mode;    /* permission bits of a name */
    unsigned flags;   /* dvsm_options.flags */
    void *context;    /* the backend's own */
} dvsm_mapping;

typedef struct dvsm_backend {
    size_t size;      /* sizeof(dvsm_backend), for ABI growth */
    const char *name; /* as DVSM_BACKEND and messages show it */

    /* Maps mapping->bytes of shared, zero-filled, readable and writable address space. ENOMEM,
     * EFBIG and EINVAL mean: too large, and the library tries again with half, down to a few MiB.
     * On failure nothing is left behind. */
    int (*reserve)(const struct dvsm_backend *self, dvsm_mapping *mapping);

    /* Puts memory behind a range that has none, so that touching it cannot fail in any process: all
     * of it, or nothing and an error (ENOMEM, ENOSPC). A range may be partly committed already when
     * a process died in between. A file need be no longer than what is committed: commit() may be
     * what makes it longer. It may be called by any process at the same time, so it must never make
     * it shorter. */
    int (*commit)(const struct dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                  size_t bytes);

    /* Takes the memory away, for all processes at once; the range reads as zeros when committed
     * again. Parts of a range may have none any more. */
    int (*release)(const struct dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                   size_t bytes);

    /* Unmaps the range in this process, closes its fd and, if `destroy`, removes the name; then
     * `base` is NULL. On error nothing was unmapped: the heap lives on, and unmap() may be called
     * again. */
    int (*unmap)(const struct dvsm_backend *self, dvsm_mapping *mapping, int destroy);
} dvsm_backend;

extern const dvsm_backend
    dvsm_backend_memfd; /* the default; sealed against shrinking; Linux 3.17 */
extern const dvsm_backend dvsm_backend_shm_open; /* POSIX; bounded by the size of /dev/shm */
extern const dvsm_backend dvsm_backend_anon; /* MAP_SHARED | MAP_ANONYMOUS; no fd, so none outside
                                                the family of processes can join */

#ifdef __cplusplus
}
#endif

#endif
