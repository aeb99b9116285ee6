/* test_api.c - every public function: ordinary use, each size at the limits, errno as specified.
 *
 * After each test the default heap is sound, and nothing is left in use.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"

enum { KIB = 1 << 10, MIB = 1 << 20, ALIGN = 2 * sizeof(void *) };

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

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static size_t blocks_in_use(dvsm_heap *heap)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_stats(heap, &stats), 0);
    return stats.used_blocks;
}

static void assert_sound(void)
{
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

static int check_after(void **state)
{
    (void)state;
    return dvsm_check(dvsm_heap_default(), stderr) == 0 && blocks_in_use(dvsm_heap_default()) == 0
               ? 0
               : -1;
}

/* That the expression is NULL and sets errno. */
#define assert_fails(expression, error)                                                            \
    do {                                                                                           \
        errno = 0;                                                                                 \
        assert_null(expression);                                                                   \
        assert_int_equal(errno, error);                                                            \
    } while (0)

static void assert_aligned(const void *block, size_t alignment)
{
    assert_int_equal((uintptr_t)block & (alignment - 1), 0);
}

/* That the block is there, aligned, of that many bytes at least, and all of them can be written. */
static void *assert_block(void *block, size_t size)
{
    assert_non_null(block);
    assert_aligned(block, ALIGN);
    assert_true(dvsm_malloc_usable_size(block) >= size);
    memset(block, 0xa5, dvsm_malloc_usable_size(block));
    return block;
}

static bool is_all(const void *block, int byte, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)block)[i] != (unsigned char)byte)
            return false;
    return true;
}

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

/* ---- looking after it */

static void test_trim_gives_back(void **state)
{
    (void)state;
    void *block[64];
    for (size_t i = 0; i < COUNT(block); i++)
        block[i] = assert_block(dvsm_malloc(100 * KIB), 100 * KIB);
    size_t full = dvsm_malloc_footprint();
    assert_int_equal(dvsm_bulk_free(block, COUNT(block)), 0);
    dvsm_malloc_trim(2 * MIB);
    size_t padded = dvsm_malloc_footprint();
    assert_int_equal(dvsm_malloc_trim(0), 1);
    size_t least = dvsm_malloc_footprint();
    assert_true(full >= COUNT(block) * 100 * KIB);
    assert_true(least < padded && padded < full);
    assert_true(least < 512 * KIB);
    assert_int_equal(dvsm_malloc_trim(0), 0);
    assert_int_equal(dvsm_malloc_trim(SIZE_MAX), 0);
    assert_true(dvsm_malloc_max_footprint() >= full);
}

static void test_the_limit_holds(void **state)
{
    size_t limit = dvsm_malloc_footprint() + 8 * MIB;
    void *block[100];
    size_t count = 0;

    (void)state;
    dvsm_malloc_trim(0);
    assert_int_equal(dvsm_malloc_footprint_limit(), SIZE_MAX);
    limit = dvsm_malloc_set_footprint_limit(limit);
    assert_int_equal(dvsm_malloc_footprint_limit(), limit);
    assert_int_equal(limit % (64 * KIB), 0);
    while (count < COUNT(block) && (block[count] = dvsm_malloc(200 * KIB)) != NULL)
        count++;
    assert_in_range(count, 5, COUNT(block) - 1);
    assert_int_equal(errno, ENOMEM);
    assert_true(dvsm_malloc_footprint() <= limit);
    assert_fails(dvsm_malloc(16 * MIB), ENOMEM);
    assert_sound();
    assert_int_equal(dvsm_malloc_set_footprint_limit(SIZE_MAX), SIZE_MAX);
    void *more = assert_block(dvsm_malloc(16 * MIB), 16 * MIB);
    dvsm_free(more);
    assert_int_equal(dvsm_bulk_free(block, count), 0);
    assert_int_equal(dvsm_malloc_set_footprint_limit(1), 64 * KIB);
    assert_int_equal(dvsm_malloc_set_footprint_limit(SIZE_MAX - 5), SIZE_MAX);
}

static void test_mallopt_takes_what_dlmalloc_takes(void **state)
{
    (void)state;
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 1 << 20), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 0), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, -1), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 4096), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 1 << 20), 1);
    dvsm_free(assert_block(dvsm_malloc(5000000), 5000000));
    assert_sound();
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 65536), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 2048), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 65535), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 0), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, -1), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -2), 0);
    assert_int_equal(dvsm_mallopt(1, 64), 0);
    assert_int_equal(dvsm_mallopt(0, 64), 0);
    assert_int_equal(dvsm_mallopt(-5, 64), 0);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 256 * KIB);
    dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 2 * MIB);
}

