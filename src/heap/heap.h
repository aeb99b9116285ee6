/* heap.h - a heap as one process sees it, and how a call gets into one of its arenas.
 *
 * `struct dvsm_heap` is the process's own: it says where the region is and whose functions give it
 * memory. It stands in a static table. A slot of the table is claimed by one atomic exchange,
 * without a lock or malloc, so a fork at any moment leaves the child a usable copy of the table.
 * Everything that is shared is in the region (region.h).
 *
 *     registry.c     the table
 *     locate.c       a pointer's heap
 *     options.c      the user's options, checked and completed
 *     environment.c  the DVSM_ variables
 *     region.c, marks.c    the region's layout, and which of its words the map's changes store to
 *     window.c       the addresses that heaps get
 *     create.c       making a heap, leaving it, destroying it
 *     attach.c       joining a heap that another program made
 *     inherit.c      letting the programs that are executed join
 *     reading.c      looking at a heap that can only be read
 *     view.c         the default heap as the fast path sees it
 *     default.c      the default heap, which exists before main()
 *     entry.c        locking the arena that a call works on, reporting faults
 *     forked.c       a child forked in the middle of a call
 *     block.c        what a block's header and mark say, read without a lock
 *     serve.c        one request, from the arenas
 *     roots.c, root_maker.c    names for addresses
 *     allocate.c, aligned.c, release.c, resize.c         the malloc family
 *     hardened_malloc.c, hardened_free.c                 the same for hardened heaps
 *     limits.c, stats.c, walk.c, check.c, reap.c         tuning, measuring, checking, repairing
 *
 * The public functions (src/api) are thin: each finds the heap, then calls a heap_ function, and
 * passes its own name for messages. errno is set in these two folders and in none below them.
 */
#ifndef DVSM_HEAP_HEAP_H
#define DVSM_HEAP_HEAP_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#include "arena/arenas.h"
#include "cache/cache.h"
#include "dvsm/dvsm.h"
#include "heap/region.h"
#include "sync/report.h"

enum { HEAPS_MOST = 1024, HEAP_LABEL = 256, HEAP_SLOT = 2048 };
enum { LOOK_TRIES = 100000 };

enum heap_state { HEAP_FREE, HEAP_CLAIMED, HEAP_LIVE };

struct dvsm_heap {
    /* enum heap_state: the other fields are valid while it is HEAP_LIVE. */
    _Alignas(HEAP_SLOT) atomic_uint state;
    /* A copy of the mapping's bounds for the search by address, which may meet a heap that is just
     * being made or destroyed. `span` is 0 unless the heap is live. */
    atomic_uintptr_t base;
    atomic_size_t span;
    struct cache cache; /* here, so that what the fast path reads is in few cache lines */
    struct region *region;
    const dvsm_backend *backend;
    dvsm_mapping mapping;
    struct region_marks marks;
    struct segments segments;
    struct arenas arenas;
    bool hardened;
    bool read_only;         /* this process may look, not touch: reading.c */
    _Atomic(pid_t) looker;  /* the process that has a thread looking at it; 0: none */
    atomic_size_t joined;   /* how often it was made or joined, less how often left */
    pid_t creator;          /* the process whose exit checks a hardened heap; 0: it was joined */
    char label[HEAP_LABEL]; /* the heap's name, or what messages call it if it has none */
};

/* ---- registry.c */

extern struct dvsm_heap *_Atomic heap_the_default; /* NULL: not made yet */

/* A slot of the table for a new heap; NULL: all taken. Others find the heap once it is live. */
struct dvsm_heap *registry_claim(void);
void registry_publish(struct dvsm_heap *heap);
/* From now on nobody finds this live heap. False: somebody else has just withdrawn it. */
bool registry_withdraw(struct dvsm_heap *heap);
void registry_free(struct dvsm_heap *heap);

/* Calls `visit` for each live heap. */
void registry_each(void (*visit)(struct dvsm_heap *heap));

/* The table; a slot's size is a power of two. */
extern struct dvsm_heap registry_heaps[HEAPS_MOST] __attribute__((visibility("hidden")));
_Static_assert((sizeof registry_heaps[0] & (sizeof registry_heaps[0] - 1)) == 0,
               "which slot is a shift");

static inline bool registry_is_live(const struct dvsm_heap *heap)
{
    return atomic_load_explicit(&heap->state, memory_order_acquire) == HEAP_LIVE;
}

/* Sets errno and returns NULL. */
void *heap_fail(int error);

