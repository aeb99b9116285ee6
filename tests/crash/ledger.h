/* ledger.h - the calls that workers make, and what is known of the blocks.
 *
 * The ledger is in shared memory outside the region. A slot names a block. Before and after each
 * call the worker records in it what the call does, so that a survivor knows which blocks must be
 * there and which may be. Between two calls a worker runs freely; inside a call it is stepped: at
 * its beginning the worker sets `inside`, and stops.
 */
#ifndef DVSM_TESTS_CRASH_LEDGER_H
#define DVSM_TESTS_CRASH_LEDGER_H

#include <stdbool.h>
#include <stddef.h>

enum { WORKERS_MOST = 4, SLOTS_EACH = 64, SLOTS = WORKERS_MOST * SLOTS_EACH };

enum slot_state {
    SLOT_EMPTY,
    SLOT_ALLOCATING, /* there may be `extra` blocks more, or none */
    SLOT_HELD,
    SLOT_FREEING,  /* may be there */
    SLOT_RESIZING, /* the old block is there, or a new one, or both */
};

struct slot {
    void *volatile block;
    volatile size_t size, wanted; /* how many bytes are filled; RESIZING: how many it is to have */
    volatile enum slot_state state;
    volatile size_t extra;
    volatile bool whole; /* all of `extra` or none */
};

struct ledger {
    volatile int inside[WORKERS_MOST]; /* in a call, by worker */
    struct slot slot[SLOTS];
};
extern struct ledger *ledger;

/* This worker's number, and whether it is stepped. */
extern int ledger_me;
extern bool ledger_stepped;

void ledger_open(void);
void ledger_clear(void);

/* Slots by number: of this worker, or of all. Each call leaves the slot held and filled, or
 * empty. */
struct slot *own_slot(size_t number);

void call_enter(void);
void call_leave(void);

enum how {
    BY_MALLOC,
    BY_HEAP,
    BY_CALLOC,
    BY_MEMALIGN,
    BY_STRDUP,
    BY_HEAP_CALLOC,
    BY_HEAP_ALIGNED,
    BY_HEAP_MEMALIGN,
    BY_HEAP_POSIX,
    BY_HEAP_REALLOC,
    BY_VALLOC,
    BY_PVALLOC,
    BY_POSIX,
    BY_REALLOCARRAY,
    BY_HEAP_REALLOCARRAY,
    BY_STRNDUP,
    BY_HEAP_STRDUP,
    BY_HEAP_STRNDUP,
    BY_HOWS
};
void call_allocate(struct slot *slot, size_t size, enum how how);
void call_aligned(struct slot *slot, size_t alignment, size_t size);

enum freeing { FREE_PLAIN, FREE_SIZED, FREE_ALIGNED };
void call_free(struct slot *slot);
void call_free_by(struct slot *slot, enum freeing how);

enum resizing {
    RESIZE_IN_PLACE,
    RESIZE_REALLOC,
    RESIZE_ARRAY,
    RESIZE_HEAP,
    RESIZE_HEAP_ARRAY,
};
void call_resize(struct slot *slot, size_t size, bool in_place);
void call_resize_by(struct slot *slot, size_t size, enum resizing how);

/* In the default heap; `told`: by the function that is given the heap. */
void call_independent(struct slot *first, size_t count, size_t size, bool told);
void call_comalloc(struct slot *first, size_t count, const size_t *sizes, bool told);
void call_bulk_free(struct slot *first, size_t count);
void call_trim(void);

/* Whether a block still has what its holder wrote, except for the first `skip` bytes. */
bool slot_intact(const struct slot *slot, size_t skip);

#endif
