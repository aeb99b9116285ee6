/* scenarios.c - what workers do: each way through the allocator at least once, and at random. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cache/depot.h"
#include "crash/harness.h"
#include "crash/ledger.h"
#include "crash/survive.h"
#include "segment/segment_map.h"
#include "support/failing_backend.h"

struct random_source dice;

/* Where a scenario has one. What it counts is not put back with the region. */
static struct failing_backend *failing;

enum { LARGE_SIZE = 140000, FEW = 12, MANY = 36 };

/* ---- preparing */

static void nothing(void)
{
}

static void hold(size_t first, size_t count, size_t size)
{
    for (size_t i = first; i < first + count; i++)
        call_allocate(own_slot(i), size, BY_MALLOC);
}

static void drop(size_t first, size_t count, size_t step)
{
    for (size_t i = first; i < first + count; i += step)
        call_free(own_slot(i));
}

/* Free chunks of all kinds between blocks in use: small ones, some in trees, a victim. */
static void prepare_holes(void)
{
    static const size_t sizes[] = {24, 40, 72, 250, 300, 800, 1500, 5000};

    for (size_t i = 0; i < 32; i++)
        call_allocate(own_slot(i), sizes[i / 4], BY_MALLOC);
    drop(0, 32, 2);
    call_trim();
    call_free(own_slot(1));
}

/* The class of blocks of 40 bytes, on the CPU that all of this is on. */
static word loaded_word(void)
{
    return lane_word(&the_heap->cache, standin.cpu_id, class_above(chunk_size_for(40)));
}

/* ... and blocks for some more. */
static void prepare_lane_full(void)
{
    hold(0, 62, 40);
    for (size_t i = 62; i-- > FEW && !magazine_is_full(CLASS_EXACT_LAST, loaded_word());)
        call_free(own_slot(i));
    if (!magazine_is_full(CLASS_EXACT_LAST, loaded_word()))
        give_up("the lane is not full");
}

/* A lane without blocks, a depot with magazines in stock. */
static void prepare_stock(void)
{
    void *blocks[140];

    for (int i = 0; i < 140; i++)
        blocks[i] = dvsm_malloc(40);
    for (int i = 0; i < 140; i++)
        dvsm_free(blocks[i]);
    hold(0, MANY, 40);
}

/* Full magazines in stock, and the last trade went the other way than the next: magazines are
 * split. */
static void prepare_split(void)
{
    void *blocks[300];

    for (int i = 0; i < 300; i++)
        blocks[i] = dvsm_malloc(40);
    for (int i = 0; i < 300; i++)
        dvsm_free(blocks[i]);
    hold(0, MANY, 40);
    for (int i = 0; i < 60; i++)
        blocks[i] = dvsm_malloc(40);
    for (int i = 0; i < 60; i++)
        dvsm_free(blocks[i]);
}

static void prepare_coarse(void)
{
    hold(0, 20, 1500);
    drop(0, 6, 1);
}

static void prepare_few(void)
{
    hold(0, 4, 40);
    drop(0, 2, 1);
}

static void prepare_many(void)
{
    hold(0, MANY, 400);
}

static void prepare_large(void)
{
    hold(0, 3, LARGE_SIZE);
    call_free(own_slot(1));
    hold(3, 4, 100);
}

static void prepare_limit(void)
{
    hold(0, 8, 1000);
    hold(8, 4, 30000);
    drop(8, 2, 1);
    dvsm_malloc_set_footprint_limit(dvsm_malloc_footprint());
}

static void prepare_segments(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
    hold(0, 10, 30000);
    drop(1, 8, 1);
}

/* A large block stands between an arena's two segments. */
static void prepare_two_segments(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 90000);
    hold(0, 1, 30000);
    hold(1, 1, 200000);
    hold(2, 6, 30000);
}

/* Free chunks of a few pages each between blocks, a larger one, a victim and a top: all with pages
 * inside that can be given back. */
