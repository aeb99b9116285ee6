/* scenarios_calls.c - functions that are seldom used, and calls at random. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "crash/scenarios.h"
#include "crash/survive.h"

/* Calls the functions that take a heap, and others that are rarely used. */
void act_given_heap(void)
{
    static const size_t sizes[] = {30, 500};
    struct slot *slot = own_slot(40);

    for (enum how how = BY_HEAP_CALLOC; how < BY_HOWS; how++)
        call_allocate(slot + how, 200, how);
    call_resize_by(slot + BY_POSIX, 900, RESIZE_ARRAY);
    call_resize_by(slot + BY_HEAP_POSIX, 900, RESIZE_HEAP);
    call_resize_by(slot + BY_HEAP_REALLOC, 900, RESIZE_HEAP_ARRAY);
    call_free_by(slot + BY_PVALLOC, FREE_ALIGNED);
    call_free_by(slot + BY_HEAP_POSIX, FREE_SIZED);
    for (enum how how = BY_HEAP_CALLOC; how < BY_HOWS; how++)
        call_free(slot + how);
    call_independent(slot, 3, 48, true);
    call_comalloc(slot + 3, 2, sizes, true);
    drop(40, 6, 1);
}

void act_batch(void)
{
    static const size_t sizes[] = {30, 500, 70};

    call_comalloc(own_slot(56), 3, sizes, false);
    call_bulk_free(own_slot(56), 4);
    call_independent(own_slot(40), 6, 48, false);
    call_independent(own_slot(48), 3, 700, false);
    call_bulk_free(own_slot(40), 6);
    call_bulk_free(own_slot(0), 16);
    call_bulk_free(own_slot(16), 16);
}

void act_look(void)
{
    call_enter();
    dvsm_malloc_footprint();
    dvsm_heap_limit(the_heap);
    dvsm_mallinfo();
    dvsm_malloc_usable_size(own_slot(3)->block);
    dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 1 << 16);
    dvsm_mallopt(DVSM_M_GRANULARITY, 1 << 17);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 1 << 18);
    dvsm_mallopt(DVSM_M_RETAIN, 1 << 25);
    dvsm_malloc_set_footprint_limit((size_t)1 << 30);
    call_leave();
}

static void *make_root(dvsm_heap *heap, void *context)
{
    return heap != NULL ? context : NULL;
}

/* The first root takes memory for the table; one changes, one goes and leaves its entry to a new
 * one. */
void act_roots(void)
{
    void *block = own_slot(3)->block, *former;

    call_enter();
    dvsm_root_set(the_heap, "first", block);
    dvsm_root_swap(the_heap, "second", block, &former);
    dvsm_root_set(the_heap, "first", own_slot(4)->block);
    dvsm_root_set(the_heap, "first", NULL);
    dvsm_root_get_or_init(the_heap, "third", make_root, block);
    dvsm_root_get(the_heap, "second");
    call_leave();
}

static void see_chunk(const dvsm_chunk *chunk, void *context)
{
    (void)chunk, (void)context;
}

static void see_memory(void *start, void *end, size_t used_bytes, void *context)
{
    (void)start, (void)end, (void)used_bytes, (void)context;
}

void act_look_inside(void)
{
    dvsm_stats_t stats;

    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO); /* dvsm_malloc_stats() prints there */
    call_enter();
    dvsm_malloc_stats();
    dvsm_malloc_max_footprint();
    dvsm_malloc_footprint_limit();
    dvsm_heap_footprint(the_heap);
    dvsm_heap_max_footprint(the_heap);
    dvsm_heap_set_limit(the_heap, (size_t)1 << 30);
    dvsm_heap_mallinfo(the_heap);
    dvsm_stats(the_heap, &stats);
    dvsm_walk(the_heap, see_chunk, NULL);
    dvsm_malloc_inspect_all(see_memory, NULL);
    dvsm_heap_trim(the_heap, 0);
    call_leave();
}

void act_check(void)
{
    call_enter();
    dvsm_check(the_heap, NULL);
    call_leave();
}

void act_reap(void)
{
    call_enter();
    dvsm_reap(the_heap);
    call_leave();
}

/* Makes random calls on random slots. */
void act_some(size_t calls)
{
    static const size_t sizes[] = {24, 40, 100, 250, 700, 1500, 6000, 40000, 90000};

    for (size_t i = 0; i < calls; i++) {
        struct slot *slot = own_slot(random_below(&dice, 48));
        size_t size = 1 + random_below(&dice, sizes[random_below(&dice, 9)]);

        if (slot->state == SLOT_EMPTY && random_once_in(&dice, 10))
            call_aligned(slot, (size_t)32 << random_below(&dice, 8), size);
        else if (slot->state == SLOT_EMPTY)
            call_allocate(slot, size, random_once_in(&dice, 8) ? BY_HEAP : BY_MALLOC);
        else if (random_once_in(&dice, 4))
            call_resize(slot, size, random_once_in(&dice, 3));
        else if (random_once_in(&dice, 12))
            call_bulk_free(own_slot(random_below(&dice, 40)), 8);
        else if (random_once_in(&dice, 20))
            call_trim();
        else
            call_free(slot);
    }
}

void prepare_at_random(void)
{
    act_some(150);
}

void act_at_random(void)
{
    act_some(25);
}

/* The ledger counts all calls of the survivor as one: they may leave the block that it has
 * meanwhile. */
void act_as_survivor(void)
{
    struct slot *mine = own_slot(0);

    if (place.variant == FREE_FIRST) {
        touch_first(FREE_FIRST);
        return;
    }
    mine->size = 0;
    mine->extra = 1;
    mine->state = SLOT_ALLOCATING;
    call_enter();
    touch_first(place.variant);
    if (place.variant == CHECK_FIRST)
        dvsm_check(the_heap, NULL);
    call_leave();
    mine->state = SLOT_EMPTY;
}
