/* dvsm/dvsm.h - malloc and free for processes.
 *
 * A block that one process allocates is usable, by its plain address, in every process that
 * descends from the same parent, and in each of their threads; any of them may free it. Blocks live
 * in heaps: ranges of shared memory that are mapped at the same address in all of those processes.
 * The default heap exists before main(), so every fork() shares it; others are created by
 * dvsm_heap_create() and shared by the processes forked after that.
 *
 *     int *sum = dvsm_calloc(1, sizeof *sum);
 *     if (fork() == 0) { *sum = work(); _exit(0); }
 *     wait(NULL);
 *     printf("%d\n", *sum);
 *     dvsm_free(sum);
 *
 * What holds for every function here unless its comment says otherwise:
 *
 *   Names     A function named after one of POSIX, C23, glibc or dlmalloc 2.8.6 behaves as that one
 *             does, errno included.
 *   Sizes     are in bytes. Any size is accepted; a size that overflows, or is more than is
 *             available, gives ENOMEM. A request for 0 bytes gives a block of its own, which must
 *             be freed.
 *   Failure   to allocate returns NULL with errno ENOMEM and changes nothing.
 *   Alignment of every block: 16 bytes on a 64-bit machine, 8 on a 32-bit one.
 *   Contents  of a new block are undefined, except that the calloc functions give zeros.
 *   Threads   Every function may be called by any number of threads at the same time.
 *   Processes Every function may be called by any number of processes of the heap at the same time.
 *             This includes a child between fork() and exec(), even if other threads of its parent
 *             were inside a call when it was forked. A process may die inside any call: the next
 *             caller that needs what it held repairs that.
 *   Cancelling   No function is a cancellation point, and a pending cancellation ends no function.
 *             The exceptions are dvsm_heap_destroy(), at its end, and what the program's own
 *             functions do (a backend's, a fault handler, dvsm_walk()'s visitor).
 *   Signals   Every function may be called from a signal handler, whatever the signal interrupted,
 *             and returns: it never waits for what the interrupted call holds, nor for what is held
 *             by a call that waits for the interrupted one. Allocating then takes another arena, or
 *             fails with ENOMEM where the interrupted call was just taking or giving memory. A
 *             block is always freed; where its arena is held, the arena's next holder completes the
 *             free. A resize copies. Functions that trim, repair, set parameters or look inside
 *             leave out what the interrupted call holds, and dvsm_check() counts that as one
 *             violation. A handler may end the process. If a handler that interrupts a call forks a
 *             child with fork(), the child may exec or exit; if it uses a heap, it is stopped with
 *             a message.
 *   Stopping  A thread stopped at any instruction (by a debugger, by SIGSTOP) keeps nobody from
 *             allocating and freeing for longer than a moment, unless it was just taking memory
 *             from the heap's granules or giving some back. Functions that look at the whole heap
 *             wait for it.
 *   Blocks    The functions that take a block accept one of any heap mapped in the calling process.
 *   Faults    A pointer that no heap handed out, a block freed twice and damaged metadata are
 *             faults: see dvsm_set_fault_handler().
 *   Heaps     A dvsm_heap pointer is valid in the process that got it and in those it forks later;
 *             NULL, or a pointer to a destroyed heap, gives EINVAL.
 *
 * A struct that may grow begins with its size. What the program hands over says by it which version
 * the program was compiled with; what the library hands over, how much of it there is.
 *
 * C11 and C++11. Declares nothing outside the prefixes dvsm_ and DVSM_.
 */
#ifndef DVSM_DVSM_H
#define DVSM_DVSM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ----------------------------------------------------------------------------- */

/* Of this header. Within a major version programs and libraries of different versions go together.
 * DVSM_VERSION grows with each version. */
#define DVSM_VERSION_MAJOR 0
#define DVSM_VERSION_MINOR 1
#define DVSM_VERSION_PATCH 0
#define DVSM_VERSION_STRING "0.1.0"
#define DVSM_VERSION (DVSM_VERSION_MAJOR * 10000 + DVSM_VERSION_MINOR * 100 + DVSM_VERSION_PATCH)

/* DVSM_VERSION of the library that is linked or loaded. */
int dvsm_version(void);