static void prepare_pages(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
    hold(0, 12, 20000);
    drop(1, 9, 2);
    drop(6, 1, 1);
    hold(1, 1, 6000);
}

static void prepare_punched(void)
{
    prepare_pages();
    call_trim();
}

static void prepare_punched_at_limit(void)
{
    prepare_punched();
    dvsm_malloc_set_footprint_limit(dvsm_malloc_footprint());
}

static void prepare_no_retaining(void)
{
    prepare_segments();
    segment_set_retain(&the_heap->segments, 0);
}

/* Two segments with a hole of two granules between them. What the second begins with is told by
 * `first`: a block in use (0), a free chunk (1), the victim (2), the top (3). */
static void prepare_gap(int first)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 90000);
    hold(0, 2, 25000);
    /* All but 16 bytes, so that no free chunk is left in the first segment. */
    hold(7, 1, region_arena(the_heap->region, 0)->arena.top_size - 24);
    hold(2, 1, 100000); /* a large block: the hole to be */
    hold(3, 2, 25000);
    hold(5, 1, 2000);
    if (first == 2) {
        call_free(own_slot(4));
        hold(6, 1, 40);
        call_free(own_slot(6));
    }
    if (first != 0)
        call_free(own_slot(3));
    if (first == 3)
        drop(4, 2, 1);
    call_free(own_slot(2));
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
}

static void prepare_gap_used(void)
{
    prepare_gap(0);
}

static void prepare_gap_free(void)
{
    prepare_gap(1);
}

static void prepare_gap_victim(void)
{
    prepare_gap(2);
}

static void prepare_gap_top(void)
{
    prepare_gap(3);
}

/* The victim behind a block, 10, in the place of one of the two that were freed, and before 4 or
 * 7. */
static void prepare_victim(void)
{
    hold(0, 9, 600);
    call_free(own_slot(3));
    call_free(own_slot(6));
    hold(10, 1, 200);
}

static void prepare_trim_in_vain(void)
{
    hold(0, 4, 600);
    dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 0);
}

static void prepare_short_of_memory(void)
{
    hold(0, 8, 3000);
    hold(8, 3, LARGE_SIZE);
    drop(8, 2, 1);
    failing_backend_fail(failing, FAILING_COMMIT, 1, ENOMEM, true);
    failing_backend_fail(failing, FAILING_RELEASE, 1, ENOMEM, true);
}

/* ---- acting */

static void act_small(void)
{
    for (size_t i = 40; i < 46; i++)
        call_allocate(own_slot(i), 20 + i * 8, i % 2 == 0 ? BY_MALLOC : BY_HEAP);
    drop(40, 6, 1);
}

static void act_through_holes(void)
{
    call_allocate(own_slot(40), 40, BY_MALLOC);
    call_allocate(own_slot(41), 64, BY_MALLOC);
    call_allocate(own_slot(42), 280, BY_CALLOC);
    call_allocate(own_slot(43), 1200, BY_HEAP);
    call_allocate(own_slot(44), 4000, BY_MALLOC);
    drop(3, 8, 4);
    drop(40, 5, 1);
    drop(1, 30, 2);
}

static void act_pop_and_push(void)
{
    hold(40, 4, 40);
    drop(40, 4, 1);
}

/* One more than a lane holds: a trade, a split. */
static void act_spill(void)
{
    drop(0, FEW, 1);
    hold(0, 3, 40);
}

static void act_split(void)
{
    drop(0, MANY, 1);
    hold(0, MANY, 40);
    drop(0, MANY, 1);
}

static void act_refill(void)
{
    hold(48, 8, 40);
}

static void act_fill_from_arena(void)
{
    for (size_t i = 40; i < 48; i++)
        call_allocate(own_slot(i), 300, BY_MALLOC);
    hold(48, 2, 2000);
}

static void act_trim(void)
{
    call_trim();
    hold(60, 1, 40);
}

static void act_free_and_trim(void)
{
    drop(0, 4, 1);
    call_trim();
}

