/* test_cache_killed.c - a process is killed after each store that the cache makes.
 *
 * A scene brings a heap into a state and then does one thing, its act: a pop, an exchange, a fill,
 * a drain, ... A child first goes through the act instruction by instruction, to find the cuts: the
 * instructions after which shared memory has changed. Then the act is repeated from the same state
 * for each cut (or for some, if there are many), and the child is killed there. The survivor finds
 * each block in exactly one place and its own blocks unchanged, and can use and free everything.
 *
 *     fork_cache_killed [seed [thousands of steps a scene, by three]]
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/depot.h"
#include "support/random.h"
#include "support/stand_in.h"
#include "support/stepping.h"

enum { KIB = 1 << 10, MIB = 1 << 20, BLOCKS = 700, CUTS_MOST = 20000 };
enum { CLASS = 10, SIZE = CLASS * CLASS_STEP - CHUNK_OVERHEAD };

static struct dvsm_heap *heap;
static struct cache *cache;
static unsigned char *block[BLOCKS]; /* what the survivor holds; NULL: nothing */
static void *target;                 /* what the act frees; NULL: it allocates, or neither */
static struct random_run arguments;
static struct random_source random_cuts;

/* ---- the state before */

static void hold(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        block[i] = dvsm_heap_malloc(heap, SIZE);
        assert_non_null(block[i]);
        memset(block[i], (int)(i + 1), SIZE);
    }
}

static void drop(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        dvsm_free(block[i]);
        block[i] = NULL;
    }
}

/* From now on the block is the act's. */
static void give(size_t i)
{
    target = block[i];
    block[i] = NULL;
}

static size_t held(void)
{
    size_t n = 0;

    for (size_t i = 0; i < BLOCKS; i++)
        n += block[i] != NULL;
    return n;
}

/* Pops what the lane has, so that the next malloc has to exchange. */
static void empty_the_lane(size_t from)
{
    for (; !magazine_is_empty(CLASS, lane_word(cache, 0, CLASS)); from++) {
        assert_true(from < BLOCKS && block[from] == NULL);
        hold(from, from + 1);
    }
}

/* Pushes until the next free has to exchange. */
static size_t fill_the_lane(size_t from)
{
    for (; !magazine_is_full(CLASS, lane_word(cache, 0, CLASS)); from++) {
        assert_true(from < BLOCKS && block[from] != NULL);
        drop(from, from + 1);
    }
    return from;
}

/* ---- scenes */

static void allocate_one(void *context)
{
    (void)context;
    dvsm_heap_malloc(heap, SIZE);
}

static void free_target(void *context)
{
    (void)context;
    dvsm_free(target);
}

static void lane_has_some(void)
{
    hold(0, 20);
    drop(10, 20);
}

static void lane_has_room(void)
{
    lane_has_some();
    give(0);
}

static void lane_is_empty_and_the_stock_not(void)
{
    hold(0, 200);
    drop(0, 200);
    empty_the_lane(0);
}

/* The exchange before went the other way, so that the stock's magazine, a full one, is split. */
static void lane_is_empty_after_frees(void)
{
    hold(0, 280);
    drop(0, 200);
    depot_of(cache, CLASS)->last_exchange[0] = EXCHANGE_REFILL;
    empty_the_lane(0);
    depot_of(cache, CLASS)->last_exchange[0] = EXCHANGE_SPILL;
}

static void nothing_is_cached(void)
{
    hold(0, 1);
    depot_of(cache, CLASS)->demand = 4;
    assert_int_equal(
        lane_word(cache, 0, CLASS) == 0 ? 0 : magazine_count(CLASS, lane_word(cache, 0, CLASS)), 0);
}

/* The arena has some free chunks of exactly that size, and must cut the rest from a run. */
static void arena_has_exact_chunks(void)
{
    hold(0, 40);
    for (size_t i = 0; i < 12; i += 2)
        drop(i, i + 1);
    dvsm_heap_trim(heap, SIZE_MAX / 2);
    depot_of(cache, CLASS)->demand = 4;
}

