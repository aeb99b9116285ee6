/* test_realloc.c - realloc between arena and cache: how much memory it takes, and what it does
 * when memory is short or the pointer is wrong. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "dvsm/dvsm.h"
#include "support/cpu.h"
#include "support/random.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- memory */

enum { BLOCKS = 1000 };

/* Blocks of one heap. If `heap` is NULL, they are the default heap's, by the functions without a
 * heap argument. */
struct crowd {
    dvsm_heap *heap;
    struct random_source random;
    unsigned char *block[BLOCKS];
    size_t size[BLOCKS];
};

static unsigned char *resize(dvsm_heap *heap, void *block, size_t size)
{
    return heap != NULL ? dvsm_heap_realloc(heap, block, size) : dvsm_realloc(block, size);
}

/* Allocates, frees and resizes blocks at random; the last byte of each is its number. */
static void exchange(struct crowd *crowd, unsigned rounds, size_t most)
{
    while (rounds-- > 0) {
        size_t i = random_below(&crowd->random, BLOCKS), old = crowd->size[i];
        size_t size = random_size(&crowd->random, most), kept = old < size ? old : size;
        unsigned char *block = crowd->block[i], number = (unsigned char)i;

        if (old > 0)
            assert_int_equal(block[old - 1], number);
        if (random_once_in(&crowd->random, 4)) {
            dvsm_free(block);
            block = NULL;
            kept = 0;
        }
        if (kept > 0)
            block[kept - 1] = number;
        assert_non_null(block = resize(crowd->heap, block, size));
        if (kept > 0)
            assert_int_equal(block[kept - 1], number);
        block[size - 1] = number;
        crowd->block[i] = block;
        crowd->size[i] = size;
    }
}

/* Trimming blocks that the cache recycles whole must not fragment the arena, and an arena must not
 * grow to spare a short copy. */
static void expect_steady(dvsm_heap *heap, size_t most)
{
    struct crowd crowd = {.heap = heap, .random = {1}};
    dvsm_heap *here = heap != NULL ? heap : dvsm_heap_default();

    exchange(&crowd, 100000, most);
    size_t footprint = dvsm_heap_footprint(here);
    exchange(&crowd, 500000, most);
    assert_in_range(dvsm_heap_footprint(here), 0, footprint + footprint / 4);
    assert_int_equal(dvsm_check(here, stderr), 0);
    assert_int_equal(dvsm_bulk_free((void **)crowd.block, BLOCKS), 0);
}

static void test_the_heap_does_not_grow(void **state)
{
    const size_t most[] = {4000, 40000};

    (void)state;
    for (size_t i = 0; i < COUNT(most); i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});

        assert_non_null(heap);
        expect_steady(heap, most[i]);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
    expect_steady(NULL, 4000);
}

/* The cache has no class for the new size that the block could move to. */
static void test_a_size_that_is_not_cached_shrinks_in_place(void **state)
{
    const size_t cache_bytes[] = {64 << 10, SIZE_MAX};

    (void)state;
    for (size_t i = 0; i < COUNT(cache_bytes); i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.cache_bytes = cache_bytes[i]});
        void *block = dvsm_heap_malloc(heap, 30000);

        assert_non_null(block);
        assert_ptr_equal(dvsm_heap_realloc(heap, block, 5000), block);
        assert_true(dvsm_malloc_usable_size(block) < 5032);
        dvsm_free(block);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

/* ---- no memory for a copy */

static void test_a_block_shrinks_in_a_full_heap(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.limit = 4 << 20});
    unsigned char *block = dvsm_heap_malloc(heap, 30000);

    (void)state;
    memset(block, 7, 1000);
    while (dvsm_heap_malloc(heap, 1000) != NULL)
        ;
    assert_int_equal(errno, ENOMEM);
    unsigned char *shrunk = dvsm_heap_realloc(heap, block, 990);
    assert_ptr_equal(shrunk, block);
    assert_int_equal(shrunk[989], 7);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* The limit leaves one granule: too little for a copy, enough to grow in place. */
static void test_a_block_grows_into_the_last_granule(void **state)
{
    dvsm_heap *heap =
        dvsm_heap_create(&(dvsm_options){.arenas = 1, .cache_bytes = SIZE_MAX, .limit = 4 << 20});
    void *block = dvsm_heap_malloc(heap, 60000);

    (void)state;
    dvsm_heap_set_limit(heap, dvsm_heap_footprint(heap) + (64 << 10));
    assert_ptr_equal(dvsm_heap_realloc(heap, block, 100000), block);
    assert_true(dvsm_malloc_usable_size(block) >= 100000);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* ---- what is no block */

static unsigned faults;

static void count_fault(const dvsm_fault *fault)
{
    (void)fault;
    faults++;
}

/* The call fails with one fault, and nothing else happens. */
static void expect_refused(dvsm_heap *heap, void *pointer)
{
    void *volatile hidden = pointer;

    dvsm_set_fault_handler(count_fault);
    faults = 0;
    errno = 0;
    assert_null(resize(heap, hidden, 200));
    assert_int_equal(errno, EINVAL);
    assert_int_equal(faults, 1);
    dvsm_set_fault_handler(NULL);
}

/* Before the address stands a word that could be a block's header; the bytes behind could be the
 * next one's. */
static void test_an_address_in_a_block_is_refused(void **state)
{
    const size_t heads[] = {2, 3, 16 | 2, 16 | 3, 0, 1};
    size_t *block = dvsm_malloc(160);

    (void)state;
    dvsm_free(dvsm_malloc(200)); /* a block for the copy is in the cache */
    for (size_t i = 0; i < COUNT(heads); i++) {
        memset(block, 0xff, 160);
        block[1] = heads[i];
        expect_refused(NULL, &block[2]);
    }
    expect_refused(NULL, (char *)block + 1);
    dvsm_free(block);
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

static void test_a_freed_block_is_refused(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL), *other = dvsm_heap_create(NULL);
    void *of_heap = dvsm_heap_malloc(heap, 100), *of_default = dvsm_malloc(100);
    void *between = dvsm_heap_malloc(heap, 100), *in_default = dvsm_malloc(100);
    dvsm_stats_t stats;

    (void)state;
    dvsm_free(of_heap);
    dvsm_free(of_default);
    expect_refused(heap, of_heap);
    expect_refused(other, of_heap);
    expect_refused(NULL, of_default);
    expect_refused(other, of_default);
    assert_int_equal(dvsm_stats(other, &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
    dvsm_free(between);
    dvsm_free(in_default);
    assert_int_equal(dvsm_heap_destroy(other), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_heap_does_not_grow),
        cmocka_unit_test(test_a_size_that_is_not_cached_shrinks_in_place),
        cmocka_unit_test(test_a_block_shrinks_in_a_full_heap),
        cmocka_unit_test(test_a_block_grows_into_the_last_granule),
        cmocka_unit_test(test_an_address_in_a_block_is_refused),
        cmocka_unit_test(test_a_freed_block_is_refused),
    };

    /* The test stays on one CPU: what other CPUs' lanes keep would count as growth. */
    return cmocka_run_group_tests(tests, cpu_stay, NULL);
}