/* ---- Allocating from the default heap ---------------------------------------------------- */

/* A block of at least `size` bytes. NULL: ENOMEM. */
void *dvsm_malloc(size_t size);

/* A block for `count` elements of `size` bytes, all bytes zero. NULL: ENOMEM, also where the
 * product overflows. */
void *dvsm_calloc(size_t count, size_t size);

/* Resizes a block: the result has `size` bytes, and the old contents up to the smaller of the old
 * size and `size`. It is the same block; or it is a new one of the same heap, aligned as
 * dvsm_malloc() aligns, and the old one is freed. Small blocks may move even when they shrink.
 * dvsm_realloc(NULL, size) is dvsm_malloc(size). dvsm_realloc(block, 0) gives a block of the
 * smallest size. NULL: ENOMEM, and the old block is unchanged. A fault that is found after the
 * copy, when the old block is freed, is reported, and the call succeeds. */
void *dvsm_realloc(void *block, size_t size);

/* dvsm_realloc(block, count * size). If the product overflows: NULL with ENOMEM, and the block is
 * unchanged. */
void *dvsm_reallocarray(void *block, size_t count, size_t size);

/* Resizes without moving. Returns `block`, or NULL with ENOMEM, and the block is unchanged. NULL as
 * block: NULL, errno EINVAL. */
void *dvsm_realloc_in_place(void *block, size_t size);

/* A block whose address is a multiple of `alignment`, which must be a power of two (EINVAL). As in
 * C23, `size` need not be a multiple of it. NULL: EINVAL or ENOMEM. */
void *dvsm_aligned_alloc(size_t alignment, size_t size);

/* Stores an aligned block in *out and returns 0. `alignment` must be a power of two and a multiple
 * of sizeof(void *). Otherwise returns EINVAL or ENOMEM and leaves *out as it is. Never touches
 * errno. */
int dvsm_posix_memalign(void **out, size_t alignment, size_t size);

/* As glibc's: `alignment` is rounded up to a power of two; EINVAL where that is not possible. */
void *dvsm_memalign(size_t alignment, size_t size);

/* Aligned to a page. dvsm_pvalloc() rounds the size up to whole pages too (ENOMEM if that
 * overflows); 0 is one page. */
void *dvsm_valloc(size_t size);
void *dvsm_pvalloc(size_t size);

/* A copy of the string, or of its first `size` bytes if it is longer, with a zero byte at its end.
 * NULL: ENOMEM. */
char *dvsm_strdup(const char *string);
char *dvsm_strndup(const char *string, size_t size);

/* `count` blocks of `size` bytes, zeroed, cut side by side from one piece of memory; each may be
 * freed on its own, or all by dvsm_bulk_free(). Their addresses are stored in `blocks`; if that is
 * NULL, in an array that is allocated with them and must be freed, too. Returns that array. `count`
 * 0: `blocks` or, if NULL, a block of the smallest size. NULL: ENOMEM, and nothing was
 * allocated. */
void **dvsm_independent_calloc(size_t count, size_t size, void **blocks);

/* The same for blocks of different sizes, sizes[0] to sizes[count - 1], not zeroed. */
void **dvsm_independent_comalloc(size_t count, const size_t *sizes, void **blocks);

/* ---- Freeing, for blocks of any heap ----------------------------------------------------- */

/* Frees a block. NULL: does nothing. errno is preserved. */
void dvsm_free(void *block);

/* As C23's: frees a block that was asked for with that size, or that alignment and size. A size
 * that the block cannot have, because it is more than what is usable, is a fault, and nothing is
 * freed. The alignment is not looked at. In a hardened heap (DVSM_HARDEN), any other size is a
 * fault, and any other alignment. NULL: does nothing. errno is preserved. */
void dvsm_free_sized(void *block, size_t size);
void dvsm_free_aligned_sized(void *block, size_t alignment, size_t size);

/* Frees blocks[0] to blocks[count - 1] and sets the entries of those freed to NULL; entries that
 * are NULL are skipped. This is faster than freeing one by one, most of all where the array is
 * sorted by address. Returns how many entries could not be freed: pointers outside every heap, and
 * faults. A pointer outside every heap is no fault here and stays in the array. After a fault errno
 * is EINVAL; otherwise it is preserved. */