/* Whether the pointer is to a slot, of whatever state. */
static inline bool registry_has(const struct dvsm_heap *heap)
{
    size_t offset = (size_t)((const char *)heap - (const char *)registry_heaps);

    return likely(offset < sizeof registry_heaps) && likely(offset % sizeof *heap == 0);
}

/* The heap if it is live; else NULL and errno EINVAL. */
static inline struct dvsm_heap *registry_checked(struct dvsm_heap *heap)
{
    return registry_has(heap) && likely(registry_is_live(heap)) ? heap : heap_fail(EINVAL);
}

/* The same; NULL and errno EROFS if this process can only read it. */
static inline struct dvsm_heap *registry_writable(struct dvsm_heap *heap)
{
    heap = registry_checked(heap);
    return heap != NULL && unlikely(heap->read_only) ? heap_fail(EROFS) : heap;
}

/* All slots below this number were claimed at least once. A slot never moves. */
size_t registry_used(void);
struct dvsm_heap *registry_slot(size_t index);

/* ---- locate.c */

/* Call this when a heap came or went, so that heap_of() finds the present ones quickly. */
void locate_update(void);

/* The heap in which the address lies; NULL: none that is mapped here. */
struct dvsm_heap *heap_of(const void *address);

/* The one that this thread found last and that was not the default heap; NULL: none. */
extern __thread struct dvsm_heap *heap_last
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Whether the address lies in the heap. Slots are reused, so `base` is read again: if it is still
 * the same, base and span belong together. */
static inline bool heap_holds(const struct dvsm_heap *heap, const void *address)
{
    uintptr_t base = atomic_load_explicit(&heap->base, memory_order_acquire);
    size_t span = atomic_load_explicit(&heap->span, memory_order_acquire);

    return (uintptr_t)address - base < span &&
           likely(atomic_load_explicit(&heap->base, memory_order_relaxed) == base);
}

/* ---- options.c, environment.c */

/* Copies the options, of any version, into *out; NULL means all defaults. False: refused. */
bool options_read(const dvsm_options *options, dvsm_options *out);

/* Bytes of address space to reserve by default: at most half of what RLIMIT_AS leaves. A named heap
 * gets less, so that several find room where all programs have it (window.h). */
size_t options_default_reserve(bool named);

struct environment {
    dvsm_options options;  /* fields not given are zero */
    char join[HEAP_LABEL]; /* DVSM_HEAP: a name, or "fd:" and a number; "": none */
    bool stats;            /* print them at exit */
};
void environment_read(struct environment *environment);

/* ---- create.c */

/* A heap with those options (from options_read()) whose reserve may be halved down to `least`.
 * NULL: *error says why. */
enum heap_use { HEAP_DEFAULT, HEAP_CREATED };
struct dvsm_heap *heap_make(const dvsm_options *options, enum heap_use use, size_t least,
                            int *error);

/* Unmaps it here and removes its name; or without `destroy`, unmaps it unless this process joined
 * it once more than it left it. 0, or an errno value and the heap lives on. */
int heap_unmake(struct dvsm_heap *heap, bool destroy);

/* Leaves a heap that the process joined once more than it left it. False: it did not. */
bool heap_leave_once(struct dvsm_heap *heap);

/* The process's own access to each part of a region that is mapped; then others may find it. */
void heap_open(struct dvsm_heap *heap, pid_t creator);

/* ---- attach.c */

/* Joins the heap of that name; or the one whose file the descriptor is, which stays the caller's.
 * NULL: *error says why (dvsm_heap_attach()), and heap_message() in words. */
struct dvsm_heap *heap_attach(const char *name, bool read_only, int *error);
struct dvsm_heap *heap_attach_fd(int fd, bool read_only, int *error);

/* Why this thread's last call that was to make or join a heap failed; "": it did not. */
const char *heap_message(void);
void heap_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- reading.c */

/* Whatever only looks at a heap does so between these two, so that it works on a heap that this
 * process can only read, too. False, and errno: it cannot be looked at now. heap_end_look() leaves
 * errno alone. */
bool heap_begin_look(struct dvsm_heap *heap);
void heap_end_look(struct dvsm_heap *heap);

/* ---- inherit.c */

/* 0 or an errno value. */
int heap_inherit(struct dvsm_heap *heap);

/* ---- forked.c */

/* From now on a child forked in the middle of a call of this library leaves the heaps alone. */
void heap_watch_forks(void);

/* ---- view.c */

/* Lets dvsm_malloc() and dvsm_free() use the default heap's lanes, or none. */
void view_show(const struct dvsm_heap *heap);
void view_hide(void);

/* Extends the view to the block's granule, if the view does not cover it yet. */
void view_extend(struct dvsm_heap *heap, const void *block);

