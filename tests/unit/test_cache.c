/* test_cache.c - lanes, depots and arenas together: what happens when a lane is empty or full;
 * filling, draining, bounds.
 *
 * Each case runs three times: with sequences (a stand-in decides which CPU's lane is used); with
 * locked lanes; and as a process without rseq that shares a heap with processes that have it, and
 * so uses depots only. Most cases know the number of cached blocks at each step, and check the
 * heap.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/depot.h"
#include "support/stand_in.h"

enum { KIB = 1 << 10, MIB = 1 << 20, BLOCKS = 1000 };

static struct dvsm_heap *heap;
static struct cache *cache;
static enum lane_mode kind;
static void *block[BLOCKS];

static void use_heap(const dvsm_options *options)
{
    if (heap != NULL)
        dvsm_heap_destroy(heap);
    stand_in_be_on(0);
    heap = stand_in_heap(kind, options);
    if (heap == NULL)
        skip();
    cache = &heap->cache;
}

static int set_up(void **state)
{
    kind = *(const enum lane_mode *)*state;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (heap != NULL && dvsm_heap_destroy(heap) != 0)
        return -1;
    heap = NULL;
    return 0;
}

/* ---- looking */

static dvsm_stats_t stats(void)
{
    dvsm_stats_t s;

    assert_int_equal(dvsm_stats(heap, &s), 0);
    return s;
}

/* Expects so many blocks cached, so many in use, and a sound heap. */
static void expect(size_t cached, size_t used)
{
    dvsm_stats_t s = stats();

    assert_int_equal(s.cached_blocks, cached);
    assert_int_equal(s.used_blocks, used);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static size_t in_lane(unsigned cpu, unsigned cls)
{
    return magazine_count(cls, lane_word(cache, cpu, cls));
}

/* The largest request that the class serves. */
static size_t request(unsigned cls)
{
    return class_size(cls) - CHUNK_OVERHEAD;
}

static void allocate(size_t from, size_t to, size_t size)
{
    for (size_t i = from; i < to; i++) {
        block[i] = dvsm_heap_malloc(heap, size);
        assert_non_null(block[i]);
        memset(block[i], 0x5a, size);
    }
}

static void release(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        dvsm_free(block[i]);
}

/* NB: the first block of the very last class, which an arena serves, is a large block. */
static const unsigned classes[] = {
    2, 6, 32, CLASS_EXACT_LAST, CLASS_EXACT_LAST + 1, 90, CLASS_COARSE_LAST, CACHE_CLASSES - 2};
enum { CLASSES = sizeof classes / sizeof classes[0] };

/* ---- filling */

/* The first fill brings one block, the next four, and so on, up to half a magazine; and at most
 * 32 KiB besides the block that was asked for. */
static void test_a_fill_brings_four_times_as_much_each_time_up_to_half_a_magazine(void **state)
{
    (void)state;
    for (size_t k = 0; k < CLASSES; k++) {
        unsigned cls = classes[k];
        size_t half = magazine_capacity(cls) / 2, most = 32 * KIB / class_size(cls) + 1;
        size_t left = 0, wanted = 1;

        use_heap(NULL);
        dvsm_free(dvsm_heap_malloc(heap, 200 * KIB)); /* makes room for all that follows */
        for (size_t i = 0; i < 150; i++) {
            if (left == 0) {
                left = wanted < half ? wanted : half;
                left = left < most ? left : most;
                wanted *= 4;
            }
            left--;
            if (i * class_size(cls) > 100 * KIB)
                break;
            allocate(i, i + 1, request(cls));
            if (i < 40 || i % 16 == 0)
                expect(left, i + 1);
        }
    }
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

    return (x > y) - (x < y);
}

/* Allocates at least `least` blocks, and then until the last fill is used up; returns the end
 * index. */
static size_t allocate_whole_fills(size_t from, size_t least, size_t size)
{
    size_t to = from;

    while (to < from + least || stats().cached_blocks != 0) {
        allocate(to, to + 1, size);
        to++;
    }
    return to;
}

/* A fill takes free chunks of exactly that size from the arena's bins before it cuts a new one. */
static void test_a_fill_takes_free_chunks_of_the_size_first(void **state)
{
    size_t met = 0, chunks = 0;

    (void)state;
    use_heap(NULL);
    dvsm_free(dvsm_heap_malloc(heap, 200 * KIB));
    size_t end = allocate_whole_fills(0, 60, 72);
    qsort(block, end, sizeof block[0], by_address);
    for (size_t i = 0; i < end; i += 2, chunks++) /* the others keep them apart */
        release(i, i + 1);
    dvsm_heap_trim(heap, SIZE_MAX / 2);
    expect(0, end - chunks);
    size_t more = allocate_whole_fills(end, chunks, 72);
    for (size_t i = end; i < more; i++)
        for (size_t j = 0; j < end; j += 2)
            met += block[i] == block[j];
    assert_int_equal(met, chunks);
    for (size_t i = 1; i < end; i += 2)
        release(i, i + 1);
    release(end, more);
    dvsm_heap_trim(heap, 0);
    expect(0, 0);
}

/* ---- exchanges */

static void test_nothing_is_lost_or_doubled_up_and_down(void **state)
{
    (void)state;
    for (size_t k = 0; k < CLASSES; k++) {
        size_t size = class_size(classes[k]);
        size_t n = size > CLASS_COARSE_MOST ? 12 : size > 4 * KIB ? 60 : 400;

        use_heap(NULL);
        allocate(0, n, request(classes[k]));
        size_t cached = stats().cached_blocks;
        for (size_t i = 0; i < n; i++) {
            release(i, i + 1);
            if (i < 20 || i % 9 == 0)
                expect(cached + i + 1, n - i - 1);
        }
        allocate(0, n, request(classes[k]));
        expect(cached, n);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i && n < 100; j++)
                assert_ptr_not_equal(block[i], block[j]);
    }
}

