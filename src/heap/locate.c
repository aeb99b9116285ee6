/* locate.c - the heap that an address lies in.
 *
 * Four guesses are tried: the default heap; the heap that this thread found last; the one that was
 * last found at such an address; and a search in the index, which has the bases of all heaps in
 * ascending order. Each guess is checked against the heap's own bounds (heap_holds()), so it may be
 * wrong. If all fail, the whole table is looked through, and that answer is final.
 *
 * There are two copies of the index. One is read; the other is written anew when a heap comes or
 * goes, and then takes the first one's place by one store. So nobody reads a copy that is just
 * being written, unless two heaps come or go meanwhile. A child that another thread forked in the
 * middle of a change has a whole copy.
 *
 * One thread at a time writes. Nobody waits for it: a thread that finds a writer at work has set
 * `stale`, and the writer begins once more. `writer` holds the writer's process id, so a parent's
 * mark means nothing in a child.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <unistd.h>

#include "base/bits.h"
#include "heap/heap.h"

struct heap_index {
    atomic_size_t count;
    atomic_uintptr_t base[HEAPS_MOST];
    _Atomic(uint16_t) slot[HEAPS_MOST];
};

static struct heap_index copies[2];
static atomic_uint current;   /* the copy that is read */
static atomic_uint stale;     /* 1: a heap came or went since the last change was begun */
static _Atomic(pid_t) writer; /* the process that has a thread at work on the other copy; 0: none */

/* The slot of the heap that was last found at a granule, by a hash of the granule's number. */
enum { HINT_BITS = 12 };
static _Atomic(uint16_t) hints[1 << HINT_BITS];

__thread struct dvsm_heap *heap_last;

/* ---- writing --------------------------------------------------------------------------------- */

/* The heap's base; 0: it is not live. */
static uintptr_t base_of(const struct dvsm_heap *heap)
{
    size_t span = atomic_load_explicit(&heap->span, memory_order_acquire);

    return span != 0 ? atomic_load_explicit(&heap->base, memory_order_relaxed) : 0;
}

static void put(struct heap_index *index, size_t i, uintptr_t base, size_t slot)
{
    atomic_store_explicit(&index->base[i], base, memory_order_relaxed);
    atomic_store_explicit(&index->slot[i], (uint16_t)slot, memory_order_relaxed);
}

static uintptr_t base_at(const struct heap_index *index, size_t i)
{
    return atomic_load_explicit(&index->base[i], memory_order_relaxed);
}

static size_t slot_at(const struct heap_index *index, size_t i)
{
    return atomic_load_explicit(&index->slot[i], memory_order_relaxed) % HEAPS_MOST;
}

static void insert(struct heap_index *index, size_t count, uintptr_t base, size_t slot)
{
    size_t i = count;

    for (; i > 0 && base_at(index, i - 1) > base; i--)
        put(index, i, base_at(index, i - 1), slot_at(index, i - 1));
    put(index, i, base, slot);
}

/* A set of slots; it must be small, because it is on the stack. */
struct slot_set {
    size_t words[HEAPS_MOST / SIZE_BITS];
};

static bool has(const struct slot_set *set, size_t slot)
{
    return (set->words[slot / SIZE_BITS] >> slot % SIZE_BITS & 1) != 0;
}

static void add(struct slot_set *set, size_t slot)
{
    set->words[slot / SIZE_BITS] |= (size_t)1 << slot % SIZE_BITS;
}

/* Copies the heaps that are still live, in their order, then inserts the new ones. */
static void rewrite(struct heap_index *to, const struct heap_index *from)
{
    struct slot_set there = {{0}};
    size_t count = 0, old = atomic_load(&from->count), used = registry_used();

    for (size_t i = 0; i < old; i++) {
        size_t slot = slot_at(from, i);
        uintptr_t base = base_of(registry_slot(slot));

        if (base == base_at(from, i) && !has(&there, slot)) {
            add(&there, slot);
            put(to, count++, base, slot);
        }
    }
    for (size_t slot = 0; slot < used; slot++) {
        uintptr_t base = has(&there, slot) ? 0 : base_of(registry_slot(slot));

        if (base != 0)
            insert(to, count++, base, slot);
    }
    atomic_store(&to->count, count);
}

/* False: another thread of this process is writing, or a call that this signal handler interrupted
 * is. */
static bool begin(void)
{
    pid_t self = getpid(), found = atomic_load(&writer);

    return found != self && atomic_compare_exchange_strong(&writer, &found, self);
}

void locate_update(void)
{
    atomic_store(&stale, 1);
    while (atomic_load(&stale) != 0 && begin()) {
        unsigned now = atomic_load(&current) & 1;

        atomic_store(&stale, 0);
        rewrite(&copies[!now], &copies[now]);
        atomic_store(&current, !now);
        atomic_store(&writer, 0);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The heap with the highest base that is not above the address. No branch depends on the
 * comparison: for a ring of heaps such a branch would be mispredicted half the time. */
static struct dvsm_heap *search(uintptr_t address)
{
    const struct heap_index *index =
        &copies[atomic_load_explicit(&current, memory_order_acquire) & 1];
    size_t n = atomic_load_explicit(&index->count, memory_order_relaxed), first = 0;

    while (n > 1) {
        size_t half = n / 2;

        first += half & -(size_t)(base_at(index, first + half) <= address);
        n -= half;
    }
    return registry_slot(slot_at(index, first));
}

static struct dvsm_heap *look_through(const void *address)
{
    size_t used = registry_used();

    for (size_t i = 0; i < used; i++)
        if (heap_holds(registry_slot(i), address)) {
            if (atomic_load(&stale) != 0) /* a fork left the writer behind */
                locate_update();
            return registry_slot(i);
        }
    return NULL;
}

/* Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4): the upper bits of a product. */
static _Atomic(uint16_t) *hint_for(uintptr_t address)
{
    uint32_t product = (uint32_t)(address >> GRANULE_SHIFT) * (uint32_t)0x9E3779B9;

    return &hints[product >> (32 - HINT_BITS)];
}

static NOINLINE struct dvsm_heap *find(const void *address, _Atomic(uint16_t) *hint)
{
    struct dvsm_heap *heap = search((uintptr_t)address);

    if (unlikely(!heap_holds(heap, address)))
        heap = look_through(address);
    if (heap == NULL)
        return NULL;
    atomic_store_explicit(hint, (uint16_t)(heap - registry_slot(0)), memory_order_relaxed);
    return heap_last = heap;
}

struct dvsm_heap *heap_of(const void *block)
{
    struct dvsm_heap *heap = atomic_load_explicit(&heap_the_default, memory_order_acquire);

    if (likely(heap != NULL && heap_holds(heap, block)))
        return heap;
    heap = heap_last;
    if (likely(heap != NULL && heap_holds(heap, block)))
        return heap;

    _Atomic(uint16_t) *hint = hint_for((uintptr_t)block);

    heap = registry_slot(atomic_load_explicit(hint, memory_order_relaxed));
    return likely(heap_holds(heap, block)) ? heap_last = heap : find(block, hint);
}