/* Call this when an arena is damaged: from now on every free looks at the block's arena first. */
void view_hide_frees(struct dvsm_heap *heap);

/* ---- default.c */

struct dvsm_heap *heap_make_default(void);

/* Replaces the default heap by one with those options, as long as nothing was allocated from it. 0
 * or an errno value. */
int heap_replace_default(const dvsm_options *options);

/* The default heap; NULL and errno ENOMEM if it cannot be made. */
static inline struct dvsm_heap *heap_default(void)
{
    struct dvsm_heap *heap = atomic_load_explicit(&heap_the_default, memory_order_acquire);

    return likely(heap != NULL) ? heap : heap_make_default();
}

/* ---- entry.c */

/* A call of a public function while it works on one arena. */
struct heap_call {
    struct dvsm_heap *heap;  /* NULL: none was found */
    const char *function;    /* the public one */
    struct arena_slot *busy; /* the block's arena, which is sound and could not be had */
    bool may_free;           /* it works on a block, and may free all or part of it */
    struct arena_hold hold;  /* hold.slot NULL: no arena is locked */
};

/* The engine's part of the call. */
static inline struct arena_call *heap_arena(struct heap_call *call)
{
    return &call->hold.call;
}

/* Each of the next three locks an arena of the heap and makes the call ready, or returns false.
 * Call heap_leave() either way. */

/* Locks an arena to allocate from. */
bool heap_enter(struct heap_call *call, struct dvsm_heap *heap, const char *function);

/* Locks the arena of a block that the user handed over; raises a fault if the pointer cannot be a
 * block. If the arena is held for longer than a moment, or by the call that a signal handler
 * interrupted, it is not locked, and call->busy names it. */
bool heap_enter_owner(struct heap_call *call, const void *block, const char *function);

/* Locks the arena of this index, however long it takes; false only in a signal handler that would
 * have to wait. */
bool heap_enter_index(struct heap_call *call, struct dvsm_heap *heap, size_t index,
                      const char *function);

/* Raises a fault about the block; returns false. */
bool heap_refuse(struct heap_call *call, const char *what, const void *block);

/* Unlocks the arena. If there was a fault, reports it and returns false with errno EINVAL. */
bool heap_leave(struct heap_call *call);

/* Reports a fault that was found with no arena locked. Returns whether there was one. */
bool heap_report_found(struct dvsm_heap *heap, const struct fault *fault, const char *function);
static inline bool heap_report(struct dvsm_heap *heap, const struct fault *fault,
                               const char *function)
{
    if (likely(fault->kind == FAULT_NONE) && likely(fault_noted.kind == FAULT_NONE))
        return false;
    return heap_report_found(heap, fault, function);
}

/* Reports the faults noted by locks that could not be repaired (fault.h). heap_leave() and
 * heap_report() do it, too. */
void heap_report_noted(struct dvsm_heap *heap, const char *function);

/* Reports a double free of a block that was found in the cache. */
void heap_report_freed(struct dvsm_heap *heap, const void *block, const char *function);

/* Frees a block whose arena is busy: puts it on the arena's list (arena/remote.h), or raises a
 * fault. */
void heap_free_remotely(struct heap_call *call, void *block);

/* ---- block.c */

/* What can be said of a block without any lock. */
enum block_state {
    BLOCK_PLAIN,  /* in a segment and, by all signs, in use */
    BLOCK_REMOTE, /* the same, but marked as freed remotely: its arena's list tells */
    BLOCK_OTHER,  /* a large block, or something is wrong: its arena tells */
    BLOCK_FREED   /* in the cache: free already */
};
enum block_state heap_look(struct dvsm_heap *heap, const void *block);

/* Usable bytes of a block in use, large or not, read without a lock; 0: by all signs it is no block
 * in use. */
size_t heap_usable_by_look(struct dvsm_heap *heap, const void *block);

/* The header of the large block that has the run: the low bits of the word at the run's start say
 * where it is. NULL: one of the two is damaged. */
const struct chunk *heap_large_chunk(const struct seal *seal, struct run run);

/* Bytes of the chunk of a block in a segment, as its header says. */
static inline size_t heap_chunk_size(const void *block)
{
    return word_peek(&chunk_of_payload(block)->head) & HEAD_SIZE;
}

/* Whether the block bypasses the cache when it is freed: see chunk.h. */
static inline bool heap_is_uncached(const void *block)
{
    return (word_peek(&chunk_of_payload(block)->head) & CHUNK_UNCACHED) != 0;
}

