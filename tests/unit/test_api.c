/* test_api.c - every public function that gives or takes blocks of the default heap: ordinary use,
 * each size at the limits, errno as specified.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <unistd.h>

#include "support/blocks.h"
#include "support/bytes.h"

/* Sizes that no heap can grant, the borders of the arithmetic among them. */
static const size_t too_large[] = {
    SIZE_MAX,           SIZE_MAX - 1,        SIZE_MAX - 15,       SIZE_MAX - 127, SIZE_MAX - 128,
    SIZE_MAX - 4096,    SIZE_MAX - 65535,    SIZE_MAX - 65536,    SIZE_MAX / 2,   SIZE_MAX / 2 + 1,
    SIZE_MAX / 2 + 100, (size_t)PTRDIFF_MAX, SIZE_MAX - (1 << 20)};
static const size_t sizes[] = {
    0,      1,     2,      7,      8,      15,     16,     17,      23,
    24,     25,    31,     32,     100,    232,    233,    240,     248,
    255,    256,   257,    1000,   1024,   4095,   4096,   4097,    65535,
    65536,  65537, 256000, 262143, 262144, 262145, 300000, 1 << 20, (1 << 20) + 1,
    5000000};

/* ---- malloc, calloc, free */

static void test_malloc_gives_every_size(void **state)
{
    void *block[COUNT(sizes)];

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        block[i] = assert_block(dvsm_malloc(sizes[i]), sizes[i]);
    assert_sound();
    for (size_t i = 0; i < COUNT(sizes); i++)
        assert_true(is_all(block[i], 0xa5, sizes[i]));
    for (size_t i = 0; i < COUNT(sizes); i++)
        dvsm_free(block[i]);
}

static void test_malloc_of_nothing_gives_blocks_of_their_own(void **state)
{
    (void)state;
    void *one = assert_block(dvsm_malloc(0), 0), *other = assert_block(dvsm_malloc(0), 0);
    assert_ptr_not_equal(one, other);
    dvsm_free(one);
    dvsm_free(other);
}

static void test_malloc_refuses_what_cannot_be(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(too_large); i++) {
        assert_fails(dvsm_malloc(too_large[i]), ENOMEM);
        assert_fails(dvsm_calloc(too_large[i], 1), ENOMEM);
        assert_fails(dvsm_calloc(1, too_large[i]), ENOMEM);
        assert_sound();
    }
}

static void test_calloc_zeroes_memory_that_was_used(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        dvsm_free(assert_block(dvsm_malloc(sizes[i]), sizes[i]));
        void *block = dvsm_calloc(sizes[i], 1);
        assert_non_null(block);
        assert_true(is_all(block, 0, sizes[i]));
        dvsm_free(block);
    }
    void *table = dvsm_calloc(300, 7);
    assert_true(is_all(table, 0, 2100));
    dvsm_free(table);
}

static void test_calloc_refuses_products_that_overflow(void **state)
{
    const size_t half = (size_t)1 << (sizeof(size_t) * 4);

    (void)state;
    assert_fails(dvsm_calloc(half, half), ENOMEM);
    assert_fails(dvsm_calloc(half + 1, half), ENOMEM);
    assert_fails(dvsm_calloc(SIZE_MAX, 2), ENOMEM);
    assert_fails(dvsm_calloc(2, SIZE_MAX / 2 + 1), ENOMEM);
    assert_fails(dvsm_calloc(SIZE_MAX, SIZE_MAX), ENOMEM);
    void *nothing = assert_block(dvsm_calloc(0, SIZE_MAX), 0);
    void *none = assert_block(dvsm_calloc(SIZE_MAX, 0), 0);
    dvsm_free(nothing);
    dvsm_free(none);
}

