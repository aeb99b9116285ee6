/* test_retain.c - how much unused memory a heap keeps: enough that blocks which come and go need
 * few calls into the system, and not more than was asked for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "dvsm/dvsm.h"
#include "support/failing_backend.h"
#include "support/random.h"

enum { BLOCKS = 20, ROUNDS = 2000, CALLS_MOST = 200 };
#define MIB ((size_t)1 << 20)

static dvsm_heap *new_heap(struct failing_backend *f, size_t retain, size_t limit)
{
    dvsm_heap *heap =
        dvsm_heap_create(&(dvsm_options){.backend = &f->backend, .retain = retain, .limit = limit});

    assert_non_null(heap);
    return heap;
}

static size_t retained(dvsm_heap *heap)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_stats(heap, &stats), 0);
    return stats.retained_bytes;
}

static size_t used(dvsm_heap *heap)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_stats(heap, &stats), 0);
    return stats.committed_bytes - stats.metadata_bytes - stats.retained_bytes;
}

static unsigned long system_calls(const struct failing_backend *f)
{
    return f->plan[FAILING_COMMIT].calls + f->plan[FAILING_RELEASE].calls;
}

/* Frees and allocates 20 blocks of 5 to 25 MiB, 2,000 times in all, and returns the number of
 * calls into the system. Never is more retained than 16 MiB or half of what is in use. */
static unsigned long come_and_go(bool in_turn, bool of_one_size)
{
    struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
    dvsm_heap *heap = new_heap(f, 0, 0);
    struct random_source random = {5};
    void *block[BLOCKS] = {NULL};

    failing_backend_reset(f);
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t at = in_turn ? i % BLOCKS : random_below(&random, BLOCKS);
        size_t size = of_one_size ? (5 + at) * MIB : 5 * MIB + random_below(&random, 20 * MIB);

        dvsm_free(block[at]);
        assert_true(retained(heap) <= 16 * MIB || retained(heap) <= used(heap) / 2);
        block[at] = dvsm_heap_malloc(heap, size);
        assert_non_null(block[at]);
    }
    unsigned long calls = system_calls(f);
    for (int i = 0; i < BLOCKS; i++)
        dvsm_free(block[i]);
    assert_true(retained(heap) <= 16 * MIB);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    failing_backend_delete(f);
    return calls;
}

/* If sizes and order are both random, some free memory is in pieces that fit no request. As the
 * lowest place is taken first, such pieces add up to about half of what is in use, which is what
 * may be retained. */
static void test_blocks_that_come_and_go_cost_few_calls(void **state)
{
    unsigned long same = come_and_go(false, true), in_turn = come_and_go(true, false),
                  at_random = come_and_go(false, false);

    (void)state;
    print_message("calls into the system: %lu of one size each, %lu in turn, %lu at random\n", same,
                  in_turn, at_random);
    assert_true(same <= CALLS_MOST && in_turn <= CALLS_MOST);
    assert_true(at_random <= ROUNDS / 4);
}

static void test_the_limit_decides_where_there_is_one(void **state)
{
    struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
    dvsm_heap *heap = new_heap(f, 0, 200 * MIB);
    void *block[16];

    (void)state;
    for (size_t i = 0; i < 16; i++)
        assert_non_null(block[i] = dvsm_heap_malloc(heap, 10 * MIB));
    for (size_t i = 0; i < 16; i++)
        dvsm_free(block[i]);
    assert_in_range(retained(heap), 40 * MIB, 50 * MIB);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    failing_backend_delete(f);
}

static void test_the_option(void **state)
{
    static const size_t wanted[] = {1, 3 * MIB, SIZE_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
        dvsm_heap *heap = new_heap(f, wanted[i], 0);
        void *block[30];

        for (size_t j = 0; j < 30; j++)
            assert_non_null(block[j] = dvsm_heap_malloc(heap, MIB));
        for (size_t j = 0; j < 30; j++)
            dvsm_free(block[j]);
        if (wanted[i] == SIZE_MAX)
            assert_true(retained(heap) >= 30 * MIB);
        else
            assert_in_range(retained(heap), wanted[i] / 2, wanted[i]);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
        failing_backend_delete(f);
    }
}

/* Options as the first version had them end before this field. */
static void test_options_without_the_field(void **state)
{
    struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
    dvsm_options options = {
        .size = offsetof(dvsm_options, retain), .backend = &f->backend, .retain = 1};
    dvsm_heap *heap = dvsm_heap_create(&options);
    void *block = dvsm_heap_malloc(heap, MIB);

    (void)state;
    assert_non_null(block);
    dvsm_free(block);
    assert_true(retained(heap) >= MIB);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    failing_backend_delete(f);
}

static void test_mallopt(void **state)
{
    void *block = dvsm_malloc(8 * MIB), *other = dvsm_malloc(8 * MIB);

    (void)state;
    dvsm_free(block);
    assert_true(retained(dvsm_heap_default()) >= 8 * MIB);
    assert_int_equal(dvsm_mallopt(DVSM_M_RETAIN, (int)MIB), 1);
    assert_true(retained(dvsm_heap_default()) <= MIB);
    dvsm_free(other);
    assert_true(retained(dvsm_heap_default()) <= MIB);
    assert_int_equal(dvsm_mallopt(DVSM_M_RETAIN, -1), 1);
    other = dvsm_malloc(40 * MIB);
    dvsm_free(other);
    assert_true(retained(dvsm_heap_default()) >= 40 * MIB);
    assert_int_equal(dvsm_mallopt(DVSM_M_RETAIN, -2), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_RETAIN, 0), 1);
    assert_int_equal(retained(dvsm_heap_default()), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_that_come_and_go_cost_few_calls),
        cmocka_unit_test(test_the_limit_decides_where_there_is_one),
        cmocka_unit_test(test_the_option),
        cmocka_unit_test(test_options_without_the_field),
        cmocka_unit_test(test_mallopt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