/* An overwritten link may lead anywhere, or in a circle; statistics and the check end all the
 * same. */
static void test_a_damaged_list_keeps_nobody_busy(void **state)
{
    const unsigned cls = 10;
    const struct depot *d;

    (void)state;
    use_heap(NULL);
    d = depot_of(cache, cls);
    allocate(0, 300, request(cls));
    release(0, 300);
    word *link = &magazine_of(cls, d->stock[0])->link, right = *link;
    const word wrong[] = {d->stock[0], 1, (word)(uintptr_t)link + GRANULE, ~(word)0};

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        *link = wrong[i];
        assert_true(stats().cached_blocks > 0);
        assert_true(dvsm_check(heap, NULL) > 0);
        *link = right;
    }
    expect(300, 0);
}

/* Exchanges are rare in any order of calls. The test counts how often the lane's magazine is
 * another one. */
static void test_at_least_thirty_operations_between_exchanges_at_a_turn(void **state)
{
    const unsigned cls = 10;
    size_t n = 0, exchanges = 0, operations = 0;

    (void)state;
    use_heap(NULL);
    if (kind == LANES_NONE)
        skip();
    allocate(0, 300, request(cls));
    release(100, 300);
    n = 100;
    struct magazine *last = magazine_of(cls, lane_word(cache, 0, cls));
    for (unsigned turn = 0; turn < 40; turn++)
        for (unsigned i = 0; i < 7 + 13 * (turn / 2 % 6); i++, operations++) {
            if (turn % 2 == 0)
                allocate(n, n + 1, request(cls));
            else
                release(n - 1, n);
            n += turn % 2 == 0 ? 1 : (size_t)-1;
            exchanges += magazine_of(cls, lane_word(cache, 0, cls)) != last;
            last = magazine_of(cls, lane_word(cache, 0, cls));
        }
    assert_true(exchanges > 0);
    assert_true(exchanges * 30 <= operations + 60);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* The worst case: alternating malloc and free at the edge of a magazine. */
static void test_a_pair_at_any_fill_of_the_lane_exchanges_rarely(void **state)
{
    const unsigned cls = 10;

    (void)state;
    use_heap(NULL);
    if (kind == LANES_NONE)
        skip();
    allocate(0, 300, request(cls));
    for (size_t n = 300; n > 0; n--) {
        struct magazine *last = magazine_of(cls, lane_word(cache, 0, cls));
        size_t exchanges = 0;

        release(n - 1, n);
        for (size_t i = 0; i < 40; i++) {
            dvsm_free(dvsm_heap_malloc(heap, request(cls)));
            exchanges += magazine_of(cls, lane_word(cache, 0, cls)) != last;
            last = magazine_of(cls, lane_word(cache, 0, cls));
        }
        assert_in_range(exchanges, 0, 3);
    }
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_what_one_cpu_freed_serves_another(void **state)
{
    const unsigned cls = 7;

    (void)state;
    use_heap(NULL);
    if (cache->table->cpus < 2 || !stand_in_be_on(1))
        skip();
    stand_in_be_on(0);
    allocate(0, 300, request(cls));
    release(0, 300);
    size_t cached = stats().cached_blocks, mine = in_lane(0, cls);
    size_t granules = stats().committed_bytes - stats().metadata_bytes;
    stand_in_be_on(1);
    allocate(0, cached - mine, request(cls));
    assert_int_equal(in_lane(0, cls), mine);
    expect(mine, cached - mine);
    assert_int_equal(stats().committed_bytes - stats().metadata_bytes, granules);
    allocate(cached - mine, cached - mine + 1, request(cls)); /* not from the other CPU's lane */
    assert_int_equal(in_lane(0, cls), mine);
    release(0, cached - mine + 1);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_a_process_without_rseq_leaves_the_lanes_alone(void **state)
{
    (void)state;
    use_heap(NULL);
    for (size_t k = 0; k < CLASSES; k++) {
        allocate(0, 100, request(classes[k]));
        release(0, 100);
        allocate(0, 50, request(classes[k]));
        for (size_t cpu = 0; cpu < cache->table->cpus; cpu++)
            if (kind == LANES_NONE)
                assert_int_equal(lane_word(cache, cpu, classes[k]), 0);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        release(0, 50);
    }
    for (size_t i = 0; i < CLASSES; i++)
        dvsm_free(dvsm_heap_malloc(heap, request(classes[i])));
    size_t cached = stats().cached_blocks; /* from now on every request is served from the cache */
    for (size_t i = 0; i < 500; i++)
        dvsm_free(dvsm_heap_malloc(heap, request(classes[i % CLASSES])));
    expect(cached, 0);
}

/* ---- chunks between classes */

/* realloc may leave a chunk of any size. Freed, it goes to the largest class that is not larger. */
static void test_a_block_of_a_size_between_classes_is_cached_in_the_lower_one(void **state)
{
    (void)state;
    use_heap(NULL);
    for (size_t size = 1040; size < 4 * KIB; size += 16) {
        void *p = dvsm_heap_malloc(heap, 40 * KIB);
        assert_non_null(p);
        assert_ptr_equal(dvsm_realloc_in_place(p, size - CHUNK_OVERHEAD), p);
        memset(p, 1, size - CHUNK_OVERHEAD);
        unsigned cls = class_below(dvsm_malloc_usable_size(p) + CHUNK_OVERHEAD);
        /* The class is past its first blocks, which are not cached. */
        word_show(&depot_of(cache, cls)->demand, 2);
        dvsm_free(p);
        void *again = dvsm_heap_malloc(heap, request(cls));
        assert_ptr_equal(again, p);
        memset(again, 2, request(cls));
        dvsm_free(again);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        dvsm_heap_trim(heap, 0);
    }
    expect(0, 0);
}

/* ---- magazines' memory */

static void test_magazines_memory_is_given_back(void **state)
{
    const unsigned cls = 5;
    const struct depot *d;

    (void)state;
    use_heap(NULL);
    d = depot_of(cache, cls);
    for (int turn = 0; turn < 2; turn++) {
        allocate(0, BLOCKS, request(cls));
        release(0, BLOCKS);
        assert_true(d->made >= BLOCKS / 62);
        assert_true(cache->table->granules >= 1);
        assert_true(cache->table->granules <= 1 + d->made / (UNITS - 1));
        assert_int_equal(dvsm_check(heap, stderr), 0);
        dvsm_heap_trim(heap, 0);
        assert_int_equal(d->made | d->units | d->demand / 8, 0);
        assert_int_equal(cache->table->granules, 0);
        expect(0, 0);
    }
}

/* A class's first blocks go back to the arena: a heap of few blocks has no magazines. */
static void test_a_heap_of_few_blocks_has_no_magazines(void **state)
{
    (void)state;
    use_heap(NULL);
    for (unsigned cls = 2; cls < CACHE_CLASSES; cls++)
        dvsm_free(dvsm_heap_malloc(heap, request(cls)));
    assert_int_equal(cache->table->granules, 0);
    expect(0, 0);
    for (unsigned cls = 2; cls < CACHE_CLASSES; cls++)
        dvsm_free(dvsm_heap_malloc(heap, request(cls)));
    assert_true(cache->table->granules > 0);
    assert_true(stats().cached_blocks > 0);
    expect(stats().cached_blocks, 0);
}

static void test_one_block_takes_little_memory(void **state)
{
    (void)state;
    use_heap(NULL);
    assert_non_null(dvsm_heap_malloc(heap, 100));
    assert_in_range(dvsm_heap_footprint(heap), 64 * KIB, 160 * KIB);
}

/* Without memory for magazines freed blocks go to the arena. */
static void test_without_memory_for_magazines_a_class_does_without(void **state)
{
    const unsigned cls = 4;
    enum { MORE = 3000 };
    static void *many[MORE];

    (void)state;
    use_heap(&(dvsm_options){.limit = 64 * MIB});
    dvsm_free(dvsm_heap_malloc(heap, 100 * KIB));
    many[0] = dvsm_heap_malloc(heap, request(cls));
    segment_set_limit(&heap->segments, dvsm_heap_footprint(heap));
    for (size_t i = 1; i < MORE; i++)
        many[i] = dvsm_heap_malloc(heap, request(cls));
    for (size_t i = 0; i < MORE; i++) {
        dvsm_free(many[i]);
        if (i % 100 == 0)
            assert_int_equal(dvsm_check(heap, stderr), 0);
    }
    assert_int_equal(stats().cached_blocks, 0);
    expect(0, 0);
}

/* ---- bounds */

static size_t classes_for(size_t bytes)
{
    size_t sum = 0;

    for (unsigned cls = 2; cls < CACHE_CLASSES; cls++) {
        sum += magazine_capacity(cls) * class_size(cls);
        if (sum > bytes)
            return cls > 2 ? cls : 0;
    }
    return CACHE_CLASSES;
}

static void test_cache_bytes_decides_which_classes_are_cached(void **state)
{
    static const size_t bytes[] = {1,   1983,    1984,     10000,   64 * KIB,
                                   MIB, 5 * MIB, 10 * MIB, 64 * MIB};

    (void)state;
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        use_heap(&(dvsm_options){.cache_bytes = bytes[i]});
        assert_int_equal(cache->table->classes, classes_for(bytes[i]));
        assert_int_equal(stock_bound(cache), bytes[i]);
        for (unsigned cls = 2; cls < CACHE_CLASSES; cls++) {
            dvsm_free(dvsm_heap_malloc(heap, request(cls)));
            dvsm_free(dvsm_heap_malloc(heap, request(cls)));
            assert_int_equal(stats().cached_blocks > 0, cls < cache->table->classes);
            dvsm_heap_trim(heap, 0);
        }
        assert_int_equal(dvsm_check(heap, stderr), 0);
        dvsm_heap_trim(heap, 0);
        expect(0, 0);
    }
}

static void test_without_a_cache_nothing_is_ever_cached(void **state)
{
    (void)state;
    use_heap(&(dvsm_options){.cache_bytes = SIZE_MAX});
    for (unsigned cls = 2; cls < CACHE_CLASSES; cls++)
        dvsm_free(dvsm_heap_malloc(heap, request(cls)));
    expect(0, 0);
    dvsm_heap_trim(heap, 0);
    expect(0, 0);
}

/* What depots hold stays near the bound: between two checks of it a class may exceed it by a few
 * magazines. */
static void test_depots_hold_no_more_than_the_bound(void **state)
{
    const size_t size = 1000, bytes = 200 * KIB;
    enum { MORE = 4000 };
    static void *many[MORE];

    (void)state;
    use_heap(&(dvsm_options){.cache_bytes = bytes});
    const unsigned cls = class_above(chunk_size_for(size));
    if (cls >= cache->table->classes)
        use_heap(&(dvsm_options){.cache_bytes = 3 * MIB});
    size_t magazine = magazine_capacity(cls) * class_size(cls);
    size_t most = stock_bound(cache) + cache->table->bytes_a_cpu + 2 * magazine;

    for (size_t i = 0; i < MORE; i++)
        many[i] = dvsm_heap_malloc(heap, size);
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < MORE; i++) {
            dvsm_free(many[i]);
            if (i % 100 == 0)
                assert_in_range(stats().cached_bytes, 0, most);
        }
        assert_int_equal(dvsm_check(heap, stderr), 0);
        for (size_t i = 0; i < MORE; i++)
            many[i] = dvsm_heap_malloc(heap, size);
    }
    expect(stats().cached_blocks, MORE);
}