static void test_free_keeps_errno_and_takes_null(void **state)
{
    void *small = dvsm_malloc(10), *large = dvsm_malloc(MIB), *third = dvsm_malloc(20);

    (void)state;
    errno = ERANGE;
    dvsm_free(NULL);
    dvsm_free(small);
    dvsm_free_aligned_sized(large, ALIGN, MIB);
    dvsm_free_sized(third, 20);
    dvsm_free_sized(NULL, 0);
    dvsm_free_aligned_sized(NULL, 0, 0);
    assert_int_equal(errno, ERANGE);
}

static void test_usable_size(void **state)
{
    (void)state;
    assert_int_equal(dvsm_malloc_usable_size(NULL), 0);
    for (size_t size = 0; size < 600; size++) {
        void *block = assert_block(dvsm_malloc(size), size);
        assert_true(dvsm_malloc_usable_size(block) < size + 4 * sizeof(void *));
        dvsm_free(block);
    }
}

/* ---- realloc */

static void test_realloc_keeps_contents_up_to_the_smaller_size(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t j = 0; j < COUNT(sizes); j++) {
            size_t kept = sizes[i] < sizes[j] ? sizes[i] : sizes[j];
            char *block = assert_block(dvsm_malloc(sizes[i]), sizes[i]);
            char *guard = assert_block(dvsm_malloc(40), 40);
            memset(block, 0x5a, sizes[i]);
            block = dvsm_realloc(block, sizes[j]);
            assert_non_null(block);
            assert_true(is_all(block, 0x5a, kept));
            assert_true(is_all(guard, 0xa5, 40));
            assert_block(block, sizes[j]);
            dvsm_free(guard);
            dvsm_free(block);
        }
}

static void test_realloc_of_null_and_to_nothing(void **state)
{
    (void)state;
    void *block = assert_block(dvsm_realloc(NULL, 100), 100);
    block = assert_block(dvsm_realloc(block, 0), 0);
    assert_int_equal(blocks_in_use(dvsm_heap_default()), 1);
    assert_true(dvsm_malloc_usable_size(block) < 100);
    dvsm_free(block);
    dvsm_free(assert_block(dvsm_reallocarray(NULL, 3, 5), 15));
}

static void test_realloc_that_fails_leaves_the_block(void **state)
{
    const size_t block_sizes[] = {0, 100, 1000, MIB};

    (void)state;
    for (size_t i = 0; i < COUNT(block_sizes); i++) {
        void *block = assert_block(dvsm_malloc(block_sizes[i]), block_sizes[i]);
        for (size_t j = 0; j < COUNT(too_large); j++) {
            assert_fails(dvsm_realloc(block, too_large[j]), ENOMEM);
            assert_fails(dvsm_reallocarray(block, too_large[j], 1), ENOMEM);
            assert_fails(dvsm_reallocarray(block, 2, too_large[j]), ENOMEM);
            assert_fails(dvsm_realloc_in_place(block, too_large[j]), ENOMEM);
        }
        assert_true(is_all(block, 0xa5, block_sizes[i]));
        assert_sound();
        dvsm_free(block);
    }
    assert_fails(dvsm_reallocarray(NULL, SIZE_MAX, 2), ENOMEM);
}

static void test_realloc_in_place_does_not_move(void **state)
{
    char *block = assert_block(dvsm_malloc(1000), 1000);

    (void)state;
    assert_ptr_equal(dvsm_realloc_in_place(block, 500), block);
    assert_ptr_equal(dvsm_realloc_in_place(block, 900), block);
    void *neighbour = dvsm_malloc(100);
    assert_fails(dvsm_realloc_in_place(block, 100000), ENOMEM);
    assert_true(is_all(block, 0xa5, 500));
    assert_fails(dvsm_realloc_in_place(NULL, 10), EINVAL);
    dvsm_free(neighbour);
    dvsm_free(block);
}

/* ---- aligned */