static void heap_is_new(void)
{
}

static void lane_is_full(void)
{
    hold(0, 200);
    give(199);
    fill_the_lane(0);
    depot_of(cache, CLASS)->last_exchange[0] = EXCHANGE_SPILL;
}

/* A full lane gets the lower half of a magazine that is split. */
static void lane_is_full_after_mallocs(void)
{
    hold(0, 280);
    give(279);
    drop(0, 140);
    fill_the_lane(140);
    depot_of(cache, CLASS)->last_exchange[0] = EXCHANGE_REFILL;
    assert_true(depot_of(cache, CLASS)->stock[0] != 0);
}

/* No empty magazine is left. */
static void magazines_are_used_up(void)
{
    struct depot *d = depot_of(cache, CLASS);

    hold(0, BLOCKS);
    give(BLOCKS - 1);
    size_t i = fill_the_lane(0);
    for (; i < BLOCKS - 1 && d->empty != 0; i = fill_the_lane(i + 1))
        drop(i, i + 1);
    depot_of(cache, CLASS)->last_exchange[0] = EXCHANGE_SPILL;
}

static void drain_a_magazine(void *context)
{
    struct fault fault = {0};

    (void)context;
    stock_drain(cache, CLASS, 1, &fault);
}

/* Moves the lane's blocks to the stock. */
static void unload_the_lane(void)
{
    struct depot *d = depot_of(cache, CLASS);
    word w = lane_word(cache, 0, CLASS);

    if (w == 0)
        return;
    assert_true(depot_enter(cache, CLASS));
    assert_true(cache_exchange(cache, CLASS, 0, w, 0));
    depot_put_away(d, CLASS, 0, w);
    depot_set_transit(d, 0, 0);
    journal_commit(depot_journal(d));
    depot_leave(d);
}

/* The stock's magazine has only a few blocks: draining each takes many steps. */
static void stock_has_blocks(void)
{
    hold(0, 100);
    while (!magazine_is_empty(CLASS, lane_word(cache, 0, CLASS)))
        hold(held(), held() + 1);
    drop(0, 6);
    unload_the_lane();
    assert_true(depot_of(cache, CLASS)->stock[0] != 0);
}

/* Blocks of the two arenas take turns, so that the arena changes from block to block. */
static void stock_has_blocks_of_two_arenas(void)
{
    struct arena_hold first;

    hold(0, 100);
    assert_true(arenas_enter_index(&heap->arenas, &first, 0));
    hold(100, 230);
    arenas_leave(&heap->arenas, &first);
    assert_int_equal(region_arena_count(heap->region), 2);
    while (!magazine_is_empty(CLASS, lane_word(cache, 0, CLASS)))
        hold(held(), held() + 1);
    for (size_t i = 0; i < 4; i++) {
        drop(i, i + 1);
        drop(229 - i, 230 - i);
    }
    unload_the_lane();
}

static void drain_all(void *context)
{
    struct fault fault = {0};

    (void)context;
    cache_drain(cache, DRAIN_HERE, &fault);
}

static void lane_has_a_block(void)
{
    hold(0, 3);
    drop(0, 1);
}

static void shrink(void *context)
{
    (void)context;
    depot_shrink(cache, CLASS);
}

/* Lanes and stock are empty, but there are magazines that have memory. */
static void magazines_are_idle(void)
{
    struct depot *d = depot_of(cache, CLASS);
    struct fault fault = {0};

    hold(0, 100);
    drop(0, 50);
    unload_the_lane();
    stock_drain(cache, CLASS, SIZE_MAX, &fault);
    assert_true(d->made > 0 && d->stock[0] == 0);
}

static void reduce(void *context)
{
    struct fault fault = {0};

    (void)context;
    stock_reduce(cache, 1, &fault);
}

