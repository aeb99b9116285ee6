/* test_contract.c - POSIX, C23 and the Linux man pages, sentence by sentence: sizes that are zero,
 * too large, or overflow; alignments; what a failure must not change; errno. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/bytes.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ABOVE ((size_t)PTRDIFF_MAX + 1)
#define ALIGNMENT_LEAST (2 * sizeof(void *))

enum { MARKER = 4711 }; /* an errno value that no call sets */

/* ---- each way to get a block of one size, of the default heap and of a given one */

static dvsm_heap *given;

static void *by_malloc(size_t size)
{
    return dvsm_malloc(size);
}

static void *by_calloc(size_t size)
{
    return dvsm_calloc(1, size);
}

static void *by_calloc_of_bytes(size_t size)
{
    return dvsm_calloc(size, 1);
}

static void *by_realloc(size_t size)
{
    return dvsm_realloc(NULL, size);
}

static void *by_reallocarray(size_t size)
{
    return dvsm_reallocarray(NULL, size, 1);
}

static void *by_aligned_alloc(size_t size)
{
    return dvsm_aligned_alloc(64, size);
}

static void *by_aligned_alloc_wide(size_t size)
{
    return dvsm_aligned_alloc(1 << 20, size);
}

static void *by_memalign(size_t size)
{
    return dvsm_memalign(4096, size);
}

/* posix_memalign() must not change errno: its error is the value that it returns, and is put
 * into errno here. */
static void *by_posix_memalign(size_t size)
{
    void *untouched = &given, *block = untouched;
    int before = errno, error = dvsm_posix_memalign(&block, 256, size);

    assert_int_equal(errno, before);
    if (error == 0)
        return block;
    assert_ptr_equal(block, untouched);
    errno = error;
    return NULL;
}

static void *by_valloc(size_t size)
{
    return dvsm_valloc(size);
}

static void *by_pvalloc(size_t size)
{
    return dvsm_pvalloc(size);
}

static void *by_independent_calloc(size_t size)
{
    void *block[1] = {NULL};

    return dvsm_independent_calloc(1, size, block) != NULL ? block[0] : NULL;
}

static void *by_independent_comalloc(size_t size)
{
    void *block[1] = {NULL};

    return dvsm_independent_comalloc(1, &size, block) != NULL ? block[0] : NULL;
}

static void *by_heap_malloc(size_t size)
{
    return dvsm_heap_malloc(given, size);
}

static void *by_heap_calloc(size_t size)
{
    return dvsm_heap_calloc(given, size, 1);
}

static void *by_heap_realloc(size_t size)
{
    return dvsm_heap_realloc(given, NULL, size);
}

static void *by_heap_reallocarray(size_t size)
{
    return dvsm_heap_reallocarray(given, NULL, 1, size);
}

static void *by_heap_aligned_alloc(size_t size)
{
    return dvsm_heap_aligned_alloc(given, 128, size);
}

static void *by_heap_memalign(size_t size)
{
    return dvsm_heap_memalign(given, 32, size);
}

static void *by_heap_posix_memalign(size_t size)
{
    void *block = NULL;
    int error = dvsm_heap_posix_memalign(given, &block, 64, size);

    if (error != 0)
        errno = error;
    return block;
}

static void *by_heap_independent_calloc(size_t size)
{
    void *block[1] = {NULL};

    return dvsm_heap_independent_calloc(given, 1, size, block) != NULL ? block[0] : NULL;
}

static void *by_heap_independent_comalloc(size_t size)
{
    void *block[1] = {NULL};

    return dvsm_heap_independent_comalloc(given, 1, &size, block) != NULL ? block[0] : NULL;
}

