/* test_fast_path.c - how many instructions malloc, free and realloc of libdvsm.so execute when the
 * lane has what is wanted.
 *
 * The library is loaded into the running program, and finds there a stand-in for the C library's
 * rseq area. The kernel does not know that area, so that a child can be single-stepped through the
 * sequences without aborting them.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "support/stepping.h"

#if defined __x86_64__ && defined __OPTIMIZE__ && !defined __SANITIZE_ADDRESS__ &&                 \
    !defined __SANITIZE_THREAD__ && !defined DVSM_COVERAGE
enum { CODE_IS_AS_SHIPPED = 1 };
#else
enum { CODE_IS_AS_SHIPPED = 0 };
#endif

/* The C library defines these: where the area is, counted from the thread pointer, and its size.
 * Definitions in the program itself take precedence. */
ptrdiff_t __rseq_offset;
unsigned int __rseq_size;

static _Thread_local struct {
    uint32_t cpu_id_start, cpu_id;
    uint64_t rseq_cs;
    uint32_t flags, rest[3];
} area __attribute__((aligned(32)));

static void *(*library_malloc)(size_t size);
static void (*library_free)(void *block);
static void *(*library_realloc)(void *block, size_t size);

static int load_library(void **state)
{
    const char *path = getenv("DVSM_LIBRARY");

    (void)state;
    if (!CODE_IS_AS_SHIPPED || path == NULL)
        return 0;
    __rseq_offset = (char *)&area - (char *)__builtin_thread_pointer();
    __rseq_size = sizeof area;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    *(void **)&library_malloc = dlsym(library, "dvsm_malloc");
    *(void **)&library_free = dlsym(library, "dvsm_free");
    *(void **)&library_realloc = dlsym(library, "dvsm_realloc");
    return library_malloc != NULL && library_free != NULL && library_realloc != NULL ? 0 : -1;
}

/* ---- counting */

static void a_pair(void *context)
{
    library_free(library_malloc(*(const size_t *)context));
}

/* Counts instructions from the function's first one until it returns. */
static unsigned count_instructions(struct stepped *s, uintptr_t function)
{
    unsigned count = 0;

    while (stepping_at(s) != function)
        if (!stepping_step(s))
            return 0;
    uintptr_t back = stepping_peek(s, stepping_stack_pointer(s));
    while (stepping_at(s) != back && stepping_step(s))
        count++;
    return count;
}

static void check_pair(size_t size, unsigned malloc_most, unsigned free_most)
{
    struct stepped s;

    if (library_malloc == NULL)
        skip();
    for (int i = 0; i < 8; i++)
        a_pair(&size);
    area.rseq_cs = 0;
    a_pair(&size);
    assert_int_not_equal(area.rseq_cs, 0); /* the sequences use this area */
    if (!stepping_start(&s, a_pair, &size))
        skip();
    unsigned in_malloc = count_instructions(&s, (uintptr_t)library_malloc);
    unsigned in_free = count_instructions(&s, (uintptr_t)library_free);
    assert_int_equal(stepping_finish(&s), 0);
    printf("%zu bytes: malloc %u, free %u instructions\n", size, in_malloc, in_free);
    assert_in_range(in_malloc, 10, malloc_most);
    assert_in_range(in_free, 10, free_most);
}

static void test_a_pair_of_64_bytes(void **state)
{
    (void)state;
    check_pair(64, 40, 40);
}

static void test_a_pair_of_500_bytes(void **state)
{
    (void)state;
    check_pair(500, 40, 40);
}

static void test_a_pair_of_8000_bytes(void **state)
{
    (void)state;
    check_pair(8000, 40, 43);
}

struct change {
    size_t from, to;
};

static void a_change(void *context)
{
    const struct change *change = context;

    library_free(library_realloc(library_malloc(change->from), change->to));
}

static void check_realloc(struct change change, unsigned most)
{
    struct stepped s;

    if (library_malloc == NULL)
        skip();
    for (int i = 0; i < 8; i++)
        a_change(&change);
    if (!stepping_start(&s, a_change, &change))
        skip();
    unsigned count = count_instructions(&s, (uintptr_t)library_realloc);
    assert_int_equal(stepping_finish(&s), 0);
    printf("%zu to %zu bytes: realloc %u instructions\n", change.from, change.to, count);
    assert_in_range(count, 10, most);
}

static void test_a_block_that_stays(void **state)
{
    (void)state;
    check_realloc((struct change){100, 98}, 110);
    check_realloc((struct change){8000, 7500}, 110);
}

/* The count includes copying the bytes. */
static void test_a_block_that_moves(void **state)
{
    (void)state;
    check_realloc((struct change){64, 100}, 180);
    check_realloc((struct change){500, 100}, 180);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pair_of_64_bytes),   cmocka_unit_test(test_a_pair_of_500_bytes),
        cmocka_unit_test(test_a_pair_of_8000_bytes), cmocka_unit_test(test_a_block_that_stays),
        cmocka_unit_test(test_a_block_that_moves),
    };

    return cmocka_run_group_tests(tests, load_library, NULL);
}
