/* test_records.c - a walk shows the allocator's own records, but no call accepts one as a block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "dvsm/dvsm.h"

enum { RECORDS_MOST = 64, ROUNDS = 40 };

struct records {
    void *at[RECORDS_MOST];
    size_t count;
};

static size_t faults;

static void on_fault(const dvsm_fault *fault)
{
    assert_string_equal(fault->what, "one of the allocator's own records");
    faults++;
}

static void note_record(const dvsm_chunk *chunk, void *context)
{
    struct records *records = context;

    if (chunk->state == DVSM_CHUNK_OVERHEAD && records->count < RECORDS_MOST)
        records->at[records->count++] = chunk->block;
}

/* Large blocks keep the arena's segments apart, so that there are several, each with a record. */
static dvsm_heap *heap_with_records(struct records *records)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});

    assert_non_null(heap);
    for (int i = 0; i < ROUNDS; i++) {
        assert_non_null(dvsm_heap_malloc(heap, 300000));
        assert_non_null(dvsm_heap_malloc(heap, 45000 + 100 * (size_t)i));
        assert_non_null(dvsm_heap_malloc(heap, 45000));
    }
    dvsm_walk(heap, note_record, records);
    assert_true(records->count > 3);
    return heap;
}

/* Passes the record to each call that takes a block: each refuses it with the right fault. */
static void hand_over(dvsm_heap *heap, void *record)
{
    void *blocks[2] = {record, NULL};

    faults = 0;
    dvsm_free(record);
    assert_int_equal(faults, 1);
    dvsm_free_sized(record, 32);
    dvsm_free_aligned_sized(record, 16, 32);
    assert_int_equal(faults, 3);
    errno = 0;
    assert_null(dvsm_realloc(record, 20));
    assert_int_equal(errno, EINVAL);
    assert_null(dvsm_realloc(record, 2000));
    assert_null(dvsm_heap_realloc(heap, record, 300));
    assert_null(dvsm_realloc_in_place(record, 30));
    assert_int_equal(faults, 7);
    assert_int_equal(dvsm_malloc_usable_size(record), 0);
    assert_int_equal(dvsm_bulk_free(blocks, 1), 1);
    assert_int_equal(faults, 9);
}

static void test_a_record_is_refused_by_each_call(void **state)
{
    struct records records = {.count = 0};
    dvsm_heap *heap = heap_with_records(&records);
    dvsm_fault_handler former = dvsm_set_fault_handler(on_fault);

    (void)state;
    for (size_t i = 0; i < records.count; i++) {
        hand_over(heap, records.at[i]);
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
    dvsm_set_fault_handler(former);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_records_in_a_bulk(void **state)
{
    struct records records = {.count = 0};
    dvsm_heap *heap = heap_with_records(&records);
    dvsm_fault_handler former = dvsm_set_fault_handler(on_fault);
    void *blocks[RECORDS_MOST];

    (void)state;
    faults = 0;
    for (size_t i = 0; i < records.count; i++)
        blocks[i] = records.at[i];
    assert_int_equal(dvsm_bulk_free(blocks, records.count), records.count);
    assert_int_equal(faults, records.count);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    dvsm_set_fault_handler(former);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* A record was passed to free, but is never handed out as a block. */
static void test_no_record_comes_back_as_a_block(void **state)
{
    struct records records = {.count = 0};
    dvsm_heap *heap = heap_with_records(&records);
    dvsm_fault_handler former = dvsm_set_fault_handler(on_fault);

    (void)state;
    for (size_t i = 0; i < records.count; i++)
        dvsm_free(records.at[i]);
    for (int i = 0; i < 1000; i++) {
        void *block = dvsm_heap_malloc(heap, 40);

        for (size_t j = 0; j < records.count; j++)
            assert_ptr_not_equal(block, records.at[j]);
        memset(block, i, 40);
    }
    assert_int_equal(dvsm_check(heap, stderr), 0);
    dvsm_set_fault_handler(former);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_is_refused_by_each_call),
        cmocka_unit_test(test_records_in_a_bulk),
        cmocka_unit_test(test_no_record_comes_back_as_a_block),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
