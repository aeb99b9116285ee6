/* test_override.c - <dvsm/override.h>, included before the standard headers: malloc and the other
 * names mean the library's functions; dvsm_libc_free() frees what libc itself allocated. */
#define _GNU_SOURCE
#include <dvsm/override.h>

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_ours(void *block)
{
    assert_non_null(block);
    assert_ptr_equal(dvsm_heap_of(block), dvsm_heap_default());
    free(block);
}

static void test_standard_names_allocate_from_the_default_heap(void **state)
{
    void *block = NULL;

    (void)state;
    assert_ours(malloc(10));
    assert_ours(calloc(3, 10));
    assert_ours(realloc(NULL, 10));
    assert_ours(realloc(malloc(10), 100000));
    assert_ours(reallocarray(NULL, 3, 10));
    assert_ours(aligned_alloc(64, 10));
    assert_ours(memalign(64, 10));
    assert_ours(valloc(10));
    assert_ours(pvalloc(10));
    assert_ours(strdup("text"));
    assert_ours(strndup("text", 2));
    assert_int_equal(posix_memalign(&block, 64, 10), 0);
    assert_ours(block);
    assert_ptr_equal(independent_calloc(1, 8, &block), &block);
    assert_ours(block);
    assert_ptr_equal(independent_comalloc(1, &(size_t){8}, &block), &block);
    assert_ours(block);
}

static void call_twice(void (*destroy)(void *), void *one, void *other)
{
    destroy(one);
    destroy(other);
}

static void test_names_can_be_passed_on(void **state)
{
    void *(*allocate)(size_t) = malloc;

    (void)state;
    call_twice(free, allocate(10), allocate(20));
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

static void test_the_rest_of_the_names(void **state)
{
    void *blocks[2] = {malloc(10), malloc(20)};

    (void)state;
    assert_true(malloc_usable_size(blocks[0]) >= 10);
    assert_ptr_equal(realloc_in_place(blocks[1], 10), blocks[1]);
    struct mallinfo2 info = mallinfo2();
    struct mallinfo same = mallinfo();
    assert_int_equal(info.uordblks, same.uordblks);
    assert_true(info.arena > 0 && malloc_footprint() >= info.arena);
    assert_true(malloc_max_footprint() >= malloc_footprint());
    assert_int_equal(malloc_footprint_limit(), SIZE_MAX);
    assert_int_equal(mallopt(-1, 2 << 20), 1);
    assert_int_equal(bulk_free(blocks, 2), 0);
    free_sized(malloc(7), 7);
    free_aligned_sized(aligned_alloc(64, 64), 64, 64);
    malloc_trim(0);
}

static void test_what_libc_allocated_goes_back_to_libc(void **state)
{
    char *text = NULL;

    (void)state;
    assert_true(asprintf(&text, "%d", 42) > 0);
    assert_null(dvsm_heap_of(text));
    dvsm_libc_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_standard_names_allocate_from_the_default_heap),
        cmocka_unit_test(test_names_can_be_passed_on),
        cmocka_unit_test(test_the_rest_of_the_names),
        cmocka_unit_test(test_what_libc_allocated_goes_back_to_libc),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
