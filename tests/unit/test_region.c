/* test_region.c - the region: layout, header, recovery, and that dvsm_check sees damage. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/place.h"
#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "segment/segment_map.h"
#include "support/child.h"
#include "support/failing_backend.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

static dvsm_heap *heap;

static int make_heap(void **state)
{
    (void)state;
    heap = dvsm_heap_create(&(dvsm_options){.reserve = 64 * MIB});
    return heap != NULL && dvsm_heap_malloc(heap, 100) != NULL ? 0 : -1;
}

static int destroy_heap(void **state)
{
    (void)state;
    return dvsm_check(heap, stderr) == 0 ? dvsm_heap_destroy(heap) : -1;
}

static size_t offset_of(const void *part)
{
    return (size_t)((const char *)part - heap->region->base);
}

static void test_every_part_has_its_place(void **state)
{
    const struct region *r = heap->region;
    const struct cache_table *cache = &r->cache;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *slots_end = r->arenas.slots + r->arenas.most * r->arenas.stride;
    char *map_end = (char *)r->map + segment_map_bytes(r->granule_count);

    (void)state;
    assert_ptr_equal(r->base, r);
    assert_true(offset_of(cache->lanes) >= sizeof *r);
    assert_true((char *)cache->depots >= (char *)(cache->lanes + cache->cpus));
    assert_true((char *)r->map >= (char *)(cache->depots + CACHE_CLASSES));
    assert_true(r->arenas.slots >= map_end);
    assert_true(r->granules >= slots_end);
    assert_int_equal(r->granules + r->granule_count * GRANULE - r->base, r->bytes);
    assert_int_equal(offset_of(r->arenas.slots) % page + offset_of(cache->lanes) % page, 0);
    assert_int_equal(offset_of(cache->depots) % page + offset_of(r->map) % page, 0);
    assert_int_equal(offset_of(r->granules) % GRANULE, 0);
    assert_true(cache->cpus >= (size_t)sysconf(_SC_NPROCESSORS_ONLN));
    assert_true(r->arenas.most >= 64);
    assert_int_equal(region_arena_count(r), 1);
}

static size_t overhead(dvsm_heap *of)
{
    struct segment_usage usage;

    segment_usage(&of->segments, &usage);
    return usage.overhead;
}

/* Lanes and depots have memory from the start; everything else gets it when it is needed. */
static void test_metadata_is_small_until_it_is_needed(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t cache =
        heap->region->cache.cpus * sizeof(struct lane) + CACHE_CLASSES * sizeof(struct depot);

    (void)state;
    assert_true(overhead(heap) <= 16 * page + cache);
}

/* The footprint is the memory that the file has. */
static void test_the_footprint_is_what_is_committed(void **state)
{
    struct stat file;

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fstat(heap->mapping.fd, &file), 0);
        assert_int_equal(dvsm_heap_footprint(heap), (size_t)file.st_blocks * 512);
        assert_non_null(dvsm_heap_malloc(heap, (size_t)100000 << 3 * i));
    }
}

static void test_a_mapping_that_is_too_small(void **state)
{
    dvsm_mapping mapping = {.bytes = GRANULE};

    (void)state;
    assert_int_equal(dvsm_backend_anon.reserve(&dvsm_backend_anon, &mapping), 0);
    assert_int_equal(region_make(&dvsm_backend_anon, &mapping, &(dvsm_options){0}), ENOMEM);
    assert_int_equal(dvsm_backend_anon.unmap(&dvsm_backend_anon, &mapping, 1), 0);
}

static void test_arenas_are_made_in_order_and_once(void **state)
{
    struct region *r = heap->region;

    (void)state;
    assert_true(arenas_make(&heap->arenas, 0)); /* exists already */
    assert_int_equal(region_arena_count(r), 1);
    r->policy.trim_threshold = 12345;
    assert_true(arenas_make(&heap->arenas, 1));
    assert_int_equal(region_arena_count(r), 2);
    assert_int_equal(region_arena(r, 1)->arena.id, 2);
    assert_int_equal(region_arena(r, 1)->arena.trim_threshold, 12345);
    assert_false(arenas_make(&heap->arenas, r->arenas.most));
}

/* Metadata counts against the limit: each arena leaves less for blocks. */
static void test_the_limit_counts_metadata(void **state)
{
    size_t arenas = 0;

    (void)state;
    assert_int_equal(dvsm_heap_set_limit(heap, 4 * MIB), 4 * MIB);
    for (size_t i = 1; i < heap->region->arenas.most; i++)
        arenas += arenas_make(&heap->arenas, i);
    assert_int_equal(arenas, heap->region->arenas.most - 1);
    while (dvsm_heap_malloc(heap, 1000) != NULL)
        ;
    assert_in_range(dvsm_heap_footprint(heap), 4 * MIB - 2 * GRANULE, 4 * MIB);
    assert_int_equal(dvsm_heap_set_limit(heap, SIZE_MAX), SIZE_MAX);
}

