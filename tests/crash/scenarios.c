/* scenarios.c - what workers do: each way through the allocator at least once, and random calls;
 * and the heap of a scenario.
 */
#define _GNU_SOURCE
#include "crash/scenarios.h"

struct random_source dice;
struct failing_backend *failing;

void nothing(void)
{
}

#define UNCACHED .options = {.cache_bytes = SIZE_MAX}
#define HARDENED .options = {.flags = DVSM_HARDEN}
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
    {"roots", .prepare = prepare_holes, .act = act_roots},
    {"after-root", .prepare = prepare_holes, .act = act_roots, .act_before = act_roots,
     .died_when = in_roots},
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
    {"after-exchange", .prepare = prepare_lane_full, .act = act_exhaust, .act_before = act_spill,
     .died_when = in_exchange},
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
    {"reap-exchange", .prepare = prepare_lane_full, .act = act_reap, .act_before = act_spill,
     .died_when = in_exchange},
    {"hardened", HARDENED, .prepare = nothing, .act = act_small},
    {"hardened-resize", HARDENED, .prepare = prepare_holes, .act = act_resize},
    {"hardened-large", HARDENED, .prepare = prepare_large, .act = act_large_grows},
    {"hardened-aligned", HARDENED, .prepare = prepare_holes, .act = act_aligned},
    {"hardened-batch", HARDENED, .prepare = prepare_holes, .act = act_batch},
    {"hardened-random", HARDENED, .prepare = prepare_at_random, .act = act_at_random},
    {"hardened-uncached", .options = {.flags = DVSM_HARDEN, .cache_bytes = SIZE_MAX},
     .prepare = prepare_at_random, .act = act_at_random},
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

    if (which->region->cache.mode != LANES_SEQUENCES)
        return;
    __asm__("movq %%fs:0, %0" : "=r"(thread));
    which->cache.view.rseq = which->cache.freeing.rseq = (char *)&standin - thread;
    view_show(which);
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
    view_show(the_heap);
    use_standin(the_heap);
    ledger_clear();
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 128 << 10);
    scenario->prepare();
}

void scenario_end(void)
{
    struct dvsm_heap *old = the_heap;

    the_heap = NULL;
    view_hide();
    atomic_store(&heap_the_default, first_default);
    heap_unmake(old, true);
    if (failing != NULL)
        failing_backend_delete(failing);
    failing = NULL;
}