size_t dvsm_bulk_free(void **blocks, size_t count);

/* How many bytes of the block may be used: at least what was asked for. 0 for NULL. A fault: 0 with
 * errno EINVAL. */
size_t dvsm_malloc_usable_size(void *block);

/* ---- Tuning and looking at the default heap ---------------------------------------------- */

/* Gives memory back to the system, for all processes: what is cached, unused segments, and the
 * whole pages inside free chunks. `pad` bytes stay ready for later use. Pages that were given back
 * come back one by one when they are used again. Returns 1 if any memory was given back, else 0.
 * Takes time in proportion to the number of free chunks of a page and more, and to the memory given
 * back (some 0.1 ms for each MiB). Others wait for an arena while it is being trimmed. */
int dvsm_malloc_trim(size_t pad);

/* Sets a parameter of every arena of the default heap, or of the heap. Returns 1, or 0 if
 * `parameter` is unknown or `value` refused. A threshold of -1 means: never. The granularity must
 * be a power of two of at least a page; less than 64 KiB counts as 64 KiB. Unless DVSM_M_RETAIN is
 * set, the heap retains, of its unused memory, the largest of 16 MiB, a quarter of the limit where
 * there is one, and half of what is in use; -1: all of it. */
#define DVSM_M_TRIM_THRESHOLD (-1) /* bytes unused at the top that lead to a trim; 2 MiB */
#define DVSM_M_GRANULARITY (-2)    /* arenas grow by multiples of it: see above */
#define DVSM_M_MMAP_THRESHOLD (-3) /* a request from this size on may be a large block; 256 KiB */
#define DVSM_M_RETAIN (-4) /* bytes of unused memory that are not given back to the system */
int dvsm_mallopt(int parameter, int value);

/* The fields of glibc's mallinfo2 with dlmalloc's meanings, summed over the heap's arenas. */
struct dvsm_mallinfo {
    size_t arena;    /* bytes in segments: all that is not large blocks */
    size_t ordblks;  /* free chunks */
    size_t smblks;   /* freed blocks that are kept ready */
    size_t hblks;    /* large blocks */
    size_t hblkhd;   /* bytes in large blocks */
    size_t usmblks;  /* the most bytes ever had from the system */
    size_t fsmblks;  /* bytes in freed blocks that are kept ready */
    size_t uordblks; /* bytes in use: in blocks, large ones too, and the arenas' overhead */
    size_t fordblks; /* bytes in free chunks */
    size_t keepcost; /* bytes at the top, which a trim could give back */
};

/* Takes some microseconds, however many blocks there are: see dvsm_stats(). */
#if defined __cplusplus && defined __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" /* the structure's name, by tradition */
#endif
struct dvsm_mallinfo dvsm_mallinfo(void);
#if defined __cplusplus && defined __GNUC__
#pragma GCC diagnostic pop
#endif

/* Prints on stderr the most bytes ever had from the system, the bytes had now, and the bytes in
 * use. */
void dvsm_malloc_stats(void);

/* Bytes committed, now and at most so far: those that have memory behind them, in use or retained,
 * the heap's own metadata among them. */
size_t dvsm_malloc_footprint(void);
size_t dvsm_malloc_max_footprint(void);

/* How many bytes may be committed; SIZE_MAX: no limit but the address space reserved. Setting it
 * rounds up to 64 KiB and returns the limit that now holds. A limit below the footprint takes no
 * memory away: growth fails until enough was freed. */
size_t dvsm_malloc_footprint_limit(void);
size_t dvsm_malloc_set_footprint_limit(size_t bytes);

/* Calls `handler` for each region of memory of the default heap: blocks in use, of which
 * `used_bytes` are usable, and free chunks, with `used_bytes` 0. Of a free chunk, [start, end) is
 * what the allocator itself does not use. `handler` must not call any function of this library on
 * the same heap, nor touch a free chunk: pages inside may have no memory. Costs what dvsm_walk()
 * does. */
void dvsm_malloc_inspect_all(void (*handler)(void *start, void *end, size_t used_bytes,
                                             void *context),
                             void *context);

/* ---- Heaps ------------------------------------------------------------------------------- */

typedef struct dvsm_heap dvsm_heap;