static const struct way {
    void *(*get)(size_t size);
    size_t alignment;
    const char *name;
} ways[] = {
    {by_malloc, ALIGNMENT_LEAST, "malloc"},
    {by_calloc, ALIGNMENT_LEAST, "calloc(1, n)"},
    {by_calloc_of_bytes, ALIGNMENT_LEAST, "calloc(n, 1)"},
    {by_realloc, ALIGNMENT_LEAST, "realloc"},
    {by_reallocarray, ALIGNMENT_LEAST, "reallocarray"},
    {by_aligned_alloc, 64, "aligned_alloc(64)"},
    {by_aligned_alloc_wide, 1 << 20, "aligned_alloc(1 MiB)"},
    {by_memalign, 4096, "memalign"},
    {by_posix_memalign, 256, "posix_memalign"},
    {by_valloc, 4096, "valloc"},
    {by_pvalloc, 4096, "pvalloc"},
    {by_independent_calloc, ALIGNMENT_LEAST, "independent_calloc"},
    {by_independent_comalloc, ALIGNMENT_LEAST, "independent_comalloc"},
    {by_heap_malloc, ALIGNMENT_LEAST, "heap_malloc"},
    {by_heap_calloc, ALIGNMENT_LEAST, "heap_calloc"},
    {by_heap_realloc, ALIGNMENT_LEAST, "heap_realloc"},
    {by_heap_reallocarray, ALIGNMENT_LEAST, "heap_reallocarray"},
    {by_heap_aligned_alloc, 128, "heap_aligned_alloc"},
    {by_heap_memalign, 32, "heap_memalign"},
    {by_heap_posix_memalign, 64, "heap_posix_memalign"},
    {by_heap_independent_calloc, ALIGNMENT_LEAST, "heap_independent_calloc"},
    {by_heap_independent_comalloc, ALIGNMENT_LEAST, "heap_independent_comalloc"},
};

static int make_given(void **state)
{
    (void)state;
    given = dvsm_heap_create(&(dvsm_options){.reserve = (size_t)256 << 20});
    return given == NULL;
}

static int destroy_given(void **state)
{
    (void)state;
    return dvsm_check(dvsm_heap_default(), stderr) != 0 || dvsm_check(given, stderr) != 0 ||
           dvsm_heap_destroy(given) != 0;
}

/* ---- what succeeds */

/* "If size is 0, ... a unique pointer value that can later be successfully passed to free()"; a
 * block is suitably aligned, and its bytes are the caller's. A call that succeeds leaves errno
 * alone, and so does free(). */
static void test_any_size_gives_a_block_of_its_own(void **state)
{
    static const size_t sizes[] = {0,    1,    2,    15,   16,    24,     100,    1000,
                                   4095, 4096, 5000, 9000, 32768, 100000, 300000, (1 << 20) + 1};

    (void)state;
    for (size_t w = 0; w < COUNT(ways); w++)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            errno = MARKER;
            char *a = ways[w].get(sizes[i]), *b = ways[w].get(sizes[i]);

            if (a == NULL || b == NULL || a == b || errno != MARKER)
                fail_msg("%s of %zu bytes: %p and %p, errno %d", ways[w].name, sizes[i], (void *)a,
                         (void *)b, errno);
            assert_int_equal((uintptr_t)a % ways[w].alignment, 0);
            assert_int_equal((uintptr_t)b % ways[w].alignment, 0);
            assert_true(dvsm_malloc_usable_size(a) >= sizes[i]);
            memset(a, 1, dvsm_malloc_usable_size(a));
            memset(b, 2, dvsm_malloc_usable_size(b));
            if (sizes[i] > 0)
                assert_true(a[0] == 1 && a[sizes[i] - 1] == 1 && b[0] == 2);
            errno = MARKER;
            dvsm_free(a);
            dvsm_free_sized(b, sizes[i]);
            assert_int_equal(errno, MARKER);
        }
}

/* "The memory is set to zero": also memory that was used before, wherever it comes from. */
static void test_calloc_is_zero_whatever_was_there_before(void **state)
{
    static const size_t sizes[] = {1, 40, 2000, 20000, 40000, 200000, 300000, 2 << 20, 5 << 20};

    (void)state;
    for (int round = 0; round < 4; round++)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            char *a = dvsm_heap_calloc(given, sizes[i], 1), *b = dvsm_calloc(2, sizes[i]);

            assert_true(is_all(a, 0, sizes[i]) && is_all(b, 0, 2 * sizes[i]));
            memset(a, 0xff, dvsm_malloc_usable_size(a));
            memset(b, 0xff, dvsm_malloc_usable_size(b));
            dvsm_free(a);
            dvsm_free(b);
            if (round == 1)
                dvsm_heap_trim(given, 0);
        }
    /* Only a part of this memory was used before. */
    char *old = dvsm_heap_malloc(given, 3 << 20);
    memset(old, 0xff, 3 << 20);
    dvsm_free(old);
    char *mixed = dvsm_heap_calloc(given, 8 << 20, 1);
    assert_true(is_all(mixed, 0, 8 << 20));
    dvsm_free(mixed);
}