static void act_grow(void)
{
    hold(40, 4, 30000);
    drop(40, 4, 1);
    call_trim();
}

/* Where the first arena is taken: in another one, made for it. */
static void act_elsewhere(void)
{
    hold(40, 4, 30000);
    hold(44, 4, 100);
    hold(48, 6, 90000);
    drop(40, 14, 1);
}

/* Somebody else's granules between two segments: a segment of its own, later joined from below. */
static void act_segments(void)
{
    hold(20, 3, 40000);
    drop(20, 3, 1);
    drop(0, 10, 1);
    call_trim();
}

/* The older segment becomes one free chunk, and goes. */
static void act_unused_segment(void)
{
    drop(0, 1, 1);
    drop(2, 2, 1);
    call_trim();
}

static void act_large(void)
{
    hold(40, 1, LARGE_SIZE);
    call_resize(own_slot(40), LARGE_SIZE / 2, false);
    call_resize(own_slot(40), LARGE_SIZE, false);
    call_resize(own_slot(40), 3 * LARGE_SIZE, false);
    call_resize(own_slot(40), 1000, false);
    call_aligned(own_slot(41), 1 << 17, LARGE_SIZE);
    call_free(own_slot(0));
    call_free(own_slot(41));
    call_free(own_slot(40));
}

static void act_lazy(void)
{
    call_allocate(own_slot(40), 4 * LARGE_SIZE, BY_CALLOC);
    call_resize(own_slot(40), 2 * LARGE_SIZE, false);
    call_resize(own_slot(40), 6 * LARGE_SIZE, false);
    call_aligned(own_slot(41), 1 << 18, 2 * LARGE_SIZE);
    drop(40, 2, 1);
    hold(42, 2, 30000);
    drop(42, 2, 1);
}

/* Each is in the other's way until they have moved to where there is room behind them. */
static void act_grow_by_turns(void)
{
    for (size_t size = 2 * LARGE_SIZE; size < 5 * LARGE_SIZE; size += LARGE_SIZE / 2)
        for (size_t i = 40; i < 42; i++) {
            if (size == 2 * LARGE_SIZE)
                hold(i, 1, size);
            else
                call_resize(own_slot(i), size, false);
        }
    call_free(own_slot(0));
    drop(40, 2, 1);
}

static void act_resize(void)
{
    call_resize(own_slot(31), 9000, false);
    call_resize(own_slot(31), 12000, false);
    call_resize(own_slot(3), 20, false);
    call_resize(own_slot(7), 90, false);
    call_resize(own_slot(11), 500, false);
    call_resize(own_slot(15), 100, true);
    call_resize(own_slot(19), 900, true);
    call_resize(own_slot(23), 3000, false);
    call_resize(own_slot(27), 1600, true);
    call_resize(own_slot(29), 100, true);
}

static void act_aligned(void)
{
    call_aligned(own_slot(40), 256, 100);
    call_aligned(own_slot(41), 4096, 3000);
    call_allocate(own_slot(42), 70, BY_MEMALIGN);
    call_allocate(own_slot(43), 30, BY_STRDUP);
    drop(40, 4, 1);
}

/* Lanes and their depots have blocks of the class that are not aligned. */
static void prepare_unaligned(void)
{
    prepare_holes();
    hold(40, 6, 110);
    drop(40, 6, 1);
}

/* From lanes, with blocks that go back to the arena first; from runs cut for that, behind a lead;
 * from an arena that grows for them. */
static void act_aligned_cached(void)
{
    call_aligned(own_slot(40), 64, 110);
    call_aligned(own_slot(41), 64, 110);
    call_aligned(own_slot(42), 32, 1100);
    call_aligned(own_slot(43), 4096, 50);
    call_resize(own_slot(43), 120, false);
    hold(44, 2, 30000);
    call_aligned(own_slot(46), 128, 28000);
    drop(40, 7, 1);
}