#define DVSM_HUGE_PAGES 1u /* ask for huge pages where the system has them */
#define DVSM_EXCLUSIVE 2u  /* EEXIST if the name exists */

/* Large blocks (see DVSM_M_MMAP_THRESHOLD) get their pages when these are first touched: for tables
 * of which little will ever be used. Such a block counts with all its bytes against the limit and
 * in the footprint, touched or not. NB: where the system then has no memory left, touching a page
 * gives SIGBUS, not an error of malloc. When the block is freed, its memory is given back at
 * once. */
#define DVSM_LAZY 4u

/* A hardened heap looks for wrong uses, in all its processes. It takes several times as long for
 * that (docs/performance.md).
 *
 *     writes beyond the end of a block     seen when it is freed or resized
 *     writes to a freed block              seen when it is handed out again, or its memory is used
 *                                          otherwise; that is put off for a while
 *     a size or alignment that is not the one asked for, in dvsm_free_sized() and
 *                                          dvsm_free_aligned_sized()
 *     an overwritten header behind a block seen when the block is freed
 *
 * dvsm_check() sees the first two, too, and dvsm_walk() the first. So does the exit of the process
 * that created the heap, and the heap's destruction; they call the fault handler. dvsm_malloc()
 * returns zeros, and dvsm_malloc_usable_size() the very size that was asked for. */
#define DVSM_HARDEN 8u

/* For dvsm_heap_attach(): the process may look at the heap, and not touch it. */
#define DVSM_READ_ONLY 16u

/* Zero-initialised means: all defaults. */
typedef struct dvsm_options {
    size_t size; /* sizeof(dvsm_options), or 0 */
    const dvsm_backend
        *backend;       /* one of dvsm/backend.h or your own, which must stay valid; NULL: memfd, or
                           anon where the system refuses memory files */
    const char *name;   /* for shm_open: "/name", the heap stays until unlinked; else a label
                                    for messages; up to 255 bytes */
    size_t reserve;     /* bytes of address space; 0: the larger of 64 GiB and twice the RAM (1 GiB
                           on 32 bit), but at most half of what RLIMIT_AS leaves; halved until
                           it fits */
    size_t limit;       /* bytes that may be committed; 0: the reserve */
    unsigned arenas;    /* how many arenas serve it; 0: by CPUs */
    size_t cache_bytes; /* a CPU's cache; 0: default; SIZE_MAX: none */
    unsigned mode;      /* permission bits of a named heap; 0: 0600 */
    unsigned flags;     /* DVSM_HUGE_PAGES, DVSM_EXCLUSIVE, DVSM_LAZY, DVSM_HARDEN */
    size_t retain;      /* bytes of unused memory that are not given back; 0: as DVSM_M_RETAIN says;
                           SIZE_MAX: all */
    void *address;      /* where the range begins, a multiple of 64 KiB; needs `size` and a reserve.
                           NULL: the library chooses */
} dvsm_options;

/* Sets the default heap's options. Call it before anything is allocated from that heap, before the
 * first fork, and in one thread only. Fields that are zero are taken from the environment:
 *
 *     DVSM_HEAP      /name: the default heap is the one of that name, made by whoever comes first;
 *                    fd:N: the one whose file descriptor N is (dvsm_heap_inherit())
 *     DVSM_BACKEND   memfd, anon or shm_open
 *     DVSM_RESERVE, DVSM_LIMIT   bytes, with K, M, G or T for 2^10, 2^20, 2^30, 2^40
 *     DVSM_ARENAS    a number
 *     DVSM_CACHE     bytes, as above; 0: no cache
 *     DVSM_LAZY, DVSM_HARDEN   1: as the flag of that name
 *     DVSM_STATS     1: dvsm_malloc_stats() at exit of the process that created the heap
 *
 * The environment is read once, before main(). A value that does not parse is named in a line on
 * stderr, and the default is used. Where no backend was chosen and no memfd is available, the
 * default heap is anonymous memory. DVSM_RESERVE is halved until it fits, as the default is; a
 * reserve in `options` is not. Returns 0, or -1 with errno and the default heap unchanged:
 *
 *     EBUSY    something was allocated from it, or DVSM_HEAP names it
 *     EINVAL   and the other errors of dvsm_heap_create() */
