/* test_cache_freed.c - a second free of a cached block is found wherever the block lies; a block in
 * use that only looks cached is freed. The check finds damage to lanes, depots and magazines.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cache/depot.h"
#include "support/stand_in.h"

enum { CLASS = 10, SIZE = CLASS * CLASS_STEP - CHUNK_OVERHEAD, BLOCKS = 400 };

static struct dvsm_heap *heap;
static struct cache *cache;
static void *block[BLOCKS];

/* ---- faults */

static unsigned faults;
static const void *fault_address;
static char fault_what[100];

static void note(const dvsm_fault *fault)
{
    faults++;
    fault_address = fault->address;
    snprintf(fault_what, sizeof fault_what, "%s", fault->what);
}

static int set_up(void **state)
{
    stand_in_be_on(0);
    heap = stand_in_heap(*(const enum lane_mode *)*state, NULL);
    if (heap == NULL)
        return 0;
    cache = &heap->cache;
    dvsm_set_fault_handler(note);
    faults = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    dvsm_set_fault_handler(NULL);
    return heap != NULL ? dvsm_heap_destroy(heap) : 0;
}

static void need_heap(void)
{
    if (heap == NULL)
        skip();
}

static void allocate(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        assert_non_null(block[i] = dvsm_heap_malloc(heap, SIZE));
}

static void release(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        dvsm_free(block[i]);
}

static size_t cached(void)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_stats(heap, &stats), 0);
    return stats.cached_blocks;
}

/* Freeing it once more is one fault, and changes nothing. */
static void expect_double_free(void *p)
{
    void *volatile hidden = p;
    unsigned before = faults;
    size_t held = cached();

    dvsm_free(hidden);
    assert_int_equal(faults, before + 1);
    assert_ptr_equal(fault_address, p);
    assert_string_equal(fault_what, "double free");
    assert_int_equal(cached(), held);
}

/* ---- found wherever it is */