static void act_close_segment(void)
{
    hold(0, 2, 25000);
    hold(2, 1, 50000);
    hold(3, 2, 25000);
    call_free(own_slot(2));
    drop(3, 2, 1);
    drop(0, 2, 1);
}

/* Fills the gap just so. */
static void act_prepend(void)
{
    hold(40, 1, 100000);
    hold(42, 2, 30000);
    drop(0, 8, 1);
    drop(40, 4, 1);
    call_trim();
}

static void prepare_threshold(void)
{
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 40000);
}

/* As a CPU comes that was not here before, and no arena may be made for it. */
static void prepare_another_cpu(void)
{
    hold(0, 4, 600);
    memset(the_heap->region->arenas.preferred, 0, sizeof the_heap->region->arenas.preferred);
}

/* The functions that are told the heap, and others that are rarely used. */
static void act_given_heap(void)
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

static void act_large_in_place(void)
{
    call_free(own_slot(2));
    hold(40, 1, LARGE_SIZE);
    call_resize(own_slot(40), 4 * LARGE_SIZE, true);
    call_resize(own_slot(40), LARGE_SIZE, true);
    call_bulk_free(own_slot(40), 1);
}

/* A part of it, what a block behind it adds to it, and the whole. */
static void act_into_victim(void)
{
    call_resize(own_slot(10), 300, true);
    call_resize(own_slot(2), 1000, true);
    call_free(own_slot(4));
    call_free(own_slot(7));
    call_resize(own_slot(10), 1200, true);
    call_resize(own_slot(5), 1200, true);
    call_resize(own_slot(8), 100000, false);
}

/* A block that ends where top begins: top does not suffice, and the arena grows behind it. */
static void act_resize_at_top(void)
{
    hold(20, 3, 40000); /* so that top has room for what would be a large block */
    drop(20, 3, 1);
    hold(20, 1, 100000);
    call_resize(own_slot(20), 300000, false);
    call_free(own_slot(20));
}

static void act_trim_in_vain(void)
{
    drop(3, 1, 1);
    drop(0, 3, 1);
}

static void act_short_of_memory(void)
{
    hold(40, 2, 60000);
    hold(42, 1, LARGE_SIZE);
    call_resize(own_slot(10), 3 * LARGE_SIZE, false);
    drop(0, 8, 1);
    call_free(own_slot(10));
    call_trim();
}

/* Cuts from holes by each way there is, grows into them, and lets chunks with holes be merged. */
static void act_punched(void)
{
    hold(40, 1, 9000);
    hold(41, 1, 100);
    call_resize(own_slot(2), 30000, true);
    call_resize(own_slot(11), 26000, true);
    hold(42, 1, 50000);
    call_trim();
    drop(4, 6, 2);
    drop(40, 3, 1);
}

static void act_batch(void)
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

static void act_to_the_limit(void)
{
    hold(40, 3, 60000);
    hold(44, 2, LARGE_SIZE);
    hold(48, 4, 500);
    drop(0, 8, 1);
}

static void act_look(void)
{
    call_enter();
    dvsm_malloc_footprint();
    dvsm_heap_limit(the_heap);
    dvsm_mallinfo();
    dvsm_malloc_usable_size(own_slot(3)->block);
    dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 1 << 16);
    dvsm_mallopt(DVSM_M_GRANULARITY, 1 << 17);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 1 << 18);
    dvsm_malloc_set_footprint_limit((size_t)1 << 30);
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

static void act_look_inside(void)
{
    dvsm_stats_t stats;

    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO); /* where dvsm_malloc_stats() prints */
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

static void act_check(void)
{
    call_enter();
    dvsm_check(the_heap, NULL);
    call_leave();
}

static void act_reap(void)
{
    call_enter();
    dvsm_reap(the_heap);
    call_leave();
}

/* Any call on any slot. */
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

static void prepare_at_random(void)
{
    act_some(150);
}

static void act_at_random(void)
{
    act_some(25);
}

