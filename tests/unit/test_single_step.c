/* test_single_step.c - calls that are single-stepped, as by a debugger, come to their end.
 *
 * The kernel aborts a restartable sequence at every step, so that no pop, push or exchange ever
 * succeeds. The steps are made by ptrace, and by the processor's trap flag, whose signal aborts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dvsm/dvsm.h>
#include <stdlib.h>

#include "support/stepping.h"

enum { BLOCKS = 5, STEPS_MOST = 2000000 };

static const size_t sizes[BLOCKS] = {40, 700, 3000, 20000, 200000};

/* Is called once without steps, so that lanes have blocks of each class, and room; then in the
 * stepped child. */
static void fill_and_empty(void *context)
{
    char *block[BLOCKS];

    (void)context;
    for (size_t i = 0; i < BLOCKS; i++) {
        block[i] = dvsm_malloc(sizes[i]);
        if (block[i] == NULL)
            abort();
        block[i][0] = block[i][sizes[i] - 1] = (char)i;
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        block[i] = dvsm_realloc(block[i], sizes[i] + sizes[i] / 8);
        if (block[i] == NULL || block[i][0] != (char)i)
            abort();
    }
    for (size_t i = 0; i < BLOCKS; i++)
        dvsm_free(block[i]);
}

static void use_some(void)
{
    for (int i = 0; i < 100; i++)
        fill_and_empty(NULL);
}

static void expect_nothing_lost(void)
{
    dvsm_stats_t stats;

    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
    assert_int_equal(dvsm_stats(dvsm_heap_default(), &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
}

static void test_calls_that_a_debugger_steps_through_end(void **state)
{
    struct stepped s;
    unsigned steps = 0;

    (void)state;
    use_some();
    if (!stepping_start(&s, fill_and_empty, NULL))
        skip();
    while (steps < STEPS_MOST && stepping_step(&s))
        steps++;
    if (steps == STEPS_MOST) {
        stepping_kill(&s);
        fail_msg("not at the end after %u steps", steps);
    }
    print_message("%u steps\n", steps);
    assert_int_equal(stepping_finish(&s), 0);
    expect_nothing_lost();
}

static void end_in_time(unsigned step)
{
    if (step == STEPS_MOST)
        abort();
}

static void test_calls_with_a_signal_at_every_instruction_end(void **state)
{
    (void)state;
    use_some();
    int status = stepping_through(fill_and_empty, NULL, end_in_time);
    if (status == -1)
        skip();
    assert_int_equal(status, 0);
    expect_nothing_lost();
}

/* A program that is stepped or watched for long needs no more memory with each call. */
static void many_pairs(void *context)
{
    (void)context;
    for (int i = 0; i < 80; i++)
        dvsm_free(dvsm_malloc(64));
}

static void test_a_program_that_is_stepped_for_long_needs_no_more_memory(void **state)
{
    (void)state;
    use_some();
    size_t before = dvsm_malloc_footprint();
    int status = stepping_through(many_pairs, NULL, end_in_time);
    if (status == -1)
        skip();
    assert_int_equal(status, 0);
    assert_true(dvsm_malloc_footprint() <= before + (64 << 10));
    expect_nothing_lost();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_that_a_debugger_steps_through_end),
        cmocka_unit_test(test_calls_with_a_signal_at_every_instruction_end),
        cmocka_unit_test(test_a_program_that_is_stepped_for_long_needs_no_more_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