int dvsm_init(const dvsm_options *options);

/* Creates a heap for this process and those it forks later. If `options` is NULL: all defaults.
 * With the shm_open backend and a name, any process can join it (dvsm_heap_attach()): the heap gets
 * its name once it is complete. If a heap has that name already, it is joined, and the other
 * options do not count; with DVSM_EXCLUSIVE that is an error. Returns NULL with errno:
 *
 *     EINVAL   an unknown flag, a `size` that no version of the structure has, a name that is too
 *              long or that the backend refuses, an address without a reserve
 *     EADDRNOTAVAIL   the address that the options name is not free
 *     ENOMEM   no address space, or no memory for the heap's metadata
 *     EMFILE, ENFILE   no file descriptor
 *     EEXIST, EACCES, ENOSPC, ...   an error of the backend's system calls
 *     ENOSPC   too many heaps: a process can have 1024
 *     and the errors of dvsm_heap_attach() */
dvsm_heap *dvsm_heap_create(const dvsm_options *options);

/* Joins a heap that another program made, an unrelated one, too: the heap of that name, or the one
 * whose file `fd` is, which dvsm_heap_fd() told and exec or a socket handed over; `fd` stays the
 * caller's. The heap is mapped at the same addresses as everywhere, or not at all. If the process
 * has it already, that heap is returned, and counts as joined once more; if it was first joined by
 * a descriptor, its name is not known here, and is not removed by dvsm_heap_destroy(). Whoever may
 * use a heap can change all of it: join only those of users that you trust.
 *
 * `flags`: 0 or DVSM_READ_ONLY. Then the mapping can only be read, and the file need only be open
 * for reading: a store gives SIGSEGV. Blocks show what others write. dvsm_root_get(), dvsm_stats(),
 * dvsm_walk(), dvsm_check(), dvsm_malloc_usable_size() and the functions that tell sizes and limits
 * work; they take no locks, so they tell what was there just then, and a change under way may count
 * as a violation. They need memory for the pages that they look at, and one thread at a time calls
 * them. All other functions fail with EROFS; dvsm_free() does nothing but set it.
 *
 * Returns NULL with errno, and dvsm_heap_message() says more:
 *
 *     ENOENT, ELOOP   there is no such name; it is a link
 *     EACCES          the file's mode does not let this user read and write it; that holds for the
 *                     superuser, too
 *     EADDRNOTAVAIL   something lies at the heap's addresses in this process
 *     EAGAIN          the heap is being made. Only where a file cannot get its name later: see
 *                     docs/names.md
 *     EBADMSG         it is no heap, or its header is damaged
 *     ENODATA         its file is shorter than what it holds
 *     EPROTONOSUPPORT a library of another version made it
 *     ENOEXEC         a program of another word size, byte order or C library made it
 *     EMEDIUMTYPE     it was made with pages of another size
 *     EROFS           this process has it already, with DVSM_READ_ONLY
 *     EXDEV           its processes are in another PID namespace, whose thread ids mean nothing
 *                     here
 *     EINVAL, ENAMETOOLONG   a flag; a name without / at its beginning, or one too long
 *     EBADF, EMFILE, ENFILE, ENOMEM, ENOSPC   as elsewhere */
dvsm_heap *dvsm_heap_attach(const char *name, unsigned flags);
dvsm_heap *dvsm_heap_attach_fd(int fd, unsigned flags);

/* Why this thread's last call of dvsm_heap_create(), _attach() or _attach_fd() failed, in words: a
 * line without an end, valid until the thread's next such call; "" if it did not fail. */
const char *dvsm_heap_message(void);

/* The descriptor of the heap's file, to hand over to another process. It is the library's own:
 * duplicate it, do not close it. -1 with errno: EINVAL; ENOTSUP: the heap has no file. */
int dvsm_heap_fd(const dvsm_heap *heap);

/* Lets every program that this process and its children execute from now on find the heap as its
 * default heap: the heap's descriptor stays open on exec, and the environment's DVSM_HEAP is set.
 * It names the heap, if it has a name, and else the descriptor: whoever starts programs must not
 * close that then. As setenv(), not safe while another thread reads the environment. Returns 0, or
 * -1 with errno: EINVAL; ENOTSUP: the heap has no file; ENOMEM. */