/* All calls of the survivor's are one to the ledger: a block that it has meanwhile may be left. */
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

/* ---- others */

static void hold_first_arena(void)
{
    struct arena_hold held;

    arenas_enter_index(&the_heap->arenas, &held, 0);
    raise(SIGSTOP);
}

/* ... and who waited for it did in vain. */
static void hold_stuck_arena(void)
{
    struct arena_hold held = {0};

    arenas_enter_index(&the_heap->arenas, &held, 0);
    held.slot->stuck = 1;
    raise(SIGSTOP);
}

static void act_free_remotely(void)
{
    drop(0, 6, 1);
    call_bulk_free(own_slot(6), 2);
}

/* Blocks on the first arena's list, that its next holder is to free; it left in a hurry. */
static void prepare_remote(void)
{
    struct arena_hold held = {0};

    hold(0, 8, 600);
    hold(8, 2, LARGE_SIZE);
    hold(10, 2, 40000);
    arenas_enter_index(&the_heap->arenas, &held, 0);
    drop(0, 7, 2);
    drop(1, 1, 1);
    drop(8, 4, 1);
    lock_release(&held.slot->lock);
}

static void act_after_remote(void)
{
    hold(40, 2, 600);
    call_free(own_slot(3));
    drop(40, 2, 1);
}

static struct lane *this_lane(void)
{
    return &the_heap->region->cache.lanes[standin.cpu_id];
}

static bool lanes_are_locked(void)
{
    return the_heap->region->cache.mode == CACHE_LOCKED;
}

static void hold_lane(void)
{
    void *former;

    if (lanes_are_locked())
        brief_acquire(&this_lane()->lock, &former);
    raise(SIGSTOP);
}

/* Two arenas; the first, which is to be asked, has nothing to give unless it grows. */
static void prepare_two_arenas(void)
{
    struct arena_table *table = &the_heap->region->arenas;
    struct arena_hold held;

    hold(0, 1, 600);
    arenas_enter_index(&the_heap->arenas, &held, 0);
    hold(1, 1, 40000);
    arenas_leave(&the_heap->arenas, &held);
    for (size_t i = 0; i < sizeof table->preferred / sizeof *table->preferred; i++)
        table->preferred[i] = 1;
    call_trim();
    hold(2, 1, region_arena(the_heap->region, 0)->arena.top_size - 24);
}

/* ---- where an earlier worker died */

static const struct segment_map *the_map(void)
{
    return the_heap->segments.map;
}

static const struct arena *first_arena(void)
{
    return &region_arena(the_heap->region, 0)->arena;
}

/* The one for blocks of 40 bytes. */
static const struct depot *a_depot(void)
{
    return depot_of(&the_heap->cache, class_above(chunk_size_for(40)));
}

static bool in_arena(void)
{
    return first_arena()->journal.count > 2;
}

static bool with_pending(void)
{
    return first_arena()->pending.bytes != 0 && the_map()->rewriting.count == 0;
}

static bool in_work_off(void)
{
    return region_arena(the_heap->region, 0)->reaping != 0 && first_arena()->journal.count > 2;
}

static bool in_taking_off(void)
{
    const struct arena_slot *slot = region_arena(the_heap->region, 0);

    return slot->reaping != 0 && slot->reaping == slot->remote;
}

static bool in_map(void)
{
    return the_map()->rewriting.count > 2 && the_map()->journal.count > 2;
}

static bool in_release(void)
{
    return the_map()->releasing.count != 0;
}

static bool in_punching(void)
{
    return the_map()->punching.count != 0 && the_map()->journal.count == 0;
}

static bool in_settling(void)
{
    return segment_memory(the_map(), (struct granule_run){0, the_map()->used}).unsettled;
}

static bool in_filling(void)
{
    return a_depot()->transit_new != 0 && first_arena()->journal.count > 1;
}

static bool in_trade(void)
{
    return a_depot()->transit_old != 0 && a_depot()->log.count == 0;
}

