/* scenarios_others.c - what other processes hold meanwhile, and where an earlier worker died. */
#define _GNU_SOURCE
#include <signal.h>

#include "cache/depot.h"
#include "crash/scenarios.h"
#include "segment/segment_map.h"

void hold_first_arena(void)
{
    struct arena_hold held;

    arenas_enter_index(&the_heap->arenas, &held, 0);
    raise(SIGSTOP);
}

/* Holds the first arena, which another process has already waited for in vain. */
void hold_stuck_arena(void)
{
    struct arena_hold held = {0};

    arenas_enter_index(&the_heap->arenas, &held, 0);
    held.slot->stuck = 1;
    raise(SIGSTOP);
}

void act_free_remotely(void)
{
    drop(0, 6, 1);
    call_bulk_free(own_slot(6), 2);
}

/* The first arena's list has blocks that its next holder is to free: the last one left without
 * freeing them. */
void prepare_remote(void)
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

void act_after_remote(void)
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
    return the_heap->region->cache.mode == LANES_LOCKED;
}

void hold_lane(void)
{
    void *former;

    if (lanes_are_locked())
        word_lock_acquire(&this_lane()->lock, &former);
    raise(SIGSTOP);
}

/* Makes two arenas. The first one, which will be asked, has nothing to give unless it grows. */
void prepare_two_arenas(void)
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

static const struct segment_map *the_map(void)
{
    return the_heap->segments.map;
}

static const struct arena *first_arena(void)
{
    return &region_arena(the_heap->region, 0)->arena;
}

/* The depot for blocks of 40 bytes. */
static const struct depot *a_depot(void)
{
    return depot_of(&the_heap->cache, class_above(chunk_size_for(40)));
}

bool in_arena(void)
{
    return first_arena()->journal.count > 2;
}

bool with_pending(void)
{
    return first_arena()->pending.bytes != 0 && the_map()->rewriting.count == 0;
}

bool in_work_off(void)
{
    return region_arena(the_heap->region, 0)->reaping != 0 && first_arena()->journal.count > 2;
}

bool in_taking_off(void)
{
    const struct arena_slot *slot = region_arena(the_heap->region, 0);

    return slot->reaping != 0 && slot->reaping == slot->remote;
}

bool in_roots(void)
{
    const struct root_table *table = &the_heap->region->roots;

    return table->committed != 0 && table->used == 0 && table->roots[0].state != 0;
}

bool in_map(void)
{
    return the_map()->rewriting.count > 2 && the_map()->journal.count > 2;
}

bool in_release(void)
{
    return the_map()->releasing.count != 0;
}

bool in_punching(void)
{
    return the_map()->punching.count != 0 && the_map()->journal.count == 0;
}

bool in_settling(void)
{
    return segment_memory(the_map(), (struct granule_run){0, the_map()->used}).unsettled;
}

bool in_filling(void)
{
    return a_depot()->transit_new != 0 && first_arena()->journal.count > 1;
}

bool in_exchange(void)
{
    return a_depot()->transit_old != 0 && a_depot()->log.count == 0;
}

bool in_shrinking(void)
{
    return a_depot()->made == 0 && a_depot()->units != 0;
}

bool in_making(void)
{
    return the_heap->region->arenas.lock.mutex.__data.__lock != 0 && the_map()->journal.count > 0;
}

/* Whether a lane's lock is held; always true if lanes have no locks. */
bool in_lane(void)
{
    return !lanes_are_locked() || this_lane()->lock != 0;
}