/* ---- several arenas */

/* Each arena is kept locked after its turn, so that the next one serves; their blocks then mix
 * in the same magazines. */
static void test_a_drain_returns_each_block_to_its_own_arena(void **state)
{
    enum { ARENAS = 4 };
    struct arena_hold hold[ARENAS];
    size_t n = 0;

    (void)state;
    use_heap(&(dvsm_options){.arenas = ARENAS});
    for (size_t k = 0; k < ARENAS; k++) {
        allocate(n, n + 50, 300);
        n += 50;
        assert_true(arenas_enter_index(&heap->arenas, &hold[k], k));
        /* Blocks that are still cached come from this arena: these 80 use them up, and need the
         * next one. */
        for (size_t i = 0; i < 80; i++, n++)
            allocate(n, n + 1, 300);
        for (size_t i = 0; i < k + 1; i++)
            if (k == ARENAS - 1)
                arenas_leave(&heap->arenas, &hold[i]);
        if (k == ARENAS - 1)
            break;
    }
    assert_in_range(region_arena_count(heap->region), ARENAS, ARENAS + 1);
    for (size_t step = 0; step < 7; step++)
        for (size_t i = step; i < n; i += 7)
            release(i, i + 1);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    dvsm_heap_trim(heap, 0);
    expect(0, 0);
    for (size_t k = 0; k < region_arena_count(heap->region); k++) {
        struct arena_usage usage;

        arena_usage(&region_arena(heap->region, k)->arena, &usage);
        assert_int_equal(usage.used_chunks, 0);
        assert_true(region_arena(heap->region, k)->arena.footprint_most > 0);
    }
}