static bool in_shrinking(void)
{
    return a_depot()->made == 0 && a_depot()->units != 0;
}

static bool in_making(void)
{
    return the_heap->region->arenas.lock.mutex.__data.__lock != 0 && the_map()->journal.count > 0;
}

/* In locked mode; without locks on lanes, before anything. */
static bool in_lane(void)
{
    return !lanes_are_locked() || this_lane()->lock != 0;
}

/* Little in stock, but several magazines that were made. */
static void prepare_magazines(void)
{
    struct fault fault = {0};
    size_t count = 3 * magazine_capacity(CLASS_EXACT_LAST);
    void *last = NULL;

    for (size_t i = 0; i < count; i++) {
        void **block = dvsm_malloc(40);

        *block = last;
        last = block;
    }
    while (last != NULL) {
        void *next = *(void **)last;

        dvsm_free(last);
        last = next;
    }
    stock_drain(&the_heap->cache, class_above(chunk_size_for(40)), SIZE_MAX, &fault);
}

static void take_units(unsigned class, size_t until)
{
    struct cache *cache = &the_heap->cache;

    if (!depot_enter(cache, class))
        give_up("the depot is not to be had");
    while (cache->table->room == 0 ||
           ((struct magazine_granule *)cache->table->room)->unused < until) {
        if (!place_take(cache, class))
            give_up("no unit");
        depot_make_magazines(depot_of(cache, class), class);
    }
    depot_leave(depot_of(cache, class));
}

/* The magazines' granule is used up but for the last unit, by two classes that hold nothing; the
 * first blocks of two others were had before. */
static void prepare_units(void)
{
    struct cache *cache = &the_heap->cache;

    prepare_few();
    take_units(class_above(chunk_size_for(600)), UNITS - 3);
    take_units(class_above(chunk_size_for(700)), UNITS - 1);
    word_show(&depot_of(cache, class_above(chunk_size_for(500)))->demand, 2);
    word_show(&depot_of(cache, class_above(chunk_size_for(2000)))->demand, 2);
}

/* Most units came back. */
static void prepare_units_given(void)
{
    prepare_units();
    depot_shrink(&the_heap->cache, class_above(chunk_size_for(700)));
}

static void act_units(void)
{
    hold(40, 1, 500);
    hold(41, 1, 2000);
    depot_shrink(&the_heap->cache, class_above(chunk_size_for(700)));
}

/* Granules with holes are given back. */
static void act_give_holes(void)
{
    drop(0, 12, 1);
    call_trim();
}

static void act_large_once(void)
{
    hold(40, 1, LARGE_SIZE);
}

static void act_small_cached(void)
{
    hold(40, 2, 40);
    drop(40, 2, 1);
}

/* More than a lane holds. */
static void act_exhaust(void)
{
    hold(0, SLOTS_EACH, 40);
}

#define UNCACHED .options = {.cache_bytes = SIZE_MAX}
#define ONE_ARENA .options = {.cache_bytes = SIZE_MAX, .arenas = 1}

