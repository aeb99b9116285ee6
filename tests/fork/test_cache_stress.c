/* test_cache_stress.c - 8 processes of 4 threads each allocate, resize and free what others made,
 * while another process keeps checking everything; in the end the account is exact.
 *
 * DVSM_TEST_SECONDS says for how long (3).
 *
 * Modes: default, locked
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "dvsm/dvsm.h"
#include "support/child.h"
#include "support/random.h"

enum { PROCESSES = 8, THREADS = 4, SLOTS = 4000, KIB = 1 << 10 };

static dvsm_heap *heap;

/* Shared memory outside the heap. A slot's block belongs to whoever takes it out. */
static struct market {
    _Atomic(unsigned char *) slot[SLOTS];
    atomic_bool stop;
    atomic_size_t operations, failures, checks, violations;
} * market;

/* A block begins and ends with its size's low byte, and its size. */
static unsigned char *make(size_t size)
{
    unsigned char *block = dvsm_heap_malloc(heap, size);

    if (block == NULL)
        return NULL;
    memcpy(block, &size, sizeof size);
    block[sizeof size] = block[size - 1] = (unsigned char)(size ^ 0x5a);
    return block;
}

static bool is_sound(const unsigned char *block)
{
    size_t size;

    memcpy(&size, block, sizeof size);
    return size >= 16 && size < 1024 * KIB && block[sizeof size] == (unsigned char)(size ^ 0x5a) &&
           block[size - 1] == (unsigned char)(size ^ 0x5a);
}

static size_t some_size(struct random_source *random)
{
    if (random_once_in(random, 500))
        return 16 + random_below(random, 600 * KIB);
    return 16 + random_size(random, random_once_in(random, 20) ? 40 * KIB : 1100);
}

static unsigned char *resize(unsigned char *block, size_t size)
{
    unsigned char *moved = dvsm_heap_realloc(heap, block, size);

    if (moved == NULL)
        return NULL;
    memcpy(moved, &size, sizeof size);
    moved[sizeof size] = moved[size - 1] = (unsigned char)(size ^ 0x5a);
    return moved;
}

static void *trade(void *context)
{
    struct random_source random = {(uint64_t)(uintptr_t)context};
    size_t operations = 0, failures = 0;

    while (!atomic_load_explicit(&market->stop, memory_order_relaxed)) {
        /* A burst of one size, then single ones. */
        size_t size = some_size(&random), burst = random_once_in(&random, 30) ? 150 : 1;

        for (size_t i = 0; i < burst; i++, operations++) {
            unsigned char *mine = make(size);
            unsigned char *other =
                atomic_exchange(&market->slot[random_below(&random, SLOTS)], mine);

            failures += mine == NULL;
            if (other == NULL)
                continue;
            failures += !is_sound(other);
            if (random_once_in(&random, 16)) {
                other = resize(other, some_size(&random));
                failures += other == NULL;
            }
            dvsm_free(other);
        }
        if (random_once_in(&random, 20000))
            dvsm_heap_trim(heap, 0);
    }
    atomic_fetch_add(&market->operations, operations);
    atomic_fetch_add(&market->failures, failures);
    return NULL;
}

static int trade_in_threads(void *context)
{
    uintptr_t seed = *(const uintptr_t *)context;
    pthread_t thread[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        CHILD_CHECK(pthread_create(&thread[i], NULL, trade, (void *)(seed + i)) == 0);
    for (size_t i = 0; i < THREADS; i++)
        CHILD_CHECK(pthread_join(thread[i], NULL) == 0);
    return 0;
}

static int check_all_the_time(void *context)
{
    (void)context;
    while (!atomic_load(&market->stop)) {
        atomic_fetch_add(&market->violations, (size_t)dvsm_check(heap, stderr));
        atomic_fetch_add(&market->checks, 1);
    }
    return 0;
}

static unsigned seconds(void)
{
    const char *text = getenv("DVSM_TEST_SECONDS");

    return text != NULL ? (unsigned)atoi(text) : 3;
}

static void test_processes_and_threads_under_a_check_that_never_ends(void **state)
{
    pid_t child[PROCESSES];
    uintptr_t seed = *(const uintptr_t *)*state;
    dvsm_stats_t stats;

    heap = dvsm_heap_create(NULL);
    assert_non_null(heap);
    pid_t checker = start_child(check_all_the_time, NULL);
    for (uintptr_t i = 0; i < PROCESSES; i++) {
        uintptr_t own = seed + 100 * i;
        child[i] = start_child(trade_in_threads, &own);
    }
    nanosleep(&(struct timespec){seconds(), 0}, NULL);
    atomic_store(&market->stop, true);
    for (size_t i = 0; i < PROCESSES; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    assert_int_equal(wait_for_child(checker), 0);
    printf("%zu operations, %zu checks\n", atomic_load(&market->operations),
           atomic_load(&market->checks));
    assert_int_equal(atomic_load(&market->failures), 0);
    assert_int_equal(atomic_load(&market->violations), 0);
    assert_true(atomic_load(&market->checks) > 0);

    size_t live = 0;
    for (size_t i = 0; i < SLOTS; i++)
        live += market->slot[i] != NULL;
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.used_blocks, live);
    for (size_t i = 0; i < SLOTS; i++) {
        assert_true(market->slot[i] == NULL || is_sound(market->slot[i]));
        dvsm_free(market->slot[i]);
    }
    dvsm_heap_trim(heap, 0);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.used_blocks + stats.cached_blocks, 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(int argc, char **argv)
{
    uintptr_t seed = (uintptr_t)random_run_from(argc, argv, 1).seed;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_processes_and_threads_under_a_check_that_never_ends, &seed),
    };

    market = mmap(NULL, sizeof *market, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return market != MAP_FAILED ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