/* "If ptr is NULL, no operation is performed", for all that take a block. */
static void test_nothing_is_done_with_no_block(void **state)
{
    void *none[2] = {NULL, NULL};

    (void)state;
    errno = MARKER;
    dvsm_free(NULL);
    dvsm_free_sized(NULL, 10);
    dvsm_free_aligned_sized(NULL, 16, 10);
    assert_int_equal(dvsm_malloc_usable_size(NULL), 0);
    assert_int_equal(dvsm_bulk_free(none, 2), 0);
    assert_int_equal(errno, MARKER);
}

/* "The contents will be unchanged in the range from the start of the region up to the minimum of
 * the old and new sizes"; size 0 gives a block. */
static void test_realloc_keeps_what_both_sizes_have(void **state)
{
    static const size_t sizes[] = {0,     1,      50,     64,  3000, 20,     70000, 40000,
                                   90000, 400000, 900000, 300, 0,    500000, 100};
    unsigned char *block = NULL;
    size_t have = 0;

    (void)state;
    errno = MARKER;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t size = sizes[i];

        block = dvsm_realloc(block, size);
        assert_non_null(block);
        for (size_t k = 0; k < (have < size ? have : size); k += 13)
            assert_int_equal(block[k], (unsigned char)(k / 13 + i - 1));
        for (size_t k = 0; k < size; k += 13)
            block[k] = (unsigned char)(k / 13 + i);
        have = size;
    }
    dvsm_free(block);
    assert_int_equal(errno, MARKER);
}

static void test_copies_of_strings_end(void **state)
{
    char text[] = {'a', 'b', 'c', 'd'}; /* no zero byte: strndup() must not look further */

    (void)state;
    errno = MARKER;
    char *whole = dvsm_strdup("abc"), *part = dvsm_strndup(text, 4), *none = dvsm_strndup(text, 0),
         *longer = dvsm_heap_strndup(given, "ab", SIZE_MAX), *empty = dvsm_heap_strdup(given, "");
    assert_int_equal(errno, MARKER);
    assert_string_equal(whole, "abc");
    assert_memory_equal(part, "abcd", 5);
    assert_string_equal(none, "");
    assert_string_equal(longer, "ab");
    assert_string_equal(empty, "");
    dvsm_free(whole);
    dvsm_free(part);
    dvsm_free(none);
    dvsm_free(longer);
    dvsm_free(empty);
}

static void test_pages(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    (void)state;
    for (size_t size = 0; size < 3 * page; size += page / 2 - 1) {
        char *v = dvsm_valloc(size), *p = dvsm_pvalloc(size);

        assert_int_equal((uintptr_t)v % page, 0);
        assert_int_equal((uintptr_t)p % page, 0);
        assert_true(dvsm_malloc_usable_size(p) >=
                    (size == 0 ? page : (size + page - 1) / page * page));
        dvsm_free(v);
        dvsm_free_aligned_sized(p, page, size);
    }
}

/* ---- what fails */

struct before {
    dvsm_stats_t here, there;
    unsigned char *block;
};

static void fill_caches(struct before *b)
{
    void *blocks[200];

    for (size_t i = 0; i < COUNT(blocks); i++)
        blocks[i] =
            i % 2 ? dvsm_malloc(100 * (i % 5) + 1) : dvsm_heap_malloc(given, 90 * (i % 7) + 1);
    for (size_t i = 0; i < COUNT(blocks); i++)
        dvsm_free(blocks[i]);
    b->block = dvsm_malloc(100);
    memset(b->block, 0x5a, 100);
    dvsm_stats(dvsm_heap_default(), &b->here);
    dvsm_stats(given, &b->there);
}

static void expect_unchanged(struct before *b)
{
    dvsm_stats_t here, there;

    dvsm_stats(dvsm_heap_default(), &here);
    dvsm_stats(given, &there);
    assert_memory_equal(&here, &b->here, sizeof here);
    assert_memory_equal(&there, &b->there, sizeof there);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(b->block[i], 0x5a);
}