/* Whether the next chunk is in use at this instant. */
static inline bool heap_next_in_use(const void *block, size_t size)
{
    return (word_peek(&chunk_at(chunk_of_payload(block), size)->head) & CINUSE) != 0;
}

/* ---- serve.c */

/* A request of any kind: all kinds search for memory in the same order. */
struct heap_request {
    enum { HEAP_MALLOC, HEAP_MEMALIGN, HEAP_CALLOCS, HEAP_COMALLOCS } kind;
    size_t count, size, alignment;
    const char *
        *fresh;     /* gets what the arena says of a HEAP_MALLOC (struct arena_call); may be NULL */
    size_t growths; /* of the block that a HEAP_MALLOC will replace: see struct arena_call */
    const size_t *sizes;
    void **array;
};

/* Serves the request from the arenas; NULL and errno if it cannot. */
void *heap_serve(struct dvsm_heap *heap, const struct heap_request *r, const char *function);

/* ---- allocate.c, aligned.c, release.c, resize.c: as the public functions say. `heap` NULL:
 * returns NULL, errno is already set. */

void *heap_malloc(struct dvsm_heap *heap, size_t size, const char *function);
void *heap_malloc_default(size_t size);
void *heap_calloc(struct dvsm_heap *heap, size_t count, size_t size, const char *function);
void **heap_independent_calloc(struct dvsm_heap *heap, size_t count, size_t size, void **blocks,
                               const char *function);
void **heap_independent_comalloc(struct dvsm_heap *heap, size_t count, const size_t *sizes,
                                 void **blocks, const char *function);

void *heap_memalign(struct dvsm_heap *heap, size_t alignment, size_t size, const char *function);
void *heap_aligned_alloc(struct dvsm_heap *heap, size_t alignment, size_t size,
                         const char *function);
/* `saved`: errno as the caller found it, which is put back. */
int heap_posix_memalign(struct dvsm_heap *heap, void **out, size_t alignment, size_t size,
                        int saved, const char *function);

void heap_free(void *block, const char *function);
/* `alignment` as it was given; 0: none was. Only hardened heaps look at it. */
void heap_free_sized(void *block, size_t alignment, size_t size, const char *function);
size_t heap_bulk_free(void **blocks, size_t count, const char *function);
size_t heap_usable_size(const void *block, const char *function);

void *heap_realloc_default(void *block, size_t size, const char *function);
void *heap_realloc_given(struct dvsm_heap *heap, void *block, size_t size, const char *function);
void *heap_realloc_in_place(void *block, size_t size, const char *function);

/* When a resize without a copy is tried: before a copy, instead of one, or after memory for one was
 * short. */
enum heap_attempt { BEFORE_COPY, NO_COPY, AFTER_COPY };

/* Resizes the block in its arena, which may grow if top begins behind the block. NULL: that is not
 * possible, or there is a fault. */
void *heap_resize_chunk(struct arena_call *call, void *block, size_t size,
                        enum heap_attempt attempt);

/* A block from an arena that will replace one which has grown `growths` times (struct
 * arena_call). */
void *heap_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths, const char *function);

/* ---- root_maker.c */

typedef void *(*heap_root_init)(dvsm_heap *heap, void *context);

/* The root of that name; if there is none, what `init` returns becomes it. NULL and errno: `init`
 * returned NULL, EDEADLK, or an error of roots_exchange(). */
void *heap_root_made(struct dvsm_heap *heap, const struct root_name *name, heap_root_init init,
                     void *context);

/* ---- limits.c, stats.c, walk.c, check.c, reap.c: as the public functions say */

size_t heap_ranges(struct dvsm_heap *heap, struct iovec *ranges, size_t most, uint64_t *generation);
bool heap_trim(struct dvsm_heap *heap, size_t pad, const char *function);
bool heap_set_parameter(struct dvsm_heap *heap, int parameter, int value, const char *function);
size_t heap_footprint(struct dvsm_heap *heap);
size_t heap_footprint_most(struct dvsm_heap *heap);
size_t heap_limit(struct dvsm_heap *heap);
size_t heap_set_limit(struct dvsm_heap *heap, size_t bytes, const char *function);

void heap_stats(struct dvsm_heap *heap, dvsm_stats_t *stats, const char *function);
struct dvsm_mallinfo heap_mallinfo(struct dvsm_heap *heap, const char *function);
void heap_print_stats(struct dvsm_heap *heap, const char *function);

void heap_walk(struct dvsm_heap *heap, dvsm_visit_fn visit, void *context, const char *function);
int heap_check(struct dvsm_heap *heap, FILE *report);
int heap_reap(struct dvsm_heap *heap, const char *function);

#endif