/* ---- before an arena grows, and when memory is short */

/* Many blocks of one size are freed, then half as much is wanted in another size: it is made of
 * the freed ones. */
static void test_what_is_cached_is_used_before_an_arena_grows(void **state)
{
    enum { MANY = 20000, SIZE = 200 };
    static void *many[MANY];

    (void)state;
    use_heap(NULL);
    for (size_t i = 0; i < MANY; i++)
        many[i] = dvsm_heap_malloc(heap, SIZE);
    size_t footprint = dvsm_heap_footprint(heap);
    for (size_t i = 0; i < MANY; i++)
        dvsm_free(many[i]);
    for (size_t i = 0; i < MANY / 4; i++)
        many[i] = dvsm_heap_malloc(heap, 2 * SIZE);
    assert_in_range(dvsm_heap_footprint(heap), footprint / 2, footprint + footprint / 4);
    for (size_t i = 0; i < MANY / 4; i++)
        dvsm_free(many[i]);
    expect(stats().cached_blocks, 0);
}

static void test_memory_that_is_short_is_taken_from_the_cache(void **state)
{
    static const size_t sizes[] = {100, 3000, 30 * KIB, 100 * KIB, 400 * KIB};
    enum { MANY = 60000 };
    static void *many[MANY];

    (void)state;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        size_t got = 0;

        use_heap(NULL);
        for (size_t i = 0; i < 10000; i++)
            many[i] = dvsm_heap_malloc(heap, 500);
        for (size_t i = 0; i < 10000; i++)
            dvsm_free(many[i]);
        dvsm_heap_set_limit(heap, dvsm_heap_footprint(heap));
        assert_in_range(stats().cached_bytes, 0, dvsm_heap_limit(heap) / 8);
        while (got < MANY && (many[got] = dvsm_heap_malloc(heap, sizes[k])) != NULL)
            got++;
        assert_true(got * (sizes[k] + 2 * CHUNK_OVERHEAD) > 3 * MIB);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(stats().used_blocks, got);
    }
}