static void test_the_threshold_decides_what_is_large(void **state)
{
    (void)state;
    void *first = dvsm_malloc(10);
    void *large = dvsm_malloc(3 * MIB);
    assert_int_equal(dvsm_mallinfo().hblks, 1);
    assert_true(dvsm_mallinfo().hblkhd >= 3 * MIB);
    dvsm_free(large);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
    large = dvsm_malloc(3 * MIB);
    assert_int_equal(dvsm_mallinfo().hblks, 0);
    dvsm_free(large);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 256 * KIB);
    dvsm_free(first);
}

static void test_mallinfo_adds_up(void **state)
{
    (void)state;
    void *small = dvsm_malloc(1000), *hole = dvsm_malloc(1000), *end = dvsm_malloc(1000);
    void *large = dvsm_malloc(8 * MIB); /* more than any arena has free */
    dvsm_free(hole);
    struct dvsm_mallinfo info = dvsm_mallinfo();
    assert_int_equal(info.uordblks + info.fordblks, info.arena + info.hblkhd);
    assert_true(info.uordblks >= 2000 + 8 * MIB);
    assert_true(info.fordblks >= 1000);
    assert_true(info.ordblks + info.smblks >= 2);
    assert_true(info.keepcost <= info.fordblks);
    assert_true(info.usmblks >= info.arena + info.hblkhd);
    assert_true(info.fsmblks <= info.fordblks && (info.smblks > 0) == (info.fsmblks > 0));
    assert_int_equal(info.hblks, 1);
    dvsm_free(small);
    dvsm_free(end);
    dvsm_free(large);
}

static int print_stats(void *context)
{
    (void)context;
    dvsm_malloc_stats();
    return 0;
}

static void test_malloc_stats_prints_three_lines(void **state)
{
    char text[1000];
    size_t most, now, used;

    (void)state;
    void *block = dvsm_malloc(54321);
    assert_int_equal(run_in_child_with_stderr(print_stats, NULL, text, sizeof text), 0);
    assert_int_equal(sscanf(text,
                            "max system bytes = %zu\nsystem bytes = %zu\nin use bytes = %zu\n",
                            &most, &now, &used),
                     3);
    assert_int_equal(most, dvsm_malloc_max_footprint());
    assert_int_equal(now, dvsm_malloc_footprint());
    assert_int_equal(used, dvsm_mallinfo().uordblks);
    dvsm_free(block);
}

struct inspected {
    const void *wanted;
    size_t used_bytes, free_bytes, wanted_seen;
};

static void inspect(void *start, void *end, size_t used_bytes, void *context)
{
    struct inspected *inspected = context;
    size_t bytes = (size_t)((char *)end - (char *)start);

    assert_true(start < end);
    inspected->used_bytes += used_bytes;
    if (used_bytes == 0)
        inspected->free_bytes += bytes;
    if (start == inspected->wanted)
        inspected->wanted_seen += used_bytes;
}

static void test_inspect_all_sees_blocks_and_free_chunks(void **state)
{
    (void)state;
    void *small = dvsm_malloc(100), *hole = dvsm_malloc(5000), *end = dvsm_malloc(100);
    void *large = dvsm_memalign(4096, MIB);
    dvsm_free(hole);
    struct inspected of_small = {small, 0, 0, 0}, of_large = {large, 0, 0, 0};
    dvsm_malloc_inspect_all(inspect, &of_small);
    dvsm_malloc_inspect_all(inspect, &of_large);
    assert_int_equal(of_small.wanted_seen, dvsm_malloc_usable_size(small));
    assert_int_equal(of_large.wanted_seen, dvsm_malloc_usable_size(large));
    assert_int_equal(of_small.used_bytes, dvsm_malloc_usable_size(small) +
                                              dvsm_malloc_usable_size(end) +
                                              dvsm_malloc_usable_size(large));
    assert_true(of_small.free_bytes >= 4900);
    dvsm_free(small);
    dvsm_free(end);
    dvsm_free(large);
}

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

/* ---- looking inside */

struct seen {
    size_t count[5], bytes[5];
    const void *wanted;
    dvsm_chunk chunk; /* the wanted one */
};

static void see(const dvsm_chunk *chunk, void *context)
{
    struct seen *seen = context;

    seen->count[chunk->state]++;
    seen->bytes[chunk->state] += chunk->bytes;
    if (chunk->block == seen->wanted)
        seen->chunk = *chunk;
}

