/* heap.h - a heap as one process sees it, and how a call gets into one of its arenas.
 *
 * `struct dvsm_heap` is the process's own: where the region is, whose functions give it memory. It
 * stands in a static table, whose slots are claimed by one atomic exchange, so that no lock and no
 * malloc is needed and a fork at any moment finds the table usable: a forked child has a copy.
 * Everything that is shared is in the region (region.h).
 *
 *     registry.c     the table
 *     locate.c       a pointer's heap
 *     options.c      what the user asked for, completed
 *     environment.c  the DVSM_ variables
 *     create.c       making and destroying a heap
 *     default.c      the heap that is there before main()
 *     entry.c        locking the arena that a call works on, reporting faults
 *     forked.c       a child forked in the middle of a call
 *     block.c        what a block's header and mark tell, without a lock
 *     serve.c        one request, from the arenas
 *     allocate.c, release.c, resize.c, text.c     the malloc family
 *     limits.c, inspect.c, check.c                looking after it, looking at it
 *
 * Public functions are thin: find the heap, then a heap_ function that also gets the public
 * function's name, for messages. errno is set here and nowhere below.
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

enum { HEAPS_MOST = 1024, HEAP_LABEL = 256 };

enum heap_state { HEAP_FREE, HEAP_CLAIMED, HEAP_LIVE };

struct dvsm_heap {
    atomic_uint state; /* enum heap_state: the other fields are valid while it is HEAP_LIVE */
    /* The mapping's bounds once more, for the search by address, which may meet a heap that comes
     * or goes: `span` is 0 unless it lives. */
    atomic_uintptr_t base;
    atomic_size_t span;
    struct region *region;
    const dvsm_backend *backend;
    dvsm_mapping mapping;
    struct region_marks marks;
    struct segments segments;
    struct arenas arenas;
    struct cache cache;
    char label[HEAP_LABEL]; /* the name or, in messages, what stands for one */
};

/* ---- registry.c */

/* A slot of the table for a new heap; NULL: all taken. It is found by others once it is live. */
struct dvsm_heap *registry_claim(void);
void registry_publish(struct dvsm_heap *heap);
/* Makes a live heap one that nobody finds; false: somebody else just did. */
bool registry_withdraw(struct dvsm_heap *heap);
void registry_free(struct dvsm_heap *heap);

/* Calls `visit` for each live heap. */
void registry_each(void (*visit)(struct dvsm_heap *heap));

/* The heap if it is one that lives, else NULL and errno EINVAL. */
struct dvsm_heap *registry_checked(const struct dvsm_heap *heap);

/* Slots below that number were claimed at least once; they stay where they are. */
size_t registry_used(void);
struct dvsm_heap *registry_slot(size_t index);

/* ---- locate.c */

/* A heap came or went: dvsm_heap_of() finds that one quickly from now on. */
void locate_update(void);

/* Whether the address lies in the heap. Slots are used again: that `base` is still the same shows
 * that base and span belong together. */
static inline bool heap_holds(const struct dvsm_heap *heap, const void *address)
{
    uintptr_t base = atomic_load_explicit(&heap->base, memory_order_acquire);
    size_t span = atomic_load_explicit(&heap->span, memory_order_acquire);

    return (uintptr_t)address - base < span &&
           likely(atomic_load_explicit(&heap->base, memory_order_relaxed) == base);
}

/* ---- options.c, environment.c */

/* Copies the options, of whatever version, into *out; NULL: all defaults. False: refused. */
bool options_read(const dvsm_options *options, dvsm_options *out);

/* Bytes of address space if nobody says how many: at most half of what RLIMIT_AS leaves. */
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

/* From now on a child that is forked in the middle of a call of this library leaves the heaps
 * alone. */
void heap_watch_forks(void);

/* ---- default.c */

extern struct dvsm_heap *_Atomic heap_the_default; /* NULL: not made yet */

/* Where the heap's fast path does not know of the block's granule yet: tells it. */
void heap_extend_view(struct dvsm_heap *heap, const void *block);

/* Has every free look at the block's arena first: one is damaged. */
void heap_hide_frees(struct dvsm_heap *heap);
struct dvsm_heap *heap_make_default(void);

/* The default heap; NULL and errno ENOMEM where there is none. */
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
    bool may_free;           /* it works on a block: part of which or all of it may come back */
    struct arena_hold hold;  /* hold.slot NULL: no arena is locked */
};

