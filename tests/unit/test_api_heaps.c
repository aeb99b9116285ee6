/* test_api_heaps.c - the public functions that make, use and tell heaps. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/blocks.h"
#include "support/bytes.h"

/* ---- heaps */

static const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_anon,
                                               &dvsm_backend_shm_open};

static void test_a_heap_of_each_backend(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(backends); i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.backend = backends[i]});
        assert_non_null(heap);
        assert_ptr_not_equal(heap, dvsm_heap_default());
        void *block = assert_block(dvsm_heap_malloc(heap, 1000), 1000);
        void *zeroes = dvsm_heap_calloc(heap, 100, 10);
        assert_true(is_all(zeroes, 0, 1000));
        assert_ptr_equal(dvsm_heap_of(block), heap);
        assert_ptr_equal(dvsm_heap_of((char *)block + 999), heap);
        block = assert_block(dvsm_realloc(block, 500000), 500000);
        assert_ptr_equal(dvsm_heap_of(block), heap);
        assert_int_equal(blocks_in_use(heap), 2);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        dvsm_free(block);
        dvsm_free(zeroes);
        assert_int_equal(blocks_in_use(heap), 0);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
        assert_null(dvsm_heap_of(block));
    }
}

static void test_every_allocating_function_of_a_heap(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);
    const size_t wanted[] = {10, 20};
    void *out = NULL, *pair[2];

    (void)state;
    assert_non_null(heap);
    assert_int_equal(dvsm_heap_posix_memalign(heap, &out, 64, 10), 0);
    void *blocks[] = {dvsm_heap_malloc(heap, 10),
                      dvsm_heap_calloc(heap, 2, 10),
                      dvsm_heap_realloc(heap, NULL, 10),
                      dvsm_heap_reallocarray(heap, NULL, 2, 10),
                      dvsm_heap_aligned_alloc(heap, 32, 10),
                      dvsm_heap_memalign(heap, 100, 10),
                      out,
                      dvsm_heap_strdup(heap, "text"),
                      dvsm_heap_strndup(heap, "text", 2),
                      dvsm_heap_independent_calloc(heap, 1, 10, pair)[0],
                      dvsm_heap_independent_comalloc(heap, 2, wanted, pair)[0],
                      pair[1]};
    assert_string_equal(blocks[7], "text");
    assert_string_equal(blocks[8], "te");
    for (size_t i = 0; i < COUNT(blocks); i++)
        assert_ptr_equal(dvsm_heap_of(assert_block(blocks[i], 3)), heap);
    assert_aligned(blocks[4], 32);
    assert_aligned(blocks[5], 128);
    assert_aligned(blocks[6], 64);
    assert_int_equal(blocks_in_use(heap), COUNT(blocks));
    assert_int_equal(blocks_in_use(dvsm_heap_default()), 0);
    assert_int_equal(dvsm_bulk_free(blocks, COUNT(blocks)), 0);
    assert_true(dvsm_heap_mallinfo(heap).arena > 0);
    assert_true(dvsm_heap_footprint(heap) > 0);
    assert_true(dvsm_heap_max_footprint(heap) >= dvsm_heap_footprint(heap));
    dvsm_heap_trim(heap, 0);
    assert_int_equal(dvsm_heap_trim(heap, 0), 0);
    assert_int_equal(dvsm_heap_limit(heap), SIZE_MAX);
    assert_int_equal(dvsm_heap_set_limit(heap, MIB), MIB);
    assert_int_equal(dvsm_heap_limit(heap), MIB);
    assert_fails(dvsm_heap_malloc(heap, MIB), ENOMEM);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_heap_realloc_moves_the_block_into_the_heap(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);

    (void)state;
    char *block = dvsm_strdup("text");
    block = dvsm_heap_realloc(heap, block, 5);
    assert_ptr_equal(dvsm_heap_of(block), heap);
    assert_string_equal(block, "text");
    assert_int_equal(blocks_in_use(dvsm_heap_default()), 0);
    block = dvsm_heap_reallocarray(dvsm_heap_default(), block, 5, 100);
    assert_ptr_equal(dvsm_heap_of(block), dvsm_heap_default());
    assert_string_equal(block, "text");
    assert_int_equal(blocks_in_use(heap), 0);
    dvsm_free(block);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static int visit_nothing;

static void visit_none(const dvsm_chunk *chunk, void *context)
{
    (void)chunk;
    (void)context;
    visit_nothing++;
}