static void test_aligned_functions_align(void **state)
{
    const size_t wanted[] = {0, 1, 100, 5000, 300000};

    (void)state;
    for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 2)
        for (size_t i = 0; i < COUNT(wanted); i++) {
            void *block[3] = {dvsm_aligned_alloc(alignment, wanted[i]),
                              dvsm_memalign(alignment, wanted[i]), NULL};
            if (alignment >= sizeof(void *))
                assert_int_equal(dvsm_posix_memalign(&block[2], alignment, wanted[i]), 0);
            for (size_t k = 0; k < 3; k++) {
                if (block[k] == NULL)
                    continue;
                assert_aligned(block[k], alignment);
                assert_block(block[k], wanted[i]);
            }
            assert_int_equal(dvsm_bulk_free(block, 3), 0);
        }
}

static void test_alignments_that_are_none(void **state)
{
    const size_t no_power[] = {0, 3, 5, 6, 24, 100, 4095, SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2};
    int here;
    void *out = &here;

    (void)state;
    errno = ERANGE;
    for (size_t i = 0; i < COUNT(no_power); i++)
        assert_int_equal(dvsm_posix_memalign(&out, no_power[i], 10), EINVAL);
    assert_int_equal(dvsm_posix_memalign(&out, 1, 10), EINVAL);
    assert_int_equal(dvsm_posix_memalign(&out, sizeof(void *) / 2, 10), EINVAL);
    assert_int_equal(dvsm_posix_memalign(&out, sizeof(void *) + sizeof(void *) / 2, 10), EINVAL);
    assert_int_equal(errno, ERANGE);
    assert_ptr_equal(out, &here);
    for (size_t i = 0; i < COUNT(no_power); i++)
        assert_fails(dvsm_aligned_alloc(no_power[i], 10), EINVAL);
}

static void test_memalign_rounds_alignments_up(void **state)
{
    (void)state;
    for (size_t alignment = 0; alignment < 300; alignment++) {
        size_t power = 1;
        while (power < alignment)
            power *= 2;
        void *block = assert_block(dvsm_memalign(alignment, 50), 50);
        assert_aligned(block, power);
        dvsm_free(block);
    }
    assert_fails(dvsm_memalign(SIZE_MAX, 10), EINVAL);
    assert_fails(dvsm_memalign(SIZE_MAX / 2 + 2, 10), EINVAL);
}

static void test_huge_alignments_and_sizes_are_refused(void **state)
{
    const size_t highest = SIZE_MAX / 2 + 1;
    void *out = NULL;

    (void)state;
    assert_fails(dvsm_memalign(highest, 10), ENOMEM);
    assert_fails(dvsm_aligned_alloc(highest, 10), ENOMEM);
    assert_fails(dvsm_aligned_alloc(highest / 2, SIZE_MAX / 2), ENOMEM);
    errno = 0;
    assert_int_equal(dvsm_posix_memalign(&out, highest, 10), ENOMEM);
    for (size_t i = 0; i < COUNT(too_large); i++) {
        for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 4) {
            assert_fails(dvsm_memalign(alignment, too_large[i]), ENOMEM);
            assert_fails(dvsm_aligned_alloc(alignment, too_large[i]), ENOMEM);
        }
        assert_fails(dvsm_valloc(too_large[i]), ENOMEM);
        assert_fails(dvsm_pvalloc(too_large[i]), ENOMEM);
        errno = 0;
        assert_int_equal(dvsm_posix_memalign(&out, 64, too_large[i]), ENOMEM);
        assert_int_equal(errno, 0);
    }
    assert_null(out);
}

static void test_valloc_and_pvalloc_know_pages(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t wanted[] = {0, 1, page - 1, page, page + 1};

    (void)state;
    for (size_t i = 0; i < COUNT(wanted); i++) {
        size_t pages = wanted[i] == 0 ? page : (wanted[i] + page - 1) / page * page;
        void *one = assert_block(dvsm_valloc(wanted[i]), wanted[i]);
        void *other = assert_block(dvsm_pvalloc(wanted[i]), pages);
        assert_aligned(one, page);
        assert_aligned(other, page);
        dvsm_free(one);
        dvsm_free(other);
    }
}