int dvsm_heap_inherit(dvsm_heap *heap);

/* Unmaps the heap in the calling process, which may join it again, and else as dvsm_heap_destroy();
 * but its name stays. If the process joined the heap several times, or made and joined it, only the
 * last of as many calls does so. */
int dvsm_heap_detach(dvsm_heap *heap);

/* Unmaps the heap in the calling process and removes its name, if it has one. None of its blocks
 * may be used in this process any more. Other processes keep the heap; the memory goes with the
 * last of them. No other thread may be using the heap. A thread whose cancellation is pending ends
 * here, once the heap is gone. Returns 0, or -1 with errno and the heap unchanged:
 *
 *     EINVAL   no heap, or the default heap
 *     EACCES, ...   an error of the backend's system calls, for a name that may not be removed */
int dvsm_heap_destroy(dvsm_heap *heap);

/* Removes the name of a heap that was created with the shm_open backend; processes that have the
 * heap keep it. Returns 0, or -1 with errno: ENOENT, EACCES, EINVAL, ENAMETOOLONG. */
int dvsm_heap_unlink(const char *name);

/* The default heap; NULL with errno ENOMEM where it could not be created. */
dvsm_heap *dvsm_heap_default(void);

/* The heap that the address lies in, or NULL if it lies in no heap mapped here; errno is not
 * touched. */
dvsm_heap *dvsm_heap_of(const void *block);

/* The functions of the first section for a given heap. Each does for `heap` what its counterpart
 * without _heap does for the default heap. Errors are the same; in addition, EINVAL if `heap` is
 * not a heap.
 *
 * dvsm_heap_realloc() and dvsm_heap_reallocarray(): the result is in `heap`; a block of another
 * heap is moved there. */
void *dvsm_heap_malloc(dvsm_heap *heap, size_t size);
void *dvsm_heap_calloc(dvsm_heap *heap, size_t count, size_t size);
void *dvsm_heap_realloc(dvsm_heap *heap, void *block, size_t size);
void *dvsm_heap_reallocarray(dvsm_heap *heap, void *block, size_t count, size_t size);
void *dvsm_heap_aligned_alloc(dvsm_heap *heap, size_t alignment, size_t size);
void *dvsm_heap_memalign(dvsm_heap *heap, size_t alignment, size_t size);
int dvsm_heap_posix_memalign(dvsm_heap *heap, void **out, size_t alignment, size_t size);
char *dvsm_heap_strdup(dvsm_heap *heap, const char *string);
char *dvsm_heap_strndup(dvsm_heap *heap, const char *string, size_t size);
void **dvsm_heap_independent_calloc(dvsm_heap *heap, size_t count, size_t size, void **blocks);
void **dvsm_heap_independent_comalloc(dvsm_heap *heap, size_t count, const size_t *sizes,
                                      void **blocks);

/* dvsm_malloc_trim(), dvsm_mallinfo() and the footprint functions for a given heap. If `heap` is
 * not a heap: 0 or all zeros, and errno EINVAL. */
int dvsm_heap_trim(dvsm_heap *heap, size_t pad);
struct dvsm_mallinfo dvsm_heap_mallinfo(dvsm_heap *heap);
size_t dvsm_heap_footprint(dvsm_heap *heap);
size_t dvsm_heap_max_footprint(dvsm_heap *heap);
size_t dvsm_heap_limit(dvsm_heap *heap);
size_t dvsm_heap_set_limit(dvsm_heap *heap, size_t bytes);

/* ---- Roots ------------------------------------------------------------------------------- */

/* A root is a name by which the processes of a heap find their data: an address, most often of a
 * block, under a name of 1 to 47 bytes. A heap can have 1,024. A process that is killed in one of
 * these functions leaves the root as it was or as it was to be. */
#define DVSM_ROOT_NAME_MOST 47

/* Sets the root of that name; NULL as address removes it. Returns 0, or -1 with errno:
 *
 *     EINVAL   no heap, or no name that a root can have
 *     ENOSPC   there are 1,024 roots
 *     ENOMEM   no memory for the table
 *     EDEADLK  the call is made by a signal handler that interrupted a call of this library */
