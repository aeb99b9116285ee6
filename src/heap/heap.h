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
 *     create.c       making and destroying a heap
 *     default.c      the default heap, which exists before main()
 *     entry.c        locking the arena that a call works on, reporting faults
 *     forked.c       a child forked in the middle of a call
 *     block.c        what a block's header and mark say, read without a lock
 *     serve.c        one request, from the arenas
 *     allocate.c, release.c, resize.c, text.c     the malloc family
 *     limits.c, inspect.c, check.c                tuning, measuring and checking a heap
 *
 * Public functions are thin: each finds the heap, then calls a heap_ function, and passes its own
 * name for messages. errno is set in this folder and in none below it.
 */
#ifndef DVSM_HEAP_HEAP_H
#define DVSM_HEAP_HEAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "arena/arenas.h"
#include "cache/cache.h"
#include "dvsm/dvsm.h"
#include "heap/region.h"
#include "sync/report.h"

enum { HEAPS_MOST = 1024, HEAP_LABEL = 256 };

enum heap_state { HEAP_FREE, HEAP_CLAIMED, HEAP_LIVE };

struct dvsm_heap {
    atomic_uint state; /* enum heap_state: the other fields are valid while it is HEAP_LIVE */
    /* A copy of the mapping's bounds for the search by address, which may meet a heap that is just
     * being made or destroyed. `span` is 0 unless the heap is live. */
    atomic_uintptr_t base;
    atomic_size_t span;
    struct region *region;
    const dvsm_backend *backend;
    dvsm_mapping mapping;
    struct region_marks marks;
    struct segments segments;
    struct arenas arenas;
    struct cache cache;
    char label[HEAP_LABEL]; /* the heap's name, or what messages call it if it has none */
};

/* ---- registry.c */

/* A slot of the table for a new heap; NULL: all taken. Others find the heap once it is live. */
struct dvsm_heap *registry_claim(void);
void registry_publish(struct dvsm_heap *heap);
/* From now on nobody finds this live heap. False: somebody else has just withdrawn it. */
bool registry_withdraw(struct dvsm_heap *heap);
void registry_free(struct dvsm_heap *heap);

/* Calls `visit` for each live heap. */
void registry_each(void (*visit)(struct dvsm_heap *heap));

/* The heap if it is live; else NULL and errno EINVAL. */
struct dvsm_heap *registry_checked(const struct dvsm_heap *heap);

/* All slots below this number were claimed at least once. A slot never moves. */
size_t registry_used(void);
struct dvsm_heap *registry_slot(size_t index);

/* ---- locate.c */

/* Call this when a heap came or went, so that dvsm_heap_of() finds the present ones quickly. */
void locate_update(void);

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

/* Bytes of address space to reserve by default: at most half of what RLIMIT_AS leaves. */
size_t options_default_reserve(void);

struct environment {
    dvsm_options options; /* fields not given are zero */
    bool stats;           /* print them at exit */
};
void environment_read(struct environment *environment);

/* ---- create.c */

/* A heap with those options (from options_read()) whose reserve may be halved down to `least`.
 * NULL: *error says why. */
struct dvsm_heap *heap_make(const dvsm_options *options, const char *label, size_t least,
                            int *error);

/* Unmaps it here and removes its name. 0, or an errno value and the heap lives on. */
int heap_unmake(struct dvsm_heap *heap);

/* ---- forked.c */

/* From now on a child forked in the middle of a call of this library leaves the heaps alone. */
void heap_watch_forks(void);

/* ---- default.c */

extern struct dvsm_heap *_Atomic heap_the_default; /* NULL: not made yet */

/* Extends the fast path's view to the block's granule, if the view does not cover it yet. */
void heap_extend_view(struct dvsm_heap *heap, const void *block);

/* Call this when an arena is damaged: from now on every free looks at the block's arena first. */
void heap_hide_frees(struct dvsm_heap *heap);
struct dvsm_heap *heap_make_default(void);

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
    BLOCK_PLAIN, /* in a segment and, by all signs, in use */
    BLOCK_OTHER, /* a large block, or something is wrong: its arena tells */
    BLOCK_FREED  /* in the cache: free already */
};
enum block_state heap_look(struct dvsm_heap *heap, const void *block);

/* Usable bytes of a block in use, large or not, read without a lock; 0: by all signs it is no block
 * in use. */
size_t heap_usable_by_look(struct dvsm_heap *heap, const void *block);

/* Bytes of the chunk of a block in a segment, as its header says. */
static inline size_t heap_chunk_size(const void *block)
{
    return word_peek(&chunk_of_payload(block)->head) & ~HEAD_FLAGS;
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

/* ---- allocate.c, release.c, resize.c */

/* `heap` NULL: returns NULL, errno is already set. */
void *heap_malloc(struct dvsm_heap *heap, size_t size, const char *function);
void heap_free(void *block, const char *function);

/* A block from an arena that will replace one which has grown `growths` times (struct
 * arena_call). */
void *heap_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths, const char *function);

#endif
