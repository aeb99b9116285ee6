/* test_segment_retain.c - how much of what was given back stays committed.
 *
 * Modes: default
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/granule_calls.h"

static const size_t least = ((size_t)16 << 20) / GRANULE;

static size_t retained(struct granule_backend *b)
{
    return usage_of(b).retained / GRANULE;
}

static void test_a_small_heap_retains_16_mib(void **state)
{
    struct granule_backend *b = granule_backend_new(5000);

    (void)state;
    assert_int_equal(take(b, 2 * least), 0);
    for (size_t i = 0; i < 2 * least; i++) {
        give(b, i, 1);
        assert_int_equal(retained(b), i < least ? i + 1 : least);
    }
    granule_backend_delete(b);
}

static void test_half_of_what_is_in_use_is_retained(void **state)
{
    struct granule_backend *b = granule_backend_new(5000);

    (void)state;
    assert_int_equal(take(b, 3000), 0);
    for (size_t i = 0; i < 1000; i += 10)
        give(b, i, 10);
    assert_int_equal(retained(b), 1000);
    give(b, 1000, 10); /* 1990 would be in use, and 1010 retained */
    assert_int_equal(retained(b), 995);
    granule_backend_delete(b);
}

/* When all is given back, what was retained while more was in use goes, too. */
static void test_retention_falls_with_use(void **state)
{
    struct granule_backend *b = granule_backend_new(5000);

    (void)state;
    assert_int_equal(take(b, 3000), 0);
    for (size_t i = 0; i < 3000; i += 50) {
        struct segment_usage usage;

        give(b, i, 50);
        usage = usage_of(b);

        size_t used = (usage.committed - usage.retained) / GRANULE;
        assert_true(retained(b) <= (used / 2 > least ? used / 2 : least));
    }
    assert_int_equal(usage_of(b).committed, least * GRANULE);
    granule_backend_delete(b);
}

static void test_a_quarter_of_the_limit_is_retained(void **state)
{
    struct granule_backend *b = granule_backend_new(5000);

    (void)state;
    segment_set_limit(&b->segments, 4000 * GRANULE);
    assert_int_equal(take(b, 3000), 0);
    for (size_t i = 0; i < 3000; i += 10)
        give(b, i, 10);
    assert_int_equal(retained(b), 1000);
    granule_backend_delete(b);
}

static void test_what_the_user_sets_holds_instead(void **state)
{
    struct granule_backend *b = granule_backend_new(5000);

    (void)state;
    segment_set_retain(&b->segments, 0);
    assert_int_equal(take(b, 3000), 0);
    give(b, 0, 10);
    assert_int_equal(retained(b), 0);
    segment_set_retain(&b->segments, SIZE_MAX);
    give(b, 10, 2990);
    assert_int_equal(retained(b), 2990);
    granule_backend_delete(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_small_heap_retains_16_mib),
        cmocka_unit_test(test_half_of_what_is_in_use_is_retained),
        cmocka_unit_test(test_retention_falls_with_use),
        cmocka_unit_test(test_a_quarter_of_the_limit_is_retained),
        cmocka_unit_test(test_what_the_user_sets_holds_instead),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