static void test_an_aligned_block_can_be_resized(void **state)
{
    (void)state;
    char *block = dvsm_memalign(4096, 1000);
    memset(block, 0x33, 1000);
    block = dvsm_realloc(block, 100000);
    assert_true(is_all(block, 0x33, 1000));
    block = dvsm_realloc(block, 10);
    assert_true(is_all(block, 0x33, 10));
    dvsm_free(block);
}

/* ---- strings */

static void test_strings_are_copied(void **state)
{
    char text[] = "some text";

    (void)state;
    char *copy = dvsm_strdup(text), *start = dvsm_strndup(text, 4), *all = dvsm_strndup(text, 100);
    char *nothing = dvsm_strdup(""), *none = dvsm_strndup(text, 0);
    text[0] = 'x';
    assert_string_equal(copy, "some text");
    assert_string_equal(start, "some");
    assert_string_equal(all, "some text");
    assert_string_equal(nothing, "");
    assert_string_equal(none, "");
    void *blocks[] = {copy, start, all, nothing, none};
    assert_int_equal(dvsm_bulk_free(blocks, COUNT(blocks)), 0);
}

static void test_strndup_does_not_read_beyond(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_ptr_not_equal(pages, MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
    memcpy(pages + page - 3, "end", 3);
    char *copy = dvsm_strndup(pages + page - 3, 3);
    assert_string_equal(copy, "end");
    dvsm_free(copy);
    munmap(pages, 2 * page);
}

/* ---- many at once */

static void test_independent_calloc(void **state)
{
    void *mine[10];

    (void)state;
    dvsm_free(assert_block(dvsm_malloc(5000), 5000));
    void **theirs = dvsm_independent_calloc(10, 100, NULL);
    assert_non_null(theirs);
    assert_ptr_equal(dvsm_independent_calloc(10, 300, mine), mine);
    for (size_t i = 0; i < 10; i++) {
        assert_true(is_all(theirs[i], 0, 100));
        assert_true(is_all(mine[i], 0, 300));
        assert_block(theirs[i], 100);
        assert_block(mine[i], 300);
    }
    assert_sound();
    assert_int_equal(blocks_in_use(dvsm_heap_default()), 21);
    dvsm_free(theirs[3]);
    theirs[3] = NULL;
    assert_int_equal(dvsm_bulk_free(theirs, 10), 0);
    assert_int_equal(dvsm_bulk_free(mine, 10), 0);
    dvsm_free(theirs);
}

static void test_independent_comalloc(void **state)
{
    const size_t wanted[] = {1, 0, 1000, 300000, 24};
    void *mine[5];

    (void)state;
    void **theirs = dvsm_independent_comalloc(5, wanted, NULL);
    assert_non_null(theirs);
    assert_ptr_equal(dvsm_independent_comalloc(5, wanted, mine), mine);
    for (size_t i = 0; i < 5; i++) {
        assert_block(theirs[i], wanted[i]);
        assert_block(mine[i], wanted[i]);
    }
    assert_sound();
    assert_int_equal(dvsm_bulk_free(theirs, 5), 0);
    assert_int_equal(dvsm_bulk_free(mine, 5), 0);
    dvsm_free(theirs);
}

static void test_independent_of_nothing(void **state)
{
    void *mine[1] = {NULL};

    (void)state;
    assert_ptr_equal(dvsm_independent_calloc(0, 10, mine), mine);
    assert_ptr_equal(dvsm_independent_comalloc(0, NULL, mine), mine);
    assert_null(mine[0]);
    void **smallest = dvsm_independent_calloc(0, 10, NULL);
    assert_non_null(smallest);
    dvsm_free(smallest);
    smallest = dvsm_independent_comalloc(0, NULL, NULL);
    assert_non_null(smallest);
    dvsm_free(smallest);
}

static void test_independent_refuses_what_cannot_be(void **state)
{
    void *mine[3] = {NULL};
    const size_t sum_overflows[] = {SIZE_MAX / 2, SIZE_MAX / 2, 100};

    (void)state;
    for (size_t i = 0; i < COUNT(too_large); i++) {
        const size_t one_too_large[] = {10, too_large[i], 10};
        assert_fails(dvsm_independent_calloc(2, too_large[i], mine), ENOMEM);
        assert_fails(dvsm_independent_calloc(too_large[i], 16, NULL), ENOMEM);
        assert_fails(dvsm_independent_comalloc(3, one_too_large, mine), ENOMEM);
        assert_fails(dvsm_independent_comalloc(3, one_too_large, NULL), ENOMEM);
    }
    assert_fails(dvsm_independent_comalloc(3, sum_overflows, mine), ENOMEM);
    assert_true(is_all(mine, 0, sizeof mine));
}

static void test_bulk_free_takes_blocks_of_all_heaps(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.backend = &dvsm_backend_anon});
    void *blocks[300];

    (void)state;
    assert_non_null(heap);
    for (size_t i = 0; i < COUNT(blocks); i++)
        blocks[i] = i % 7 == 0   ? NULL
                    : i % 2 == 0 ? dvsm_malloc(i * i * 5)
                                 : dvsm_heap_malloc(heap, i * i * 5);
    assert_int_equal(dvsm_bulk_free(blocks, COUNT(blocks)), 0);
    assert_true(is_all(blocks, 0, sizeof blocks));
    assert_int_equal(blocks_in_use(heap), 0);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    errno = ERANGE;
    assert_int_equal(dvsm_bulk_free(blocks, COUNT(blocks)), 0);
    assert_int_equal(dvsm_bulk_free(NULL, 0), 0);
    assert_int_equal(errno, ERANGE);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_bulk_free_leaves_what_is_of_no_heap(void **state)
{
    int local;
    void *blocks[] = {dvsm_malloc(10), &local, dvsm_malloc(20), NULL, dvsm_malloc(30)};

    (void)state;
    errno = ERANGE;
    assert_int_equal(dvsm_bulk_free(blocks, COUNT(blocks)), 1);
    assert_int_equal(errno, ERANGE); /* no fault */
    assert_ptr_equal(blocks[1], &local);
    assert_null(blocks[0]);
    assert_null(blocks[2]);
    assert_null(blocks[4]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        api_test(test_malloc_gives_every_size),
        api_test(test_malloc_of_nothing_gives_blocks_of_their_own),
        api_test(test_malloc_refuses_what_cannot_be),
        api_test(test_calloc_zeroes_memory_that_was_used),
        api_test(test_calloc_refuses_products_that_overflow),
        api_test(test_free_keeps_errno_and_takes_null),
        api_test(test_usable_size),
        api_test(test_realloc_keeps_contents_up_to_the_smaller_size),
        api_test(test_realloc_of_null_and_to_nothing),
        api_test(test_realloc_that_fails_leaves_the_block),
        api_test(test_realloc_in_place_does_not_move),
        api_test(test_aligned_functions_align),
        api_test(test_alignments_that_are_none),
        api_test(test_memalign_rounds_alignments_up),
        api_test(test_huge_alignments_and_sizes_are_refused),
        api_test(test_valloc_and_pvalloc_know_pages),
        api_test(test_an_aligned_block_can_be_resized),
        api_test(test_strings_are_copied),
        api_test(test_strndup_does_not_read_beyond),
        api_test(test_independent_calloc),
        api_test(test_independent_comalloc),
        api_test(test_independent_of_nothing),
        api_test(test_independent_refuses_what_cannot_be),
        api_test(test_bulk_free_takes_blocks_of_all_heaps),
        api_test(test_bulk_free_leaves_what_is_of_no_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