int dvsm_root_set(dvsm_heap *heap, const char *name, void *address);

/* The same, and stores in *former, which may be NULL, what the root was until then; NULL: there was
 * none. Of several that swap at once, each gets what the one before it set. */
int dvsm_root_swap(dvsm_heap *heap, const char *name, void *address, void **former);

/* The root of that name. NULL: errno ENOENT: there is none; EINVAL. Takes no lock: it never waits,
 * and may be called from a signal handler whatever that interrupted. Takes time in proportion to
 * the number of roots, about 2 ns each. */
void *dvsm_root_get(dvsm_heap *heap, const char *name);

/* The root of that name; if there is none, calls init(heap, context) and sets what it returns. Of
 * several that call this at once, in whatever processes, one calls its `init`, and the others wait
 * and get what that one made. If it dies in `init`, another one calls its own; what the first had
 * allocated is lost then. If the root is set by dvsm_root_set() meanwhile, that one stands. `init`
 * may call any function of this library, this one for other names, too; it must return. Returns
 * NULL with errno: what `init` left there if it returned NULL; EDEADLK if `init` asks for the very
 * root that it makes, or has waited for a second for a root of another heap; in a child that `init`
 * forked; and in a signal handler that interrupted a call of this library; and the errors of
 * dvsm_root_set(). */
void *dvsm_root_get_or_init(dvsm_heap *heap, const char *name,
                            void *(*init)(dvsm_heap *heap, void *context), void *context);

/* ---- Looking inside ---------------------------------------------------------------------- */

/* Walks everything and verifies every invariant of every module. Returns how many do not hold; 0:
 * the heap is sound. Unless `report` is NULL, prints a line there for each of the first hundred. An
 * arena or size class that was set aside counts as one violation. Other processes and threads may
 * go on working. -1 with errno EINVAL: no heap. Takes time in proportion to the number of chunks.
 * All depots of the cache are locked meanwhile, each arena while it is looked through, and at the
 * end the granule map. Others can still allocate what their CPU's lane has, free what it takes, and
 * use arenas that are not being looked through. A thread that finds a depot or an arena taken goes
 * on without it. */
int dvsm_check(dvsm_heap *heap, FILE *report);

/* Repairs at once what dead processes left locked. Without this call, the next thread to need such
 * a lock repairs it. Waits for locks that living processes hold. Needs no memory. Returns how many
 * locks it repaired, or -1 with errno EINVAL: no heap. What cannot be repaired is a fault: see
 * dvsm_set_fault_handler(). */
int dvsm_reap(dvsm_heap *heap);

/* Counts of chunks include their headers. Other processes may work meanwhile: each arena and each
 * part of the cache is counted at one instant, but the whole heap is not. */
typedef struct dvsm_stats_t {
    size_t size;                 /* sizeof(dvsm_stats_t), set by the program; any number that is no
                                  * later version's stands for the first one's */
    size_t reserved_bytes;       /* of address space */
    size_t limit_bytes;          /* that may be committed; SIZE_MAX: all */
    size_t committed_bytes;      /* the footprint: in use, free, retained and metadata */
    size_t committed_most_bytes; /* the most ever committed */
    size_t retained_bytes;       /* of committed: free granules kept ready */
    size_t metadata_bytes;       /* of committed: the heap's own tables */
    size_t used_bytes;           /* in blocks that the program holds, large ones among them */
    size_t used_blocks;          /* how many */
    size_t large_bytes;          /* of used_bytes, those in large blocks */
    size_t large_blocks;         /* how many */
    size_t free_bytes;           /* in free chunks of the arenas */
    size_t free_chunks;          /* how many */
    size_t arenas;               /* made so far */
    size_t arenas_damaged;       /* of them, set aside after a fault */
    size_t recoveries;           /* how often something that a dead process left was repaired */
    size_t cached_bytes;  /* in blocks that were freed and are kept ready, each as large as what
                                    it will be handed out for; a block may be larger by up to an
                                    eighth, and that rest counts among used_bytes */
    size_t cached_blocks; /* how many */
} dvsm_stats_t;

/* Fills in *stats, and sets its size to what was filled in. Returns 0, or -1 with errno EINVAL.
 * Takes some microseconds, however many blocks there are, and up to half a microsecond for each CPU
 * that the machine can have; no lock is held for longer than a microsecond. */
