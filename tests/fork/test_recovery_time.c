/* test_recovery_time.c - how long a survivor takes to repair what a process left that was killed at
 * any moment.
 *
 * It measures the survivor's processor time, which other work on the machine does not lengthen.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"
#include "support/clock.h"
#include "support/random.h"

enum { KIB = 1 << 10, BLOCKS = 200, KILLS_MOST = 2000, REPAIRS = 100 };

/* On a quiet machine it is 30 to 180 us, most of it for the first touch of each page. */
enum { BAR_NS = 500000 };

static dvsm_heap *heap;
static struct random_run arguments;

/* Makes all kinds of changes, one after the other, until it is killed. */
static int work(void *seed)
{
    struct random_source random = {*(uint64_t *)seed};
    void *block[BLOCKS] = {NULL};

    for (;;) {
        size_t i = random_below(&random, BLOCKS);
        size_t most = random_below(&random, 20) == 0 ? 400 * KIB : 3 * KIB;

        block[i] = dvsm_heap_realloc(heap, block[i], 1 + random_below(&random, most));
        if (random_below(&random, 3) == 0) {
            dvsm_free(block[i]);
            block[i] = NULL;
        }
    }
    return 0;
}

static long processor_ns(void)
{
    return (long)clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int compare(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;

    return (x > y) - (x < y);
}

static void kill_and_reap(const dvsm_options *options)
{
    static long ns[REPAIRS];
    size_t repairs = 0, kills = 0;

    for (; repairs < REPAIRS && kills < KILLS_MOST; kills++) {
        uint64_t seed = arguments.seed + kills;

        /* A new heap: the blocks of the dead are lost in the old one. */
        heap = dvsm_heap_create(options);
        assert_non_null(heap);
        pid_t child = start_child(work, &seed);
        usleep((useconds_t)(500 + seed * 7919 % 1000));
        assert_int_equal(kill(child, SIGKILL), 0);
        wait_for_child(child);

        long begin = processor_ns();
        int locks = dvsm_reap(heap);
        if (locks > 0)
            ns[repairs++] = (processor_ns() - begin) / locks;
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
    assert_true(repairs > 10);
    qsort(ns, repairs, sizeof *ns, compare);
    printf("%zu repairs after %zu kills; us a lock: median %.1f, at most %.1f\n", repairs, kills,
           (double)ns[repairs / 2] / 1000, (double)ns[repairs - 1] / 1000);
    assert_true(ns[repairs / 2] <= BAR_NS);
}

static void test_a_lock_is_repaired_at_once(void **state)
{
    (void)state;
    kill_and_reap(NULL);
}

static void test_a_lock_is_repaired_at_once_without_a_cache(void **state)
{
    (void)state;
    kill_and_reap(&(dvsm_options){.cache_bytes = SIZE_MAX});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_lock_is_repaired_at_once),
        cmocka_unit_test(test_a_lock_is_repaired_at_once_without_a_cache),
    };

    arguments = random_run_from(argc, argv, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
