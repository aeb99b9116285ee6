/* ledger.c - calls, each recorded in the ledger before and after. */
#define _GNU_SOURCE
#include "crash/ledger.h"

#include <string.h>
#include <sys/mman.h>

#include "crash/harness.h"

enum { FILLED_MOST = 8192 };

struct ledger *ledger;
int ledger_me;
bool ledger_stepped;

void ledger_open(void)
{
    if (ledger != NULL)
        return;
    ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ledger == MAP_FAILED)
        give_up("no memory for the ledger");
}

void ledger_clear(void)
{
    memset(ledger, 0, sizeof *ledger);
}

struct slot *own_slot(size_t number)
{
    return &ledger->slot[(size_t)ledger_me * SLOTS_EACH + number % SLOTS_EACH];
}

/* The tracer sees a worker stop here, and steps it from here on. */
void call_enter(void)
{
    ledger->inside[ledger_me] = 1;
    if (ledger_stepped)
        __asm__ volatile("int3" ::: "memory");
}

void call_leave(void)
{
    compiler_barrier();
    ledger->inside[ledger_me] = 0;
}

/* ---- contents: the same byte throughout; large blocks have it at both ends only */

static unsigned char byte_of(const struct slot *slot)
{
    return (unsigned char)(1 + (size_t)(slot - ledger->slot) % 200);
}

static void fill(const struct slot *slot)
{
    size_t size = slot->size, part = size < FILLED_MOST ? size : FILLED_MOST / 2;

    memset(slot->block, byte_of(slot), part);
    memset((char *)slot->block + size - part, byte_of(slot), part);
}

static bool all_bytes(const unsigned char *from, const unsigned char *to, unsigned char byte)
{
    return from >= to || (*from == byte && memcmp(from, from + 1, (size_t)(to - from) - 1) == 0);
}

bool slot_intact(const struct slot *slot, size_t skip)
{
    const unsigned char *block = slot->block;
    size_t size = slot->size, part = size < FILLED_MOST ? size : FILLED_MOST / 2;

    if (skip < part && !all_bytes(block + skip, block + part, byte_of(slot)))
        return false;
    size_t from = size - part < skip ? skip : size - part;
    return all_bytes(block + from, block + size, byte_of(slot));
}

/* ---- calls */

static void begin_allocating(struct slot *slot, size_t size, size_t extra, bool whole)
{
    if (slot->state != SLOT_EMPTY)
        give_up("slot %ld is taken", (long)(slot - ledger->slot));
    slot->size = slot->wanted = size;
    slot->extra = extra;
    slot->whole = whole;
    slot->state = SLOT_ALLOCATING;
}

static void allocated(struct slot *slot, void *block, size_t size)
{
    slot->block = block;
    slot->size = size;
    if (block != NULL)
        fill(slot);
    slot->state = block != NULL ? SLOT_HELD : SLOT_EMPTY;
}

enum { COPIED = 30 };

static void *copy_text(enum how how)
{
    static const char text[] = "a string of some length, to be copied";

    switch (how) {
    case BY_STRNDUP:
        return dvsm_strndup(text, COPIED);
    case BY_HEAP_STRDUP:
        return dvsm_heap_strdup(the_heap, text);
    case BY_HEAP_STRNDUP:
        return dvsm_heap_strndup(the_heap, text, COPIED);
    default:
        return dvsm_strdup(text);
    }
}

static bool copies_text(enum how how)
{
    return how == BY_STRDUP || how >= BY_STRNDUP;
}

static void *allocate(size_t size, enum how how)
{
    void *block;

    if (copies_text(how))
        return copy_text(how);
    switch (how) {
    case BY_HEAP:
        return dvsm_heap_malloc(the_heap, size);
    case BY_CALLOC:
        return dvsm_calloc(1, size);
    case BY_MEMALIGN:
        return dvsm_memalign(64, size);
    case BY_HEAP_CALLOC:
        return dvsm_heap_calloc(the_heap, 1, size);
    case BY_HEAP_ALIGNED:
        return dvsm_heap_aligned_alloc(the_heap, 128, size);
    case BY_HEAP_MEMALIGN:
        return dvsm_heap_memalign(the_heap, 64, size);
    case BY_HEAP_POSIX:
        return dvsm_heap_posix_memalign(the_heap, &block, 64, size) == 0 ? block : NULL;
    case BY_HEAP_REALLOC:
        return dvsm_heap_realloc(the_heap, NULL, size);
    case BY_VALLOC:
        return dvsm_valloc(size);
    case BY_PVALLOC:
        return dvsm_pvalloc(size);
    case BY_POSIX:
        return dvsm_posix_memalign(&block, 64, size) == 0 ? block : NULL;
    case BY_REALLOCARRAY:
        return dvsm_reallocarray(NULL, 1, size);
    case BY_HEAP_REALLOCARRAY:
        return dvsm_heap_reallocarray(the_heap, NULL, 1, size);
    default:
        return dvsm_malloc(size);
    }
}