static const struct scene {
    const char *name;
    void (*prepare)(void);
    stepped_work act;
    bool allocates;
} scenes[] = {
    {"pop", lane_has_some, allocate_one, true},
    {"push", lane_has_room, free_target, false},
    {"refill from the stock", lane_is_empty_and_the_stock_not, allocate_one, true},
    {"refill that splits", lane_is_empty_after_frees, allocate_one, true},
    {"fill from a run", nothing_is_cached, allocate_one, true},
    {"fill from exact chunks and a run", arena_has_exact_chunks, allocate_one, true},
    {"fill from a new arena", heap_is_new, allocate_one, true},
    {"spill", lane_is_full, free_target, false},
    {"spill that splits", lane_is_full_after_mallocs, free_target, false},
    {"spill that makes magazines", magazines_are_used_up, free_target, false},
    {"drain", stock_has_blocks, drain_a_magazine, false},
    {"drain to two arenas", stock_has_blocks_of_two_arenas, drain_a_magazine, false},
    {"reduce", stock_has_blocks, reduce, false},
    {"shrink", magazines_are_idle, shrink, false},
    {"drain of everything", lane_has_a_block, drain_all, false},
};

/* ---- the region, kept and put back */

static struct saved {
    char *copy;
    size_t bytes;
} saved;