static void expect_refused(const char *what, size_t size, const void *block)
{
    if (block != NULL || errno != ENOMEM)
        fail_msg("%s of %zu bytes: %p, errno %d", what, size, block, errno);
}

/* "malloc() and related functions rejected sizes greater than PTRDIFF_MAX" with ENOMEM. So are
 * sizes that the whole reserve could not hold. The attempt gives nothing back. */
static void test_sizes_that_cannot_be_had_change_nothing(void **state)
{
    const size_t sizes[] = {ABOVE,           ABOVE + 1,     ABOVE + 4096, SIZE_MAX / 4 * 3,
                            SIZE_MAX - 4096, SIZE_MAX - 16, SIZE_MAX - 1, SIZE_MAX,
                            ABOVE - 1,       ABOVE - 4096};
    struct before before;

    (void)state;
    fill_caches(&before);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t size = sizes[i];

        for (size_t w = 0; w < COUNT(ways); w++) {
            errno = MARKER;
            expect_refused(ways[w].name, size, ways[w].get(size));
        }
        errno = MARKER;
        expect_refused("realloc of a block", size, dvsm_realloc(before.block, size));
        errno = MARKER;
        expect_refused("reallocarray", size, dvsm_reallocarray(before.block, size, 1));
        errno = MARKER;
        expect_refused("heap_realloc", size, dvsm_heap_realloc(given, before.block, size));
        errno = MARKER;
        expect_refused("realloc_in_place", size, dvsm_realloc_in_place(before.block, size));
    }
    errno = MARKER;
    expect_refused("beyond the reserve", 300 << 20, dvsm_heap_malloc(given, 300 << 20));
    errno = MARKER;
    expect_refused("beyond the reserve", 300 << 20, dvsm_heap_calloc(given, 300, 1 << 20));
    expect_unchanged(&before);
    dvsm_free(before.block);
}

/* "If the multiplication of nmemb and size would result in integer overflow, then calloc() returns
 * an error"; reallocarray() likewise, and "the original block of memory is left unchanged". */
static void test_products_that_overflow(void **state)
{
    const size_t half = (size_t)1 << (sizeof(size_t) * 4);
    const struct {
        size_t count, size;
    } products[] = {{half, half},         {SIZE_MAX, 2},
                    {2, SIZE_MAX},        {SIZE_MAX / 2, 3},
                    {SIZE_MAX, SIZE_MAX}, {half + 1, half},
                    {2, SIZE_MAX / 2},    {4, (size_t)1 << (sizeof(size_t) * 8 - 2)}};
    struct before before;
    size_t sizes[2];
    void *blocks[2] = {&given, &given};

    (void)state;
    fill_caches(&before);
    for (size_t i = 0; i < COUNT(products); i++) {
        size_t count = products[i].count, size = products[i].size;

        errno = MARKER;
        expect_refused("calloc", i, dvsm_calloc(count, size));
        errno = MARKER;
        expect_refused("heap_calloc", i, dvsm_heap_calloc(given, count, size));
        errno = MARKER;
        expect_refused("reallocarray", i, dvsm_reallocarray(before.block, count, size));
        errno = MARKER;
        expect_refused("heap_reallocarray", i, dvsm_heap_reallocarray(given, NULL, count, size));
        errno = MARKER;
        expect_refused("independent_calloc", i, dvsm_independent_calloc(count, size, NULL));
        sizes[0] = sizes[1] = SIZE_MAX - i;
        errno = MARKER;
        expect_refused("independent_comalloc", i, dvsm_independent_comalloc(2, sizes, blocks));
        assert_true(blocks[0] == &given && blocks[1] == &given);
    }
    expect_unchanged(&before);
    dvsm_free(before.block);
}

/* aligned_alloc(): "EINVAL: the alignment argument is not a power of two". posix_memalign(): the
 * alignment must also be "a multiple of sizeof(void *)"; the error is returned, and errno and
 * *memptr stay as they were. memalign() rounds up. */
