/* support/blocks.h - what tests of the public functions expect of blocks and of the default heap.
 * Include it after <cmocka.h>.
 */
#ifndef DVSM_TESTS_SUPPORT_BLOCKS_H
#define DVSM_TESTS_SUPPORT_BLOCKS_H

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dvsm/dvsm.h"

enum { KIB = 1 << 10, MIB = 1 << 20, ALIGN = 2 * sizeof(void *) };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static inline size_t blocks_in_use(dvsm_heap *heap)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_stats(heap, &stats), 0);
    return stats.used_blocks;
}

static inline void assert_sound(void)
{
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

static inline int check_after(void **state)
{
    (void)state;
    return dvsm_check(dvsm_heap_default(), stderr) == 0 && blocks_in_use(dvsm_heap_default()) == 0
               ? 0
               : -1;
}

/* Expects that the expression is NULL and sets errno. */
#define assert_fails(expression, error)                                                            \
    do {                                                                                           \
        errno = 0;                                                                                 \
        assert_null(expression);                                                                   \
        assert_int_equal(errno, error);                                                            \
    } while (0)

static inline void assert_aligned(const void *block, size_t alignment)
{
    assert_int_equal((uintptr_t)block & (alignment - 1), 0);
}

/* Expects a block: not NULL, aligned, of at least that many bytes, all of which can be written. */
static inline void *assert_block(void *block, size_t size)
{
    assert_non_null(block);
    assert_aligned(block, ALIGN);
    assert_true(dvsm_malloc_usable_size(block) >= size);
    memset(block, 0xa5, dvsm_malloc_usable_size(block));
    return block;
}

/* After such a test the default heap is sound, and nothing is left in use. */
#define api_test(function) cmocka_unit_test_teardown(function, check_after)

#endif