/* ---- realloc, calloc, bulk_free */

static void test_calloc_gives_zeros_from_the_cache(void **state)
{
    (void)state;
    use_heap(NULL);
    for (size_t k = 0; k < CLASSES; k++) {
        size_t size = request(classes[k]);

        allocate(0, 20, size);
        release(0, 20);
        for (size_t i = 0; i < 20; i++) {
            unsigned char *zeros = dvsm_heap_calloc(heap, 1, size);

            for (size_t j = 0; j < size; j++)
                assert_int_equal(zeros[j], 0);
            block[i] = zeros;
        }
        release(0, 20);
    }
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_a_bulk_free_goes_past_the_cache(void **state)
{
    (void)state;
    use_heap(NULL);
    allocate(0, 100, 100);
    size_t cached = stats().cached_blocks;
    assert_int_equal(dvsm_bulk_free(block, 100), 0);
    expect(cached, 0);
    dvsm_heap_trim(heap, 0);
    expect(0, 0);
}

static void test_the_walk_tells_cached_blocks_from_those_in_use(void **state)
{
    (void)state;
    use_heap(NULL);
    allocate(0, 200, 500);
    release(50, 200);
    dvsm_stats_t s = stats();
    assert_int_equal(s.used_blocks, 50);
    assert_true(s.cached_blocks >= 150);
    assert_int_equal(s.cached_bytes, s.cached_blocks * 512);
    struct dvsm_mallinfo info = dvsm_heap_mallinfo(heap);
    assert_int_equal(info.smblks, s.cached_blocks);
    assert_int_equal(info.fsmblks, s.cached_bytes);
    assert_int_equal(info.uordblks + info.fordblks, info.arena + info.hblkhd);
}

static enum lane_mode kinds[] = {LANES_SEQUENCES, LANES_LOCKED, LANES_NONE};
static const char *const kind_names[] = {"sequences", "locked", "no rseq"};

#define TEST(function)                                                                             \
    {                                                                                              \
#function, function                                                                        \
    }

static const struct {
    const char *name;
    CMUnitTestFunction run;
} cases[] = {
    TEST(test_a_fill_brings_four_times_as_much_each_time_up_to_half_a_magazine),
    TEST(test_a_fill_takes_free_chunks_of_the_size_first),
    TEST(test_nothing_is_lost_or_doubled_up_and_down),
    TEST(test_a_damaged_list_keeps_nobody_busy),
    TEST(test_at_least_thirty_operations_between_exchanges_at_a_turn),
    TEST(test_a_pair_at_any_fill_of_the_lane_exchanges_rarely),
    TEST(test_what_one_cpu_freed_serves_another),
    TEST(test_a_process_without_rseq_leaves_the_lanes_alone),
    TEST(test_a_block_of_a_size_between_classes_is_cached_in_the_lower_one),
    TEST(test_magazines_memory_is_given_back),
    TEST(test_without_memory_for_magazines_a_class_does_without),
    TEST(test_a_heap_of_few_blocks_has_no_magazines),
    TEST(test_one_block_takes_little_memory),
    TEST(test_cache_bytes_decides_which_classes_are_cached),
    TEST(test_without_a_cache_nothing_is_ever_cached),
    TEST(test_depots_hold_no_more_than_the_bound),
    TEST(test_a_drain_returns_each_block_to_its_own_arena),
    TEST(test_what_is_cached_is_used_before_an_arena_grows),
    TEST(test_memory_that_is_short_is_taken_from_the_cache),
    TEST(test_calloc_gives_zeros_from_the_cache),
    TEST(test_a_bulk_free_goes_past_the_cache),
    TEST(test_the_walk_tells_cached_blocks_from_those_in_use),
};

enum { KINDS = sizeof kinds / sizeof kinds[0], CASES = sizeof cases / sizeof cases[0] };

int main(void)
{
    static char name[KINDS * CASES][120];
    struct CMUnitTest tests[KINDS * CASES];

    for (size_t i = 0; i < KINDS * CASES; i++) {
        size_t k = i / CASES;

        snprintf(name[i], sizeof name[i], "%s, %s", cases[i % CASES].name, kind_names[k]);
        tests[i] = (struct CMUnitTest){name[i], cases[i % CASES].run, set_up, tear_down, &kinds[k]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