/* Saves the region up to the last granule ever used, and some more. */
static void save(void)
{
    struct segment_usage usage;

    segment_usage(&heap->segments, &usage);
    saved.bytes = (size_t)(heap->region->granules - heap->region->base) + usage.used;
    saved.copy =
        mmap(NULL, saved.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(saved.copy != MAP_FAILED);
    memcpy(saved.copy, heap->region->base, saved.bytes);
}

static void put_back(void)
{
    memcpy(heap->region->base, saved.copy, saved.bytes);
}

static void forget(void)
{
    munmap(saved.copy, saved.bytes);
}

/* Stores are watched in all of the region but other classes' depots and magazines and the ends
 * of long arrays. */
enum { WATCHED = 6 };

struct watch {
    struct {
        const char *place;
        char *copy;
        size_t bytes;
    } part[WATCHED];
};

static void watch_part(struct watch *w, size_t i, const void *place, size_t bytes)
{
    w->part[i].place = place;
    w->part[i].bytes = bytes;
    w->part[i].copy = malloc(bytes);
    memcpy(w->part[i].copy, place, bytes);
}

static void watch_start(struct watch *w)
{
    struct region *r = heap->region;

    watch_part(w, 0, r, sizeof *r);
    watch_part(w, 1, r->arenas.slots, 2 * r->arenas.stride);
    watch_part(w, 2, r->cache.lanes, r->cache.cpus * sizeof(struct lane));
    watch_part(w, 3, depot_of(cache, CLASS), sizeof(struct depot));
    watch_part(w, 4, r->map, segment_map_committed_bytes());
    watch_part(w, 5, r->granules, 2 * GRANULE); /* the arena's and the magazines' */
}

static bool watch_changed(struct watch *w)
{
    bool changed = false;

    for (size_t i = 0; i < WATCHED; i++)
        if (memcmp(w->part[i].place, w->part[i].copy, w->part[i].bytes) != 0) {
            memcpy(w->part[i].copy, w->part[i].place, w->part[i].bytes);
            changed = true;
        }
    return changed;
}

static void watch_end(struct watch *w)
{
    for (size_t i = 0; i < WATCHED; i++)
        free(w->part[i].copy);
}

/* ---- cuts */

static struct plan {
    unsigned steps;   /* of the whole act */
    unsigned kill_at; /* 0: let it live */
    size_t cuts;
    unsigned cut[CUTS_MOST]; /* steps after which something was stored */
} * plan;                    /* shared with the children */
static struct watch watch;

static void look(unsigned step)
{
    plan->steps = step;
    if (watch_changed(&watch) && plan->cuts < CUTS_MOST)
        plan->cut[plan->cuts++] = step;
}

static void kill_there(unsigned step)
{
    if (step == plan->kill_at)
        kill(getpid(), SIGKILL);
}

/* Plays the act to its end; returns the number of cuts. */
static size_t find_cuts(stepped_work act)
{
    plan->cuts = 0;
    watch_start(&watch);
    int status = stepping_through(act, NULL, look);
    watch_end(&watch);
    if (status == -1)
        skip();
    assert_int_equal(status, 0);
    assert_in_range(plan->cuts, 1, CUTS_MOST - 1);
    return plan->cuts;
}

static void kill_at(stepped_work act, unsigned step)
{
    plan->kill_at = step;
    assert_int_equal(stepping_through(act, NULL, kill_there), SIGKILL);
}

/* ---- what the survivor finds */

struct found {
    size_t used, held;
    bool target;
};

static void find(const dvsm_chunk *chunk, void *context)
{
    struct found *found = context;

    if (chunk->state != DVSM_CHUNK_USED)
        return;
    found->used++;
    found->target |= chunk->block == target;
    for (size_t i = 0; i < BLOCKS; i++)
        found->held += block[i] == chunk->block;
}

static bool content_is_intact(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        for (size_t k = 0; block[i] != NULL && k < SIZE; k++)
            if (block[i][k] != (unsigned char)(i + 1))
                return false;
    return true;
}

/* Whether a second free of the cached block would be noticed. */
static bool is_known(void *context, void *cached, unsigned cls)
{
    bool *known = context;

    (void)cls;
    *known = cache_holds(cache, cached);
    return *known;
}

#define SURVIVOR_CHECK(condition)                                                                  \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

/* Allocates and frees more blocks than a lane holds, in the heap that was left. */
static bool can_be_used(void)
{
    void *mine[150];

    for (size_t i = 0; i < 150; i++) {
        mine[i] = dvsm_heap_malloc(heap, SIZE);
        SURVIVOR_CHECK(mine[i] != NULL);
        memset(mine[i], 0xee, SIZE);
    }
    SURVIVOR_CHECK(content_is_intact());
    for (size_t i = 0; i < 150; i++)
        dvsm_free(mine[i]);
    return dvsm_check(heap, stderr) == 0;
}

/* Checks what a survivor finds. The survivor's blocks are freed only in the region, which is put
 * back for the next cut. */
static bool survives(const struct scene *scene)
{
    struct found found = {0};
    dvsm_stats_t stats;
    bool known = true; /* every cached block is known to be free */

    SURVIVOR_CHECK(dvsm_check(heap, stderr) == 0);
    dvsm_walk(heap, find, &found);
    SURVIVOR_CHECK(found.held == held());
    SURVIVOR_CHECK(content_is_intact());
    cache_walk(cache, is_known, &known);
    SURVIVOR_CHECK(known);
    size_t others = found.used - found.held;
    SURVIVOR_CHECK(others == (found.target ? 1 : 0) || (scene->allocates && others == 1));
    SURVIVOR_CHECK(can_be_used());
    if (found.target)
        dvsm_free(target);
    for (size_t i = 0; i < BLOCKS; i++)
        if (block[i] != NULL)
            dvsm_free(block[i]);
    dvsm_heap_trim(heap, 0);
    SURVIVOR_CHECK(dvsm_check(heap, stderr) == 0);
    SURVIVOR_CHECK(dvsm_stats(heap, &stats) == 0 && stats.cached_blocks == 0);
    SURVIVOR_CHECK(stats.used_blocks == others - (found.target ? 1 : 0));
    return true;
}

/* ---- the play */

static enum lane_mode kind;

static void start(const struct scene *scene)
{
    memset(block, 0, sizeof block);
    target = NULL;
    stand_in_be_on(0);
    heap = stand_in_heap(kind, &(dvsm_options){.reserve = 32 * MIB});
    if (heap == NULL)
        skip();
    /* More than what is committed is watched and put back: the file must be long enough. */
    assert_int_equal(ftruncate(heap->mapping.fd, 32 * MIB), 0);
    cache = &heap->cache;
    scene->prepare();
    assert_int_equal(dvsm_check(heap, stderr), 0);
    save();
}

static void finish(void)
{
    forget();
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* How many cuts to play, so that the steps to them are not too many. */
static size_t cuts_to_play(size_t cuts)
{
    size_t most = arguments.operations * 3000 / plan->steps + 3;

    return cuts < most ? cuts : most;
}

static void play(const struct scene *scene)
{
    start(scene);
    size_t cuts = find_cuts(scene->act);
    put_back();
    size_t every = cuts / cuts_to_play(cuts), played = 0;
    for (size_t i = random_below(&random_cuts, every); i < cuts; i += every, played++) {
        kill_at(scene->act, plan->cut[i]);
        if (!survives(scene))
            fail_msg("%s: killed after step %u", scene->name, plan->cut[i]);
        put_back();
    }
    printf("%s: %zu of %zu cuts, %u steps\n", scene->name, played, cuts, plan->steps);
    finish();
}

/* ---- the survivor is killed, too */

static void recover(void *context)
{
    (void)context;
    if (depot_enter(cache, CLASS))
        depot_leave(depot_of(cache, CLASS));
}

/* Kills the child after step `first`, and then a survivor after some of the steps of its
 * recovery; returns how many of those. */
static size_t play_recovery(const struct scene *scene, unsigned first)
{
    kill_at(scene->act, first);
    save();
    size_t cuts = find_cuts(recover), every = cuts / 5 + 1, played = 0;
    put_back();
    for (size_t k = random_below(&random_cuts, every); k < cuts; k += every, played++) {
        kill_at(recover, plan->cut[k]);
        if (!survives(scene))
            fail_msg("%s: killed after step %u, and the survivor after %u", scene->name, first,
                     plan->cut[k]);
        put_back();
    }
    forget();
    return played;
}

static void play_twice(const struct scene *scene)
{
    enum { FIRST_MOST = 1000 };
    unsigned first[FIRST_MOST];
    size_t n = 0, played = 0;

    start(scene);
    size_t cuts = find_cuts(scene->act);
    put_back();
    size_t every = cuts / (cuts_to_play(cuts) / 5 + 1) + 1;
    for (size_t i = random_below(&random_cuts, every); i < cuts && n < FIRST_MOST; i += every)
        first[n++] = plan->cut[i];
    for (size_t i = 0; i < n; i++) {
        struct saved before = saved;

        played += play_recovery(scene, first[i]);
        saved = before;
        put_back();
    }
    printf("%s: %zu pairs of cuts\n", scene->name, played);
    finish();
}

static int set_up(void **state)
{
    kind = *(const enum lane_mode *)*state;
    return 0;
}

static void test_killed_at_any_store(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++)
        play(&scenes[i]);
}

static void test_the_survivor_killed_at_any_store_of_its_recovery(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++)
        play_twice(&scenes[i]);
}

int main(int argc, char **argv)
{
    static enum lane_mode kinds[] = {LANES_SEQUENCES, LANES_LOCKED, LANES_NONE};
    const struct CMUnitTest tests[] = {
        {"killed at any store, sequences", test_killed_at_any_store, set_up, NULL, &kinds[0]},
        {"killed at any store, locked", test_killed_at_any_store, set_up, NULL, &kinds[1]},
        {"the survivor killed, sequences", test_the_survivor_killed_at_any_store_of_its_recovery,
         set_up, NULL, &kinds[0]},
    };

    arguments = random_run_from(argc, argv, 8);
    random_cuts.state = arguments.seed;
    plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