static void test_alignments(void **state)
{
    static const size_t wrong[] = {0, 3, 24, 48, 100, 4095, SIZE_MAX, SIZE_MAX / 2 + 2};

    (void)state;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        void *untouched = &given, *block = untouched;

        errno = MARKER;
        assert_null(dvsm_aligned_alloc(wrong[i], 100));
        assert_int_equal(errno, EINVAL);
        errno = MARKER;
        assert_null(dvsm_heap_aligned_alloc(given, wrong[i], 100));
        assert_int_equal(errno, EINVAL);
        errno = MARKER;
        assert_int_equal(dvsm_posix_memalign(&block, wrong[i], 100), EINVAL);
        assert_int_equal(dvsm_heap_posix_memalign(given, &block, wrong[i], 100), EINVAL);
        assert_int_equal(errno, MARKER);
        assert_ptr_equal(block, untouched);
    }
    for (size_t small = 1; small < sizeof(void *); small *= 2) {
        void *block = NULL;

        assert_int_equal(dvsm_posix_memalign(&block, small, 1), EINVAL);
        assert_non_null(block = dvsm_aligned_alloc(small, 1));
        dvsm_free(block);
    }
    for (size_t alignment = 1; alignment <= (size_t)1 << 20; alignment = alignment * 3 / 2 + 1) {
        char *block = dvsm_memalign(alignment, 10);
        size_t rounded = 1;

        while (rounded < alignment)
            rounded *= 2;
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % rounded, 0);
        dvsm_free(block);
    }
}

/* An alignment that the region cannot grant is a lack of memory. */
static void test_alignments_too_large(void **state)
{
    struct before before;

    (void)state;
    fill_caches(&before);
    for (size_t alignment = ABOVE; alignment > ABOVE / 16; alignment /= 2) {
        void *untouched = &given, *block = untouched;

        errno = MARKER;
        expect_refused("aligned_alloc", alignment, dvsm_aligned_alloc(alignment, 100));
        errno = MARKER;
        expect_refused("memalign", alignment, dvsm_heap_memalign(given, alignment, 100));
        errno = MARKER;
        assert_int_equal(dvsm_posix_memalign(&block, alignment, 100), ENOMEM);
        assert_int_equal(errno, MARKER);
        assert_ptr_equal(block, untouched);
    }
    expect_unchanged(&before);
    dvsm_free(before.block);
}

/* ---- realloc where memory is short */

/* "If realloc() fails, the original block is left untouched". Where there is no memory for a
 * copy but the block can grow in place, realloc succeeds and leaves errno alone. */
static void test_realloc_at_the_limit(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.limit = (size_t)4 << 20});
    unsigned char *block = dvsm_heap_malloc(heap, 1 << 20);

    (void)state;
    memset(block, 7, 1 << 20);
    errno = MARKER;
    expect_refused("realloc beyond the limit", 5 << 20, dvsm_realloc(block, 5 << 20));
    size_t size = 1 << 20;
    for (;;) {
        errno = MARKER;
        unsigned char *larger = dvsm_realloc(block, size + 50000);

        if (larger == NULL)
            break;
        assert_int_equal(errno, MARKER);
        block = larger;
        size += 50000;
    }
    assert_int_equal(errno, ENOMEM);
    assert_true(size > (size_t)2 << 20); /* more than half the limit: it grew in place */
    for (size_t i = 0; i < 1 << 20; i++)
        assert_int_equal(block[i], 7);
    errno = MARKER;
    assert_non_null(block = dvsm_realloc(block, 10));
    assert_int_equal(errno, MARKER);
    dvsm_free(block);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_size_gives_a_block_of_its_own),
        cmocka_unit_test(test_calloc_is_zero_whatever_was_there_before),
        cmocka_unit_test(test_nothing_is_done_with_no_block),
        cmocka_unit_test(test_realloc_keeps_what_both_sizes_have),
        cmocka_unit_test(test_copies_of_strings_end),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_sizes_that_cannot_be_had_change_nothing),
        cmocka_unit_test(test_products_that_overflow),
        cmocka_unit_test(test_alignments),
        cmocka_unit_test(test_alignments_too_large),
        cmocka_unit_test(test_realloc_at_the_limit),
    };

    return cmocka_run_group_tests_name("contract", tests, make_given, destroy_given);
}