static void test_a_block_in_this_lane_is_not_freed_again(void **state)
{
    (void)state;
    need_heap();
    allocate(0, 20);
    release(0, 20);
    for (size_t i = 0; i < 20; i++)
        expect_double_free(block[i]);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_a_block_in_another_cpus_lane_is_not_freed_again(void **state)
{
    (void)state;
    need_heap();
    if (cache->table->cpus < 2)
        skip();
    allocate(0, 20);
    release(0, 20);
    if (!stand_in_be_on(1))
        skip();
    for (size_t i = 0; i < 20; i++)
        expect_double_free(block[i]);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* Blocks in the lane and in the depot's stock, after exchanges and splits in both directions. */
static void test_no_block_of_many_is_freed_again(void **state)
{
    (void)state;
    need_heap();
    allocate(0, BLOCKS);
    release(0, BLOCKS);
    for (size_t i = 0; i < BLOCKS; i++)
        expect_double_free(block[i]);
    allocate(0, 70); /* splits a magazine */
    release(0, 70);
    allocate(0, BLOCKS);
    for (size_t i = BLOCKS; i-- > 0;)
        release(i, i + 1);
    for (size_t i = 0; i < BLOCKS; i++)
        expect_double_free(block[i]);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void *free_it(void *p)
{
    dvsm_free(p);
    return NULL;
}

/* Moves a block to another slot, as a split does, while a thread that has read the block's mark
 * waits for the depot. */
static void test_a_block_that_moves_meanwhile_is_not_freed_again(void **state)
{
    pthread_t thread;

    (void)state;
    need_heap();
    allocate(0, BLOCKS);
    release(0, BLOCKS);
    struct depot *d = depot_of(cache, CLASS);
    assert_true(depot_enter(cache, CLASS));
    word w = d->stock[0];
    struct magazine *m = magazine_of(CLASS, w);
    void *moved = (void *)m->slot[0];
    assert_int_equal(pthread_create(&thread, NULL, free_it, moved), 0);
    usleep(20000);
    m->slot[0] = m->slot[1];
    m->slot[1] = (word)moved;
    magazine_set_marks(CLASS, w);
    depot_leave(d);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(faults, 1);
    assert_ptr_equal(fault_address, moved);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_realloc_and_bulk_free_of_a_cached_block_are_faults(void **state)
{
    void *one[1];

    (void)state;
    need_heap();
    allocate(0, 100);
    release(0, 100);
    for (size_t i = 0; i < 100; i += 9) {
        void *volatile hidden = block[i];

        faults = 0;
        errno = 0;
        assert_null(dvsm_realloc(hidden, 2 * SIZE));
        assert_int_equal(errno, EINVAL);
        one[0] = hidden;
        assert_int_equal(dvsm_bulk_free(one, 1), 1);
        assert_int_equal(dvsm_malloc_usable_size(hidden), 0);
        assert_int_equal(faults, 3);
    }
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* ---- and no false alarm */

/* Each block has, in the place of its mark, an address in the class's magazines; valid slots are
 * among them. */
static void test_content_that_looks_like_a_mark_is_freed_all_the_same(void **state)
{
    (void)state;
    need_heap();
    allocate(0, 200);
    release(0, 150);
    const struct depot *d = depot_of(cache, CLASS);
    for (word unit = d->units; unit != 0; unit = *place_link(unit))
        for (size_t offset = 0; offset < MAGAZINE_BYTES; offset++) {
            void *p = dvsm_heap_malloc(heap, SIZE);

            assert_non_null(p);
            magazine_set_mark(p, unit + offset);
            size_t held = cached();
            dvsm_free(p);
            assert_int_equal(faults, 0);
            assert_int_equal(cached(), held + 1);
        }
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* Frees blocks whose mark is an address near a border of a granule of magazines or of one of its
 * units. The heap `in` may have no such granule. */
static void free_what_looks_marked(struct dvsm_heap *in)
{
    word room = in->cache.table->room, granule = room != 0 ? room : (word)in->region->granules;
    const size_t edges[] = {0, UNIT_BYTES, 2 * UNIT_BYTES, GRANULE, (size_t)1 << 31};

    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        for (size_t around = 0; around < 64; around++) {
            void *p = dvsm_heap_malloc(in, SIZE);

            assert_non_null(p);
            magazine_set_mark(p, granule + edges[i] + around - 32);
            assert_int_equal(dvsm_malloc_usable_size(p), SIZE);
            dvsm_free(p);
            assert_int_equal(faults, 0);
        }
    assert_int_equal(dvsm_check(in, stderr), 0);
}

static void test_content_that_marks_no_slot_is_freed_all_the_same(void **state)
{
    (void)state;
    need_heap();
    free_what_looks_marked(heap);
}

static void test_content_like_a_mark_means_nothing_without_a_cache(void **state)
{
    struct dvsm_heap *plain = dvsm_heap_create(&(dvsm_options){.cache_bytes = SIZE_MAX});

    (void)state;
    assert_non_null(plain);
    free_what_looks_marked(plain);
    assert_int_equal(dvsm_heap_destroy(plain), 0);
}

/* The block's mark names its former slot, which still has the block's address. */
static void test_a_block_that_kept_its_old_mark_is_freed_all_the_same(void **state)
{
    half_word mark[100];

    (void)state;
    need_heap();
    for (size_t round = 0; round < 20; round++) {
        allocate(0, 100);
        release(0, 100);
        for (size_t i = 0; i < 100; i++)
            mark[i] = *magazine_mark(block[i]);
        void *same[100];
        memcpy(same, block, sizeof same);
        allocate(0, 100);
        for (size_t i = 0; i < 100; i++)
            for (size_t k = 0; k < 100; k++)
                if (block[i] == same[k])
                    magazine_set_mark(block[i], mark[k]);
        release(0, 100);
        assert_int_equal(faults, 0);
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
}

static void test_a_block_handed_out_has_no_mark(void **state)
{
    (void)state;
    need_heap();
    allocate(0, 200);
    release(0, 200);
    for (size_t i = 0; i < 200; i++) {
        allocate(i, i + 1);
        assert_false(magazine_is_marked(block[i]));
    }
}

/* ---- a damaged arena */

static void test_blocks_of_a_damaged_arena_are_handed_out_no_more(void **state)
{
    struct arena_hold first;
    void *other[50];

    (void)state;
    need_heap();
    heap->region->arenas.wanted = 2;
    allocate(0, 200);
    void *after = dvsm_heap_malloc(heap, 40000), *victim = dvsm_heap_malloc(heap, 40000);
    dvsm_heap_malloc(heap, 40000);
    assert_true(arenas_enter_index(&heap->arenas, &first, 0));
    size_t n = 0;
    while (n < 50)
        other[n++] = dvsm_heap_malloc(heap, 1000);
    arenas_leave(&heap->arenas, &first);
    release(0, 200);
    for (size_t i = 0; i < 50; i++)
        dvsm_free(other[i]);
    /* Overwrites a free chunk's header, and frees the chunk's neighbour. */
    dvsm_free(victim);
    ((size_t *)victim)[-1] = 0x5555;
    dvsm_free(after);
    assert_true(faults >= 1);
    dvsm_stats_t stats;
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.arenas_damaged, 1);
    for (size_t i = 0; i < 300; i++) {
        void *p = dvsm_heap_malloc(heap, i % 2 == 0 ? SIZE : 1000);

        assert_non_null(p);
        assert_int_not_equal(segment_owner(heap->region->map, chunk_of_payload(p), NULL), 1);
    }
}

/* ---- damage that the check finds */

static struct depot *d;

/* A state with blocks in the lane and the stock, and an empty magazine. */
static void scene(void)
{
    need_heap();
    allocate(0, 300);
    release(0, 250);
    d = depot_of(cache, CLASS);
    assert_true(depot_enter(cache, CLASS));
    assert_true(depot_provide_empty(cache, CLASS));
    depot_leave(d);
    assert_true(d->stock[0] != 0 && d->empty != 0);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void expect_found_and_restore(void *place, word was)
{
    FILE *nowhere = fopen("/dev/null", "w");

    assert_in_range(dvsm_check(heap, nowhere), 1, 10000);
    memcpy(place, &was, sizeof was);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    fclose(nowhere);
}

static void spoil(word *place, word value)
{
    word was = *place;

    assert_int_not_equal(was, value);
    *place = value;
    expect_found_and_restore(place, was);
}

static void test_the_check_finds_a_spoilt_depot(void **state)
{
    (void)state;
    scene();
    spoil(&d->stock[0], 0);
    spoil(&d->empty, 0);
    spoil(&d->stock[0], d->empty);
    spoil(&d->empty, d->stock[0]);
    spoil(&d->stock[0], d->stock[0] + 1);
    spoil(&d->stock[0], d->stock[0] + MAGAZINE_BYTES * 100000);
    spoil((word *)&d->stock_magazines, d->stock_magazines + 1);
    spoil(&d->transit_new, d->stock[0]);
    spoil(&d->transit_old, d->stock[0]);
    spoil((word *)&d->made, d->made + 1);
    spoil((word *)&d->made, d->made - 1);
    spoil(&d->units, 0);
    spoil(&d->units, d->units + WORD);
    spoil(place_link(d->units), d->units);
    spoil(&d->incoming, d->units);
    spoil((word *)&d->pending.bytes, GRANULE);
    spoil((word *)&d->log.count, 1);
}

static void test_the_check_finds_a_spoilt_list(void **state)
{
    (void)state;
    scene();
    struct magazine *first = magazine_of(CLASS, d->stock[0]);
    spoil(&first->link, d->stock[0]); /* a circle */
    spoil(&first->link, d->empty);
    spoil(&first->link, 7);
    spoil(&magazine_of(CLASS, d->empty)->link, d->stock[0]);
    spoil(&magazine_of(CLASS, d->empty)->link, d->empty);
}

static void test_the_check_finds_a_spoilt_lane(void **state)
{
    (void)state;
    scene();
    word *loaded = &cache->table->lanes[0].loaded[CLASS];
    if (*loaded == 0)
        skip(); /* a process without lanes */
    spoil(loaded, 0);
    spoil(loaded, *loaded + 1);
    spoil(loaded, d->stock[0]);
    spoil(loaded, magazine_word(magazine_of(CLASS, *loaded), 63));
}

static void test_the_check_finds_blocks_in_two_places_or_in_none(void **state)
{
    (void)state;
    scene();
    struct magazine *first = magazine_of(CLASS, d->stock[0]);
    spoil(&first->slot[0], first->slot[1]);
    spoil(&first->slot[0], (word)block[0] + 16);         /* not the start of a chunk */
    spoil(&first->slot[0], (word)heap->region);          /* in no arena */
    spoil(&first->slot[0], first->slot[0] + (64 << 20)); /* in a granule that nobody has */
}

int main(void)
{
    static enum lane_mode kinds[] = {LANES_SEQUENCES, LANES_LOCKED, LANES_NONE};
#define TEST(function, kind)                                                                       \
    {                                                                                              \
#function ", " #kind, function, set_up, tear_down, &kinds[kind]                            \
    }
#define TESTS(kind)                                                                                \
    TEST(test_a_block_in_this_lane_is_not_freed_again, kind),                                      \
        TEST(test_a_block_in_another_cpus_lane_is_not_freed_again, kind),                          \
        TEST(test_no_block_of_many_is_freed_again, kind),                                          \
        TEST(test_a_block_that_moves_meanwhile_is_not_freed_again, kind),                          \
        TEST(test_realloc_and_bulk_free_of_a_cached_block_are_faults, kind),                       \
        TEST(test_content_that_looks_like_a_mark_is_freed_all_the_same, kind),                     \
        TEST(test_content_that_marks_no_slot_is_freed_all_the_same, kind),                         \
        TEST(test_a_block_that_kept_its_old_mark_is_freed_all_the_same, kind),                     \
        TEST(test_a_block_handed_out_has_no_mark, kind),                                           \
        TEST(test_blocks_of_a_damaged_arena_are_handed_out_no_more, kind),                         \
        TEST(test_the_check_finds_a_spoilt_depot, kind),                                           \
        TEST(test_the_check_finds_a_spoilt_list, kind),                                            \
        TEST(test_the_check_finds_a_spoilt_lane, kind),                                            \
        TEST(test_the_check_finds_blocks_in_two_places_or_in_none, kind)
    const struct CMUnitTest tests[] = {
        TESTS(LANES_SEQUENCES), TESTS(LANES_LOCKED), TESTS(LANES_NONE),
        TEST(test_content_like_a_mark_means_nothing_without_a_cache, LANES_SEQUENCES)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