static void expect_no_heap(dvsm_heap *heap)
{
    const size_t one = 1;
    dvsm_stats_t stats;
    void *out = NULL;

    assert_fails(dvsm_heap_malloc(heap, 1), EINVAL);
    assert_fails(dvsm_heap_calloc(heap, 1, 1), EINVAL);
    assert_fails(dvsm_heap_realloc(heap, NULL, 1), EINVAL);
    assert_fails(dvsm_heap_reallocarray(heap, NULL, 1, 1), EINVAL);
    assert_fails(dvsm_heap_aligned_alloc(heap, 16, 1), EINVAL);
    assert_fails(dvsm_heap_memalign(heap, 64, 1), EINVAL);
    assert_fails(dvsm_heap_strdup(heap, ""), EINVAL);
    assert_fails(dvsm_heap_strndup(heap, "", 1), EINVAL);
    assert_fails(dvsm_heap_independent_calloc(heap, 1, 1, NULL), EINVAL);
    assert_fails(dvsm_heap_independent_comalloc(heap, 1, &one, NULL), EINVAL);
    errno = 0;
    assert_int_equal(dvsm_heap_posix_memalign(heap, &out, 64, 1), EINVAL);
    assert_int_equal(errno, 0);
    assert_int_equal(dvsm_heap_trim(heap, 0), 0);
    assert_int_equal(dvsm_heap_footprint(heap), 0);
    assert_int_equal(dvsm_heap_max_footprint(heap), 0);
    assert_int_equal(dvsm_heap_limit(heap), 0);
    assert_int_equal(dvsm_heap_set_limit(heap, 1), 0);
    assert_int_equal(dvsm_heap_mallinfo(heap).arena, 0);
    assert_int_equal(dvsm_heap_destroy(heap), -1);
    assert_int_equal(dvsm_check(heap, NULL), -1);
    assert_int_equal(dvsm_stats(heap, &stats), -1);
    dvsm_walk(heap, visit_none, NULL);
    assert_int_equal(visit_nothing, 0);
    assert_int_equal(errno, EINVAL);
}

static void test_what_is_no_heap_is_refused(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);

    (void)state;
    assert_non_null(heap);
    expect_no_heap(NULL);
    expect_no_heap((dvsm_heap *)(void *)((char *)heap + 8));
    expect_no_heap((dvsm_heap *)(void *)&visit_nothing);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    expect_no_heap(heap);
}

static void test_the_default_heap_stays(void **state)
{
    (void)state;
    errno = 0;
    assert_int_equal(dvsm_heap_destroy(dvsm_heap_default()), -1);
    assert_int_equal(errno, EINVAL);
    dvsm_free(assert_block(dvsm_malloc(10), 10));
}

static void test_heap_of_knows_what_is_in_none(void **state)
{
    int local;
    void *block = dvsm_malloc(1);

    (void)state;
    errno = ERANGE;
    assert_ptr_equal(dvsm_heap_of(block), dvsm_heap_default());
    assert_null(dvsm_heap_of(NULL));
    assert_null(dvsm_heap_of(&local));
    assert_null(dvsm_heap_of(&local + 1));
    assert_null(dvsm_heap_of((void *)UINTPTR_MAX));
    assert_int_equal(errno, ERANGE);
    dvsm_free(block);
}

static void test_many_heaps_then_no_more(void **state)
{
    static dvsm_heap *heap[1100];
    const dvsm_options options = {.backend = &dvsm_backend_anon, .reserve = 2 * MIB};
    size_t count = 0;

    (void)state;
    while (count < COUNT(heap) && (heap[count] = dvsm_heap_create(&options)) != NULL)
        count++;
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(count, 1023);
    void *block = assert_block(dvsm_heap_malloc(heap[1022], 100), 100);
    assert_ptr_equal(dvsm_heap_of(block), heap[1022]);
    dvsm_free(block);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(dvsm_heap_destroy(heap[i]), 0);
    heap[0] = dvsm_heap_create(&options);
    assert_non_null(heap[0]);
    assert_int_equal(dvsm_heap_destroy(heap[0]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        api_test(test_a_heap_of_each_backend),
        api_test(test_every_allocating_function_of_a_heap),
        api_test(test_heap_realloc_moves_the_block_into_the_heap),
        api_test(test_what_is_no_heap_is_refused),
        api_test(test_the_default_heap_stays),
        api_test(test_heap_of_knows_what_is_in_none),
        api_test(test_many_heaps_then_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