const struct scenario scenarios[] = {
    {"small", UNCACHED, nothing, act_small},
    {"holes", UNCACHED, prepare_holes, act_through_holes},
    {"pop-push", .prepare = prepare_stock, .act = act_pop_and_push},
    {"spill", .prepare = prepare_lane_full, .act = act_spill},
    {"split", .prepare = prepare_split, .act = act_split},
    {"refill", .prepare = prepare_stock, .act = act_refill},
    {"fill", .prepare = prepare_holes, .act = act_fill_from_arena},
    {"coarse", .prepare = prepare_coarse, .act = act_fill_from_arena},
    {"drain", .prepare = prepare_stock, .act = act_trim},
    {"free-drain", .prepare = prepare_many, .act = act_free_and_trim},
    {"first", .prepare = nothing, .act = act_small},
    {"grow", UNCACHED, prepare_many, act_grow},
    {"segments", ONE_ARENA, prepare_segments, act_segments},
    {"release", ONE_ARENA, prepare_no_retaining, act_segments},
    {"punch", ONE_ARENA, prepare_pages, act_trim},
    {"punched", ONE_ARENA, prepare_punched, act_punched},
    {"punched-limit", ONE_ARENA, prepare_punched_at_limit, act_punched},
    {"give-holes", ONE_ARENA, prepare_punched, act_give_holes},
    {"units", .prepare = prepare_units, .act = act_units},
    {"units-given", .prepare = prepare_units_given, .act = act_units},
    {"after-punch", ONE_ARENA, prepare_pages, act_punched, .act_before = act_trim,
     .died_when = in_punching},
    {"unused-segment", ONE_ARENA, prepare_two_segments, act_unused_segment},
    {"large", UNCACHED, prepare_large, act_large},
    {"large-cached", .prepare = prepare_large, .act = act_large},
    {"lazy", .options = {.flags = DVSM_LAZY}, .prepare = prepare_large, .act = act_lazy},
    {"grow-by-turns", .prepare = prepare_large, .act = act_grow_by_turns},
    {"resize", UNCACHED, prepare_holes, act_resize},
    {"resize-cached", .prepare = prepare_holes, .act = act_resize},
    {"resize-at-top", UNCACHED, prepare_few, act_resize_at_top},
    {"aligned", UNCACHED, prepare_holes, act_aligned},
    {"aligned-cached", .prepare = prepare_unaligned, .act = act_aligned_cached},
    {"batch", UNCACHED, prepare_holes, act_batch},
    {"batch-cached", .prepare = prepare_holes, .act = act_batch},
    {"new-segment", UNCACHED, prepare_threshold, act_close_segment},
    {"prepend-used", UNCACHED, prepare_gap_used, act_prepend},
    {"prepend-free", UNCACHED, prepare_gap_free, act_prepend},
    {"prepend-victim", UNCACHED, prepare_gap_victim, act_prepend},
    {"prepend-top", UNCACHED, prepare_gap_top, act_prepend},
    {"large-in-place", UNCACHED, prepare_large, act_large_in_place},
    {"into-victim", UNCACHED, prepare_victim, act_into_victim},
    {"trim-in-vain", UNCACHED, prepare_trim_in_vain, act_trim_in_vain},
    {"no-memory", UNCACHED, prepare_short_of_memory, act_short_of_memory, .failing = true},
    {"one-arena", .options = {.cache_bytes = SIZE_MAX, .arenas = 1}, .prepare = prepare_another_cpu,
     .act = act_small},
    {"given-heap", .prepare = prepare_holes, .act = act_given_heap},
    {"limit", .prepare = prepare_limit, .act = act_to_the_limit},
    {"look", .prepare = prepare_holes, .act = act_look, .looks = true},
    {"look-inside", UNCACHED, prepare_few, act_look_inside, .looks = true},
    {"check", .prepare = nothing, .act = act_check, .looks = true},
    {"second-arena", UNCACHED, prepare_holes, act_elsewhere, .hold = hold_first_arena},
    {"second-arena-cached", .prepare = prepare_stock, .act = act_fill_from_arena,
     .hold = hold_first_arena},
    {"remote", UNCACHED, prepare_large, act_free_remotely, .hold = hold_stuck_arena},
    {"remote-small", UNCACHED, prepare_many, act_free_remotely, .hold = hold_stuck_arena},
    {"work-off", UNCACHED, prepare_remote, act_after_remote},
    {"after-work-off", UNCACHED, prepare_remote, act_after_remote, .act_before = act_after_remote,
     .died_when = in_work_off},
    {"after-taking-off", UNCACHED, prepare_remote, act_after_remote, .act_before = act_after_remote,
     .died_when = in_taking_off},
    {"waiting", ONE_ARENA, prepare_holes, act_small, .hold = hold_first_arena},
    {"next-arena", .options = {.arenas = 2}, .prepare = prepare_two_arenas, .act = act_refill},
    {"lane-held", .prepare = prepare_stock, .act = act_pop_and_push, .hold = hold_lane},
    {"after-lane", .prepare = prepare_stock, .act = act_pop_and_push,
     .act_before = act_pop_and_push, .died_when = in_lane},
    {"after-arena", UNCACHED, prepare_holes, act_small, .act_before = act_through_holes,
     .died_when = in_arena},
    {"after-pending", UNCACHED, prepare_holes, act_small, .act_before = act_large_once,
     .died_when = with_pending},
    {"after-map", UNCACHED, prepare_holes, act_large_once, .act_before = act_large_once,
     .died_when = in_map},
    {"after-release", UNCACHED, prepare_many, act_large_once, .act_before = act_grow,
     .died_when = in_release},
    {"after-settling", ONE_ARENA, prepare_no_retaining, act_large_once, .act_before = act_segments,
     .died_when = in_settling},
    {"after-filling", .prepare = prepare_holes, .act = act_small_cached,
     .act_before = act_small_cached, .died_when = in_filling},
    {"after-trade", .prepare = prepare_lane_full, .act = act_exhaust, .act_before = act_spill,
     .died_when = in_trade},
    {"after-draining", .prepare = prepare_stock, .act = act_small_cached, .act_before = act_trim,
     .died_when = in_filling},
    {"after-shrinking", .prepare = prepare_magazines, .act = act_small_cached,
     .act_before = act_trim, .died_when = in_shrinking},
    {"after-making", UNCACHED, prepare_holes, act_large_once, .hold = hold_first_arena,
     .act_before = act_elsewhere, .died_when = in_making},
    {"reap-arena", UNCACHED, prepare_holes, act_reap, .act_before = act_through_holes,
     .died_when = in_arena},
    {"reap-map", UNCACHED, prepare_holes, act_reap, .act_before = act_large_once,
     .died_when = in_map},
    {"reap-trade", .prepare = prepare_lane_full, .act = act_reap, .act_before = act_spill,
     .died_when = in_trade},
    {"random", .prepare = prepare_at_random, .act = act_at_random},
    {"random-uncached", UNCACHED, prepare_at_random, act_at_random},
};
const size_t scenario_count = sizeof scenarios / sizeof *scenarios;

