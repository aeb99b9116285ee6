/* dvsm/backend.h - where a heap's pages come from; write your own.
 *
 * A backend reserves one contiguous range of addresses that every process forked later shares, puts
 * memory behind parts of it, takes memory away again, and unmaps the whole. The library never
 * touches a page before commit() has succeeded for it, nor after release(), with the exception in
 * the NB below. Ranges handed to commit() and release() are whole pages of the system's size,
 * single ones too, and lie inside the mapping.
 *
 * NB: this holds as long as the program does not overwrite what the library keeps beside blocks and
 * in freed blocks. After such an overwrite it still holds in dvsm_check(), for sizes and links of
 * free memory; and it holds for an overwritten size of a block, which is followed only into
 * committed memory. There is this exception: where a wrong pointer says that a block begins in free
 * memory, dvsm_free() looks for the block's header there, and a trim may have released that page.
 * With 32 bits it also looks up to 32 KiB behind a block where the block's size says so.
 *
 * It does not hold elsewhere. Calls that allocate, resize, trim, or join a freed block with what is
 * (or is said to be) free beside it, follow such sizes and links. Calls that look through a whole
 * arena follow the records at the ends of its segments. Both may be led to anywhere between the
 * arena's lowest and highest segment. Before the damage is found, or where it is not found, such a
 * call may read a page there that is not committed; through an overwritten child link in a tree of
 * free memory it may also write to that page. With the backends below, the access takes a page of
 * zeros from the system unasked, or gives SIGBUS where the system has none. With a backend that
 * protects such pages from access, it gives SIGSEGV.
 *
 * Each function returns 0 or an errno value; it need not set errno. It may be called by any process
 * and thread of the heap at the same time for different ranges. It must not call the library's
 * allocating functions, must not be a cancellation point, and must be safe in a child between fork
 * and exec. `self` is the backend as registered in dvsm_options.
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
    size_t size;      /* sizeof(dvsm_mapping), as the library knows it */
    void *base;       /* start of the range, aligned to 64 KiB; set by reserve(). Before: where it
                       * must be, or NULL */
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

    /* Maps mapping->bytes of shared, zero-filled, readable and writable address space; where
     * mapping->base is not NULL, there or nowhere (EADDRNOTAVAIL). ENOMEM, EFBIG and EINVAL mean:
     * too large, and the library tries again with half, down to a few MiB. On failure nothing is
     * left behind. */
    int (*reserve)(const struct dvsm_backend *self, dvsm_mapping *mapping);

    /* Puts memory behind a range that has none, so that touching the range cannot fail in any
     * process: all of it, or nothing and an error (ENOMEM, ENOSPC). A range may be partly committed
     * already if a process died in between. A file need be no longer than what is committed:
     * commit() may make it longer. Any process may call commit() at the same time, so it must never
     * make the file shorter. */
    int (*commit)(const struct dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                  size_t bytes);

    /* Takes the memory away, for all processes at once; the range reads as zeros when committed
     * again. Parts of a range may have no memory any more. */
    int (*release)(const struct dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                   size_t bytes);

    /* Unmaps the range in this process, closes its fd and, if `destroy`, removes the name; then
     * `base` is NULL. On error nothing was unmapped: the heap lives on, and unmap() may be called
     * again. */
    int (*unmap)(const struct dvsm_backend *self, dvsm_mapping *mapping, int destroy);

    /* Gives the memory, in which the heap is complete by now, the name mapping->name: from this
     * instant on others can find it. EEXIST: something has that name. NULL: names, if there are
     * any, are given by reserve(). A backend that calls another one's reserve() calls its
     * publish(), too. */
    int (*publish)(const struct dvsm_backend *self, const dvsm_mapping *mapping);
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
