/* test_sized_free.c - freeing with a size: the size that was asked for is accepted, whatever
 * function the block is from; a size that the block cannot have is a fault, and nothing is freed.
 *
 *     unit_sized_free [seed [operations]]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dvsm/dvsm.h"
#include "support/random.h"

enum { LARGEST = 1 << 20 };

static struct random_run arguments;
static struct random_source dice;
static dvsm_heap *heap; /* not the default one */
static size_t faults;

static void count_fault(const dvsm_fault *fault)
{
    assert_non_null(strstr(fault->what, "not the size of this block"));
    faults++;
}

struct asked {
    void *block;
    size_t size, alignment;
};

static size_t any_size(void)
{
    return random_size(&dice, random_once_in(&dice, 20) ? LARGEST : 5000);
}

/* A block from any function of the default heap or the other one. */
static struct asked ask(void)
{
    struct asked a = {.size = any_size(), .alignment = 1};

    switch (random_below(&dice, 8)) {
    case 0:
        a.block = dvsm_calloc(1, a.size);
        break;
    case 1:
        a.block = dvsm_heap_malloc(heap, a.size);
        break;
    case 2:
    case 3:
        a.alignment = (size_t)1 << random_below(&dice, 14);
        a.block = dvsm_aligned_alloc(a.alignment, a.size);
        break;
    case 4:
        a.alignment = (size_t)1 << random_below(&dice, 9);
        a.block = dvsm_heap_memalign(heap, a.alignment, a.size);
        break;
    case 5:
        a.block = NULL;
        if (dvsm_independent_calloc(1, a.size, &a.block) == NULL)
            a.block = NULL;
        break;
    default:
        a.block = dvsm_malloc(a.size);
        break;
    }
    assert_non_null(a.block);
    if (a.alignment == 1)
        while (random_once_in(&dice, 3)) {
            a.size = random_once_in(&dice, 2) ? any_size() : a.size - a.size / 10;
            a.block = dvsm_realloc(a.block, a.size);
            assert_non_null(a.block);
        }
    return a;
}

static void free_as_asked(const struct asked *a)
{
    if (a->alignment > 1 || random_once_in(&dice, 2))
        dvsm_free_aligned_sized(a->block, a->alignment, a->size);
    else
        dvsm_free_sized(a->block, a->size);
}

static void test_what_was_asked_for_is_right(void **state)
{
    enum { HELD = 200 };
    struct asked held[HELD] = {{0}};

    (void)state;
    for (size_t i = 0; i < arguments.operations; i++) {
        struct asked *a = &held[random_below(&dice, HELD)];

        if (a->block != NULL)
            free_as_asked(a);
        *a = ask();
        assert_int_equal(faults, 0);
    }
    for (size_t i = 0; i < HELD; i++)
        dvsm_free(held[i].block);
    assert_int_equal(dvsm_check(heap, stderr) + dvsm_check(dvsm_heap_default(), stderr), 0);
}

/* The call is refused with one fault: the block is not freed, and can be written to. */
static void expect_refused(void *block, size_t alignment, size_t wrong, size_t right)
{
    size_t before = faults;

    errno = 77;
    if (alignment == 1)
        dvsm_free_sized(block, wrong);
    else
        dvsm_free_aligned_sized(block, alignment, wrong);
    assert_int_equal(errno, 77);
    assert_int_equal(faults, before + 1);
    memset(block, 1, right);
}

static void test_what_the_block_cannot_have_is_a_fault(void **state)
{
    static const size_t sizes[] = {0, 1, 24, 100, 1000, 1017, 3000, 20000, 200000, 2000000};

    (void)state;
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = sizes[i / 2];
        void *block = i % 2 == 0 ? dvsm_malloc(size) : dvsm_heap_malloc(heap, size);
        size_t usable = dvsm_malloc_usable_size(block);

        assert_non_null(block);
        faults = 0;
        expect_refused(block, 1, usable + 1, size);
        expect_refused(block, 1, SIZE_MAX, size);
        expect_refused(block, 64, usable + 1, size);
        dvsm_free_sized(block, size);
        assert_int_equal(faults, 3);
    }
    faults = 0;
    dvsm_free_sized(NULL, 100);
    dvsm_free_aligned_sized(NULL, 64, 100);
    assert_int_equal(faults, 0);
    assert_int_equal(dvsm_check(heap, stderr) + dvsm_check(dvsm_heap_default(), stderr), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_asked_for_is_right),
        cmocka_unit_test(test_what_the_block_cannot_have_is_a_fault),
    };

    arguments = random_run_from(argc, argv, 300000);
    dice.state = arguments.seed;
    heap = dvsm_heap_create(NULL);
    dvsm_set_fault_handler(count_fault);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