static void test_no_memory_for_another_arena(void **state)
{
    struct failing_backend *failing = failing_backend_new(&dvsm_backend_anon);
    dvsm_heap *other = dvsm_heap_create(&(dvsm_options){.backend = &failing->backend});

    (void)state;
    assert_non_null(other);
    failing_backend_fail(failing, FAILING_COMMIT, 1, ENOMEM, true);
    errno = 0;
    assert_null(dvsm_heap_malloc(other, 1));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(region_arena_count(other->region), 0);
    failing_backend_reset(failing);
    assert_non_null(dvsm_heap_malloc(other, 1));
    assert_int_equal(dvsm_check(other, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(other), 0);
    failing_backend_delete(failing);
}

/* ---- the lock of the arenas' table */

/* A signal handler may have interrupted a call that holds the table's lock. */
static void test_a_thread_that_holds_the_table_is_not_let_in_again(void **state)
{
    struct region *r = heap->region;

    (void)state;
    assert_int_equal(lock_acquire(&r->arenas.lock), LOCK_ACQUIRED);
    assert_false(arenas_make(&heap->arenas, 1));
    lock_release(&r->arenas.lock);
    assert_int_equal(region_arena_count(r), 1);
}

/* Dies when the slot is written but not yet counted. */
static int die_while_making_an_arena(void *context)
{
    struct arena_slot *slot = region_arena(heap->region, 1);

    (void)context;
    CHILD_CHECK(lock_acquire(&heap->region->arenas.lock) == LOCK_ACQUIRED);
    CHILD_CHECK(heap->backend->commit(heap->backend, &heap->mapping, slot,
                                      heap->region->arenas.stride) == 0);
    memset(slot, 0x77, sizeof *slot);
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_a_survivor_makes_the_arena_anew(void **state)
{
    (void)state;
    assert_true(WIFSIGNALED(run_in_child(die_while_making_an_arena, NULL)));
    assert_int_equal(region_arena_count(heap->region), 1);
    assert_true(arenas_make(&heap->arenas, 1));
    assert_int_equal(region_arena(heap->region, 1)->arena.id, 2);
}

/* ---- dvsm_check sees what is wrong */

static char report[4096];

/* Damages one word and expects a violation with that message; then restores the word. */
static void expect_violation(size_t *place, size_t value, const char *message)
{
    size_t right = *place;
    FILE *file = fmemopen(report, sizeof report, "w");

    assert_int_equal(dvsm_check(heap, stderr), 0);
    *place = value;
    int violations = dvsm_check(heap, file), uncounted = dvsm_check(heap, NULL);
    *place = right;
    fclose(file);
    assert_true(violations > 0);
    assert_int_equal(violations, uncounted);
    if (strstr(report, message) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", message, report);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_check_sees_a_damaged_header(void **state)
{
    struct region *r = heap->region;

    (void)state;
    expect_violation(&r->identity.magic, 77, "magic");
    expect_violation(&r->bytes, r->bytes + GRANULE, "bounds");
    expect_violation(&r->granule_count, r->granule_count + 1, "bounds");
    expect_violation(&r->arenas.count, r->arenas.most + 1, "arenas of at most");
}

static void test_check_sees_parts_that_lie_elsewhere(void **state)
{
    struct region *r = heap->region;

    (void)state;
    expect_violation((size_t *)(void *)&r->cache.depots, (size_t)r->cache.depots + GRANULE,
                     "part of the cache");
    expect_violation(&r->arenas.stride, 2 * r->arenas.stride, "arenas lie elsewhere");
    expect_violation((size_t *)(void *)&r->granules, (size_t)r->granules - GRANULE,
                     "granules or their map");
}

/* Each byte of overhead belongs to something that the check can name. */
static void test_check_sees_overhead_that_nobody_has(void **state)
{
    struct segment_map *map = heap->region->map;

    (void)state;
    expect_violation(&map->overhead, map->overhead + 4096, "accounted for");
    expect_violation(&heap->region->arenas.committed, heap->region->arenas.committed + 1,
                     "accounted for");
    expect_violation(&map->footprint_most, 0, "above its maximum");
}

static void test_check_sees_arenas_and_map_disagree(void **state)
{
    struct arena *arena = &region_arena(heap->region, 0)->arena;
    void *large = dvsm_heap_malloc(heap, MIB);

    (void)state;
    assert_non_null(large);
    expect_violation(&arena->large_bytes, 0, "in the map");
    expect_violation(&arena->large_count, 2, "in the map");
    expect_violation(&arena->footprint, arena->footprint + GRANULE, "in the map");
    expect_violation(&arena->segment.size, arena->segment.size + GRANULE, "not the footprint");
    expect_violation(&arena->holes, 1, "counts 1 holes");
    expect_violation(&arena->used_chunks, arena->used_chunks + 1, "chunks in use");
    expect_violation(&arena->closed, 1, "older segments");
    expect_violation(&arena->bins.content, arena->bins.content + 1, "counted as");
    expect_violation(&arena->id, 2, "has id 2");
    expect_violation(&arena->damaged, 1, "set aside");
    dvsm_free(large);
}

/* A granule belongs to an arena that was never made. */
static void test_check_sees_an_owner_that_is_none(void **state)
{
    struct run pending = {0};

    (void)state;
    assert_true(segment_take(&heap->segments, 9, RUN_SEGMENT, GRANULE, &pending));
    assert_true(segment_commit(&heap->segments, RUN_SEGMENT, pending));
    FILE *file = fmemopen(report, sizeof report, "w");
    assert_int_equal(dvsm_check(heap, file), 1);
    fclose(file);
    assert_non_null(strstr(report, "belong to arena 9 of 1"));
    segment_give(&heap->segments, &pending, (struct run){0});
}

struct attempt {
    int violations;
};

static void check_while_walking(const dvsm_chunk *chunk, void *context)
{
    struct attempt *attempt = context;

    (void)chunk;
    attempt->violations = dvsm_check(heap, NULL);
}

/* A visitor must not call dvsm_check(), but it does not hang. */
static void test_check_inside_a_visitor_says_that_it_cannot(void **state)
{
    struct attempt attempt = {0};
    struct heap_call call;

    (void)state;
    assert_true(heap_enter(&call, heap, "test"));
    check_while_walking(NULL, &attempt);
    assert_true(heap_leave(&call));
    assert_int_equal(attempt.violations, 1);
}

static void walk_large_blocks(const dvsm_chunk *chunk, void *context)
{
    size_t *count = context;

    *count += chunk->state == DVSM_CHUNK_LARGE;
}

static void test_a_walk_passes_by_what_it_cannot_believe(void **state)
{
    void *large = dvsm_heap_malloc(heap, MIB);
    size_t *start = (size_t *)(void *)((uintptr_t)large & ~(uintptr_t)(GRANULE - 1)),
           right = *start;
    size_t *damaged = &region_arena(heap->region, 0)->arena.damaged;
    size_t count = 0;
    dvsm_stats_t stats;

    (void)state;
    dvsm_walk(heap, walk_large_blocks, &count);
    assert_int_equal(count, 1);
    *start = GRANULE / 2;
    dvsm_walk(heap, walk_large_blocks, &count);
    *start = 8;
    dvsm_walk(heap, walk_large_blocks, &count);
    *start = right;
    assert_int_equal(count, 1);
    *damaged = 1;
    dvsm_walk(heap, walk_large_blocks, &count);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
    assert_int_equal(dvsm_heap_mallinfo(heap).arena, 0);
    *damaged = 0;
    assert_int_equal(count, 1);
    dvsm_free(large);
}

/* ---- the default heap */

/* As if two threads made it at the same moment: the second one's heap is given up. */
static void test_the_default_heap_is_made_once(void **state)
{
    dvsm_heap *first = dvsm_heap_default();

    (void)state;
    assert_ptr_equal(heap_make_default(), first);
    assert_ptr_equal(dvsm_heap_default(), first);
    assert_int_equal(dvsm_check(first, stderr), 0);
}

#define region_test(function) cmocka_unit_test_setup_teardown(function, make_heap, destroy_heap)

int main(void)
{
    const struct CMUnitTest tests[] = {
        region_test(test_every_part_has_its_place),
        region_test(test_metadata_is_small_until_it_is_needed),
        region_test(test_the_footprint_is_what_is_committed),
        cmocka_unit_test(test_a_mapping_that_is_too_small),
        region_test(test_arenas_are_made_in_order_and_once),
        region_test(test_the_limit_counts_metadata),
        cmocka_unit_test(test_no_memory_for_another_arena),
        region_test(test_a_thread_that_holds_the_table_is_not_let_in_again),
        region_test(test_a_survivor_makes_the_arena_anew),
        region_test(test_check_sees_a_damaged_header),
        region_test(test_check_sees_parts_that_lie_elsewhere),
        region_test(test_check_sees_overhead_that_nobody_has),
        region_test(test_check_sees_arenas_and_map_disagree),
        region_test(test_check_sees_an_owner_that_is_none),
        region_test(test_check_inside_a_visitor_says_that_it_cannot),
        region_test(test_a_walk_passes_by_what_it_cannot_believe),
        cmocka_unit_test(test_the_default_heap_is_made_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