int dvsm_stats(dvsm_heap *heap, dvsm_stats_t *stats);

/* The ranges of addresses that have memory behind them and can hold blocks, by address: to register
 * them with a network card or a GPU, say. Stores the first `count` of them and returns how many
 * there are; 0 with errno EINVAL: no heap. *generation, unless NULL, gets a number that changes
 * when the ranges do (but for one case in 2^64). Takes time in proportion to the granules of 64 KiB
 * ever used, with the granule map locked. */
struct iovec;
size_t dvsm_heap_ranges(dvsm_heap *heap, struct iovec *ranges, size_t count, uint64_t *generation);

typedef enum dvsm_chunk_state {
    DVSM_CHUNK_FREE,
    DVSM_CHUNK_USED,
    DVSM_CHUNK_LARGE,    /* in use, a run of memory of its own */
    DVSM_CHUNK_OVERHEAD, /* the allocator's own records: not to be freed */
    DVSM_CHUNK_CACHED    /* freed, and kept ready by the cache */
} dvsm_chunk_state;

typedef struct dvsm_chunk {
    size_t size;   /* sizeof(dvsm_chunk), as the library knows it */
    void *block;   /* what malloc returned or, for a free chunk, would return */
    size_t bytes;  /* of the chunk, header included */
    size_t usable; /* dvsm_malloc_usable_size() of a block in use, else 0 */
    dvsm_chunk_state state;
    unsigned arena; /* which of the heap's arenas it belongs to */
} dvsm_chunk;

/* `chunk` is valid during the call. */
typedef void (*dvsm_visit_fn)(const dvsm_chunk *chunk, void *context);

/* Calls `visit` for every chunk of the heap: arena by arena, in each by segment and address, then
 * the large blocks. The arena is locked meanwhile: `visit` must not call any function of this
 * library on the same heap. If `heap` is not a heap: no calls, errno EINVAL.
 *     Takes time in proportion to the number of chunks, some 10 ns each besides `visit` (more where
 * they are not in the processor's caches), and to the blocks in the cache. All depots are locked
 * while the cached blocks are listed, which needs memory outside the heap; each arena is locked
 * while its chunks are visited, and the granule map, too, for its large blocks. Others go on as
 * long as they need nothing that is locked: they allocate from another arena, and free to the
 * cache. A thread that needs the locked arena waits until it was walked. The allocator's records
 * (DVSM_CHUNK_OVERHEAD) are not blocks: passing one to a function is a fault. A block with a
 * damaged header is left out, and so is what lies behind it in its segment: then errno is EINVAL
 * afterwards. */
void dvsm_walk(dvsm_heap *heap, dvsm_visit_fn visit, void *context);

/* ---- Faults ------------------------------------------------------------------------------ */

/* What was found wrong. The strings are valid during the call of the handler. */
typedef struct dvsm_fault {
    size_t size;          /* sizeof(dvsm_fault), as the library knows it */
    const char *what;     /* such as "block freed twice" */
    const void *address;  /* the block or the metadata concerned */
    const char *heap;     /* the heap's name, "default", or "no heap" */
    const char *function; /* the function called: "dvsm_free" */
} dvsm_fault;

typedef void (*dvsm_fault_handler)(const dvsm_fault *fault);

/* Sets what this process (and those it forks later) does about a fault. NULL sets the default: one
 * line on stderr and abort(). Returns the former handler, NULL for the default.
 *
 * The handler runs in the thread that made the call, with no lock held, so it may call any function
 * of this library. If it returns, the call fails with EINVAL (dvsm_free() just returns). If
 * metadata is damaged, that arena is set aside: nothing more is allocated from it, what is freed
 * into it stays, and the rest of the heap works on.
 *
 * "damaged journal ..." and "damaged table of arenas" mean that a process died and that what it
 * left cannot be its own work. The library does not trust it and sets aside that arena; or that
 * size class, which the arenas serve from then on; or the granule map, without which the heap
 * cannot grow. If the handler returns, the call goes on with the rest. */
dvsm_fault_handler dvsm_set_fault_handler(dvsm_fault_handler handler);

#ifdef __cplusplus
}
#endif

#endif