void call_allocate(struct slot *slot, size_t size, enum how how)
{
    if (copies_text(how))
        size = COPIED;
    begin_allocating(slot, size, 1, true);
    call_enter();
    void *block = allocate(size, how);
    call_leave();
    allocated(slot, block, size);
}

void call_aligned(struct slot *slot, size_t alignment, size_t size)
{
    begin_allocating(slot, size, 1, true);
    call_enter();
    void *block = dvsm_aligned_alloc(alignment, size);
    call_leave();
    allocated(slot, block, size);
}

void call_free_by(struct slot *slot, enum freeing how)
{
    if (slot->state != SLOT_HELD)
        return;
    slot->state = SLOT_FREEING;
    call_enter();
    if (how == FREE_SIZED)
        dvsm_free_sized(slot->block, slot->size);
    else if (how == FREE_ALIGNED)
        dvsm_free_aligned_sized(slot->block, 16, slot->size);
    else
        dvsm_free(slot->block);
    call_leave();
    slot->state = SLOT_EMPTY;
}

void call_free(struct slot *slot)
{
    call_free_by(slot, FREE_PLAIN);
}

static void *resize(void *block, size_t size, enum resizing how)
{
    switch (how) {
    case RESIZE_IN_PLACE:
        return dvsm_realloc_in_place(block, size);
    case RESIZE_ARRAY:
        return dvsm_reallocarray(block, 1, size);
    case RESIZE_HEAP:
        return dvsm_heap_realloc(the_heap, block, size);
    case RESIZE_HEAP_ARRAY:
        return dvsm_heap_reallocarray(the_heap, block, 1, size);
    default:
        return dvsm_realloc(block, size);
    }
}

void call_resize_by(struct slot *slot, size_t size, enum resizing how)
{
    if (slot->state != SLOT_HELD)
        return;
    slot->wanted = size;
    slot->extra = how == RESIZE_IN_PLACE ? 0 : 1;
    slot->whole = true;
    slot->state = SLOT_RESIZING;
    call_enter();
    void *block = resize(slot->block, size, how);
    call_leave();
    if (block != NULL)
        allocated(slot, block, size);
    else
        slot->state = SLOT_HELD;
}

void call_resize(struct slot *slot, size_t size, bool in_place)
{
    call_resize_by(slot, size, in_place ? RESIZE_IN_PLACE : RESIZE_REALLOC);
}

void call_independent(struct slot *first, size_t count, size_t size, bool told)
{
    void *blocks[SLOTS_EACH];

    begin_allocating(first, size, count, true);
    call_enter();
    void **done = told ? dvsm_heap_independent_calloc(the_heap, count, size, blocks)
                       : dvsm_independent_calloc(count, size, blocks);
    call_leave();
    for (size_t i = 0; i < count; i++)
        allocated(first + i, done != NULL ? blocks[i] : NULL, size);
}

/* Makes blocks of several sizes, and keeps their array in one more slot. */
void call_comalloc(struct slot *first, size_t count, const size_t *sizes, bool told)
{
    begin_allocating(first, sizes[0], count + 1, true);
    call_enter();
    void **blocks = told ? dvsm_heap_independent_comalloc(the_heap, count, sizes, NULL)
                         : dvsm_independent_comalloc(count, sizes, NULL);
    call_leave();
    for (size_t i = 0; i < count; i++)
        allocated(first + i, blocks != NULL ? blocks[i] : NULL, sizes[i]);
    allocated(first + count, blocks, count * sizeof *blocks);
}

void call_bulk_free(struct slot *first, size_t count)
{
    void *blocks[SLOTS_EACH];

    for (size_t i = 0; i < count; i++) {
        blocks[i] = first[i].state == SLOT_HELD ? first[i].block : NULL;
        if (blocks[i] != NULL)
            first[i].state = SLOT_FREEING;
    }
    call_enter();
    dvsm_bulk_free(blocks, count);
    call_leave();
    for (size_t i = 0; i < count; i++)
        if (first[i].state == SLOT_FREEING)
            first[i].state = SLOT_EMPTY;
}

void call_trim(void)
{
    call_enter();
    dvsm_malloc_trim(0);
    call_leave();
}