/* ---- the heap */

static struct dvsm_heap *first_default;

_Thread_local struct standin standin;

void use_standin(struct dvsm_heap *which)
{
    char *thread;

    if (which->region->cache.mode != CACHE_SEQUENCES)
        return;
    __asm__("movq %%fs:0, %0" : "=r"(thread));
    which->cache.view.rseq = (char *)&standin - thread;
    heap_default_view = which->cache.view;
}

void scenario_begin(const struct scenario *scenario, uint64_t seed)
{
    dvsm_options options = scenario->options;

    place.scenario = scenario->name;
    place.seed = seed;
    place.step = place.second = 0;
    dice.state = seed;
    options.size = sizeof options;
    options.reserve = (size_t)64 << 20;
    if (scenario->failing) {
        failing = failing_backend_new(&dvsm_backend_memfd);
        options.backend = &failing->backend;
    }
    the_heap = dvsm_heap_create(&options);
    if (the_heap == NULL)
        give_up("no heap");
    if (first_default == NULL)
        first_default = atomic_load(&heap_the_default);
    atomic_store(&heap_the_default, the_heap);
    heap_default_view = the_heap->cache.view;
    heap_default_locked = the_heap->cache.locked;
    use_standin(the_heap);
    ledger_clear();
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 128 << 10);
    scenario->prepare();
}

void scenario_end(void)
{
    struct dvsm_heap *old = the_heap;

    the_heap = NULL;
    heap_default_view = heap_default_locked = (struct lane_view){0};
    atomic_store(&heap_the_default, first_default);
    heap_unmake(old);
    if (failing != NULL)
        failing_backend_delete(failing);
    failing = NULL;
}