/* Each locks an arena of the heap and makes the call ready, or returns false; heap_leave() is to be
 * called either way. */

/* One to allocate from. */
bool heap_enter(struct heap_call *call, struct dvsm_heap *heap, const char *function);

/* The one that a block handed over by the user belongs to; a fault if it can be none. Where its
 * arena is held for longer than a moment, or by the interrupted call of a signal handler:
 * call->busy. */
bool heap_enter_owner(struct heap_call *call, const void *block, const char *function);

/* The one of that index, however long it takes; false only in a signal handler that would have to
 * wait. */
bool heap_enter_index(struct heap_call *call, struct dvsm_heap *heap, size_t index,
                      const char *function);

/* Raises a fault about the block; false. */
bool heap_refuse(struct heap_call *call, const char *what, const void *block);

/* Unlocks; then reports the fault, if there was one, and returns false with errno EINVAL. */
bool heap_leave(struct heap_call *call);

/* Reports a fault found where no arena was locked; nothing, if there is none. Returns whether. */
bool heap_report_found(struct dvsm_heap *heap, const struct fault *fault, const char *function);
static inline bool heap_report(struct dvsm_heap *heap, const struct fault *fault,
                               const char *function)
{
    if (likely(fault->kind == FAULT_NONE) && likely(fault_noted.kind == FAULT_NONE))
        return false;
    return heap_report_found(heap, fault, function);
}

/* Reports what was noted by locks that could not be repaired (fault.h); heap_leave() and
 * heap_report() do it, too. */
void heap_report_noted(struct dvsm_heap *heap, const char *function);

/* Reports that a block, found in the cache, was freed already. */
void heap_report_freed(struct dvsm_heap *heap, const void *block, const char *function);

/* ---- block.c */

/* Frees a block whose arena is busy: puts it on the arena's list (arena/remote.h), or raises a
 * fault. */
void heap_free_remotely(struct heap_call *call, void *block);

/* What a look at a block tells without any lock. */
enum block_state {
    BLOCK_PLAIN, /* in use, by all signs, in a segment */
    BLOCK_OTHER, /* a large block, or wrong: its arena tells */
    BLOCK_FREED  /* in the cache: free already */
};
enum block_state heap_look(struct dvsm_heap *heap, const void *block);

/* Usable bytes of a block in use, large ones too, by a look without a lock; 0: it is none, by all
 * signs. */
size_t heap_usable_by_look(struct dvsm_heap *heap, const void *block);

/* Of a block in a segment: bytes of its chunk, as its header says. */
static inline size_t heap_chunk_size(const void *block)
{
    return word_peek(&chunk_of_payload(block)->head) & ~HEAD_FLAGS;
}

/* Whether it goes straight back to its arena: see chunk.h. */
static inline bool heap_is_uncached(const void *block)
{
    return (word_peek(&chunk_of_payload(block)->head) & CHUNK_UNCACHED) != 0;
}

/* Whether the chunk behind it is in use, at this instant. */
static inline bool heap_next_in_use(const void *block, size_t size)
{
    return (word_peek(&chunk_at(chunk_of_payload(block), size)->head) & CINUSE) != 0;
}

/* ---- serve.c */

/* A request of any kind, so that all are looked for in the same order. */
struct heap_request {
    enum { HEAP_MALLOC, HEAP_MEMALIGN, HEAP_CALLOCS, HEAP_COMALLOCS } kind;
    size_t count, size, alignment;
    const char *
        *fresh;     /* gets what the arena says of a HEAP_MALLOC (struct arena_call); may be NULL */
    size_t growths; /* of the block that a HEAP_MALLOC is to replace: see struct arena_call */
    const size_t *sizes;
    void **array;
};

/* What it gets from the arenas; NULL and errno: nothing. */
void *heap_serve(struct dvsm_heap *heap, const struct heap_request *r, const char *function);

/* ---- allocate.c, release.c, resize.c */

/* `heap` NULL: returns NULL, errno is already set. */
void *heap_malloc(struct dvsm_heap *heap, size_t size, const char *function);
void heap_free(void *block, const char *function);

/* A block from an arena, for one that has grown so often (struct arena_call) and is to be
 * replaced. */
void *heap_malloc_grown(struct dvsm_heap *heap, size_t size, size_t growths, const char *function);

#endif