static void test_walk_and_stats_agree(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});
    struct seen seen = {0};
    dvsm_stats_t stats;

    (void)state;
    void *small = dvsm_heap_malloc(heap, 100), *hole = dvsm_heap_malloc(heap, 5000);
    void *end = dvsm_heap_malloc(heap, 200), *large = dvsm_heap_memalign(heap, 1024, MIB);
    dvsm_free(hole);
    seen.wanted = large;
    dvsm_walk(heap, see, &seen);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(seen.count[DVSM_CHUNK_USED], 2);
    assert_int_equal(seen.count[DVSM_CHUNK_LARGE], 1);
    assert_int_equal(seen.chunk.state, DVSM_CHUNK_LARGE);
    assert_int_equal(seen.chunk.usable, dvsm_malloc_usable_size(large));
    assert_int_equal(seen.chunk.arena, 0);
    assert_int_equal(stats.used_blocks, 3);
    assert_int_equal(stats.used_bytes, seen.bytes[DVSM_CHUNK_USED] + seen.bytes[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.large_blocks, 1);
    assert_int_equal(stats.large_bytes, seen.bytes[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.free_chunks, seen.count[DVSM_CHUNK_FREE]);
    assert_int_equal(stats.free_bytes, seen.bytes[DVSM_CHUNK_FREE]);
    assert_int_equal(stats.committed_bytes, dvsm_heap_footprint(heap));
    assert_int_equal(stats.committed_most_bytes, dvsm_heap_max_footprint(heap));
    assert_int_equal(stats.limit_bytes, SIZE_MAX);
    assert_int_equal(stats.arenas, 1);
    assert_int_equal(stats.arenas_damaged + stats.recoveries, 0);
    assert_true(stats.metadata_bytes > 0 && stats.metadata_bytes < stats.committed_bytes);
    assert_true(stats.reserved_bytes >= stats.committed_bytes);
    dvsm_free(small);
    dvsm_free(end);
    dvsm_free(large);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* Segments that are not neighbours are joined by records, which are no blocks. */
static void test_records_of_segments_are_overhead(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});
    struct seen seen = {0};
    void *block[30];
    size_t used = 0;

    (void)state;
    block[0] = dvsm_heap_malloc(heap, 10);
    block[1] = dvsm_heap_malloc(heap, MIB); /* large: stands in the way of the segment's growth */
    for (size_t i = 2; i < COUNT(block); i++)
        block[i] = dvsm_heap_malloc(heap, 30000);
    dvsm_walk(heap, see, &seen);
    for (size_t i = 0; i < COUNT(block); i++)
        used += block[i] != NULL;
    assert_int_equal(used, COUNT(block));
    assert_int_equal(seen.count[DVSM_CHUNK_OVERHEAD], 1);
    assert_int_equal(seen.count[DVSM_CHUNK_USED], used - 1);
    assert_int_equal(blocks_in_use(heap), used);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_bulk_free(block, COUNT(block)), 0);
    assert_int_equal(blocks_in_use(heap), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_stats_of_an_unused_heap(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.reserve = 64 * MIB});
    dvsm_stats_t stats;

    (void)state;
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.reserved_bytes, 64 * MIB);
    assert_int_equal(stats.arenas + stats.used_blocks + stats.free_chunks, 0);
    assert_int_equal(stats.committed_bytes, stats.metadata_bytes);
    assert_int_equal(dvsm_heap_max_footprint(heap), dvsm_heap_footprint(heap));
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_trim(heap, 0), 0);
    assert_int_equal(dvsm_heap_mallinfo(heap).arena, 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

#define api_test(function) cmocka_unit_test_teardown(function, check_after)

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
        api_test(test_trim_gives_back),
        api_test(test_the_limit_holds),
        api_test(test_mallopt_takes_what_dlmalloc_takes),
        api_test(test_the_threshold_decides_what_is_large),
        api_test(test_mallinfo_adds_up),
        api_test(test_malloc_stats_prints_three_lines),
        api_test(test_inspect_all_sees_blocks_and_free_chunks),
        api_test(test_a_heap_of_each_backend),
        api_test(test_every_allocating_function_of_a_heap),
        api_test(test_heap_realloc_moves_the_block_into_the_heap),
        api_test(test_what_is_no_heap_is_refused),
        api_test(test_the_default_heap_stays),
        api_test(test_heap_of_knows_what_is_in_none),
        api_test(test_many_heaps_then_no_more),
        api_test(test_walk_and_stats_agree),
        api_test(test_records_of_segments_are_overhead),
        api_test(test_stats_of_an_unused_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
