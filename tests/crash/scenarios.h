/* scenarios.h - the functions that scenarios.c puts together, by subject. The survivor calls a
 * prepare_ function, unstepped; the worker calls an act_ function; another process calls a hold_
 * function; an in_ function tells whether a worker has come to where it is to die.
 */
#ifndef DVSM_TESTS_CRASH_SCENARIOS_H
#define DVSM_TESTS_CRASH_SCENARIOS_H

#include "crash/harness.h"
#include "crash/ledger.h"
#include "support/failing_backend.h"

enum { LARGE_SIZE = 140000, FEW = 12, MANY = 36 };

/* The failing backend, if the scenario has one. Its counts are not put back with the region. */
extern struct failing_backend *failing;

/* Puts blocks of `size` bytes into `count` of the worker's slots, from `first` on. */
static inline void hold(size_t first, size_t count, size_t size)
{
    for (size_t i = first; i < first + count; i++)
        call_allocate(own_slot(i), size, BY_MALLOC);
}

/* Frees every `step`th of such slots' blocks. */
static inline void drop(size_t first, size_t count, size_t step)
{
    for (size_t i = first; i < first + count; i += step)
        call_free(own_slot(i));
}

void nothing(void);

/* scenarios_arena.c: arenas, segments and large blocks */
void prepare_holes(void);
void prepare_few(void);
void prepare_many(void);
void prepare_large(void);
void prepare_limit(void);
void prepare_segments(void);
void prepare_two_segments(void);
void prepare_pages(void);
void prepare_punched(void);
void prepare_punched_at_limit(void);
void prepare_no_retaining(void);
void prepare_gap_used(void);
void prepare_gap_free(void);
void prepare_gap_victim(void);
void prepare_gap_top(void);
void prepare_victim(void);
void prepare_trim_in_vain(void);
void prepare_short_of_memory(void);
void act_small(void);
void act_through_holes(void);
void act_trim(void);
void act_free_and_trim(void);
void act_grow(void);
void act_elsewhere(void);
void act_segments(void);
void act_unused_segment(void);
void act_large(void);
void act_lazy(void);
void act_grow_by_turns(void);
void act_resize(void);
void act_aligned(void);
void act_close_segment(void);
void act_prepend(void);
void prepare_threshold(void);
void prepare_another_cpu(void);
void act_large_in_place(void);
void act_large_grows(void);
void act_into_victim(void);
void act_resize_at_top(void);
void act_trim_in_vain(void);
void act_short_of_memory(void);
void act_punched(void);
void act_to_the_limit(void);
void act_give_holes(void);
void act_large_once(void);

/* scenarios_cache.c: lanes, depots and magazines */
void prepare_lane_full(void);
void prepare_stock(void);
void prepare_split(void);
void prepare_coarse(void);
void act_pop_and_push(void);
void act_spill(void);
void act_split(void);
void act_refill(void);
void act_fill_from_arena(void);
void prepare_unaligned(void);
void act_aligned_cached(void);
void prepare_magazines(void);
void prepare_units(void);
void prepare_units_given(void);
void act_units(void);
void act_small_cached(void);
void act_exhaust(void);

/* scenarios_calls.c: functions seldom used, calls at random */
void act_given_heap(void);
void act_batch(void);
void act_look(void);
void act_roots(void);
void act_look_inside(void);
void act_check(void);
void act_reap(void);
void prepare_at_random(void);
void act_at_random(void);

/* scenarios_others.c: what others hold, and where an earlier worker died */
void hold_first_arena(void);
void hold_stuck_arena(void);
void act_free_remotely(void);
void prepare_remote(void);
void act_after_remote(void);
void hold_lane(void);
void prepare_two_arenas(void);
bool in_arena(void);
bool with_pending(void);
bool in_work_off(void);
bool in_taking_off(void);
bool in_map(void);
bool in_roots(void);
bool in_release(void);
bool in_punching(void);
bool in_settling(void);
bool in_filling(void);
bool in_exchange(void);
bool in_shrinking(void);
bool in_making(void);
bool in_lane(void);

#endif
