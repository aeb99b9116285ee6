/* test_arena_load_threads.c - if all threads of all processes allocate alike, on all CPUs, they
 * load the arenas alike: no arena holds more than twice the mean of live bytes. Under
 * ThreadSanitizer the test has one process only.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"

#ifdef __SANITIZE_THREAD__
enum { PROCESSES = 1 };
#else
enum { PROCESSES = 6 };
#endif
enum { THREADS = 4, BLOCKS = 3000, ROUNDS = 40000 };

static dvsm_heap *heap;
static void *(*kept)[BLOCKS]; /* by thread, over all processes */

/* Replaces its own blocks at random: the number of live blocks of each size stays the same. */
static void *work(void *context)
{
    size_t number = (size_t)(uintptr_t)context;
    unsigned seed = (unsigned)number;

    for (size_t i = 0; i < ROUNDS; i++) {
        void **mine = &kept[number][(size_t)rand_r(&seed) % BLOCKS];
        size_t size = 16 + (size_t)rand_r(&seed) % (i % 40 == 0 ? 20000 : 600);

        dvsm_free(*mine);
        *mine = dvsm_heap_malloc(heap, size);
        if (*mine == NULL)
            return "no memory";
        *(char *)*mine = 1;
    }
    return NULL;
}

static int work_in_threads(void *context)
{
    size_t first = *(const size_t *)context * THREADS;
    pthread_t thread[THREADS];

    for (size_t i = 0; i < THREADS; i++)
        CHILD_CHECK(pthread_create(&thread[i], NULL, work, (void *)(uintptr_t)(first + i)) == 0);
    for (size_t i = 0; i < THREADS; i++) {
        void *failed;

        CHILD_CHECK(pthread_join(thread[i], &failed) == 0 && failed == NULL);
    }
    return 0;
}

struct load {
    size_t live[64];
};

static void add(const dvsm_chunk *chunk, void *context)
{
    struct load *load = context;

    if (chunk->state == DVSM_CHUNK_USED || chunk->state == DVSM_CHUNK_LARGE)
        load->live[chunk->arena] += chunk->bytes;
}

static void work_in_processes(void)
{
    pid_t child[PROCESSES];

    for (size_t i = 0; i < PROCESSES; i++) {
        if (PROCESSES == 1)
            assert_int_equal(work_in_threads(&i), 0);
        else
            child[i] = start_child(work_in_threads, &i);
    }
    for (size_t i = 0; i < PROCESSES && PROCESSES > 1; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static bool is_even(const dvsm_stats_t *stats)
{
    struct load load = {{0}};
    size_t cpus = (size_t)sysconf(_SC_NPROCESSORS_ONLN), sum = 0, most = 0;

    dvsm_walk(heap, add, &load);
    for (size_t i = 0; i < stats->arenas; i++) {
        sum += load.live[i];
        most = load.live[i] > most ? load.live[i] : most;
    }
    printf("%zu arenas, live %zu, the most in one %zu\n", stats->arenas, sum, most);
    return most <= (stats->arenas <= cpus ? 2 : 3) * sum / stats->arenas;
}

/* If all arenas are found taken, another one is made, perhaps late, and counts in the mean at once.
 * It catches up as blocks are replaced: after one run, 2.4 to 3.5 times the mean was seen in the
 * fullest arena. So the work goes on, at most twice, if it was not even with all arenas there. */
static void run(unsigned arenas, size_t cache_bytes)
{
    dvsm_stats_t stats;
    bool even = false;

    heap = dvsm_heap_create(&(dvsm_options){.arenas = arenas, .cache_bytes = cache_bytes});
    assert_non_null(heap);
    memset(kept, 0, PROCESSES * THREADS * sizeof *kept);
    for (int runs = 0; runs < 3 && !even; runs++) {
        work_in_processes();
        assert_int_equal(dvsm_stats(heap, &stats), 0);
        even = is_even(&stats);
    }
    assert_true(even);
    /* A holder that gets no CPU for long looks as if it were stopped, so that more arenas may be
     * made than were asked for. */
    assert_true(arenas == 0 || stats.arenas <= 2 * arenas);
    for (size_t i = 0; i < PROCESSES * THREADS; i++)
        for (size_t k = 0; k < BLOCKS; k++)
            dvsm_free(kept[i][k]);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_load_is_even_with_as_many_arenas_as_cpus(void **state)
{
    (void)state;
    run(0, 0);
}

static void test_load_is_even_with_many_arenas(void **state)
{
    (void)state;
    run(8, 0);
}

static void test_load_is_even_without_a_cache(void **state)
{
    (void)state;
    run(8, SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_is_even_with_as_many_arenas_as_cpus),
        cmocka_unit_test(test_load_is_even_with_many_arenas),
        cmocka_unit_test(test_load_is_even_without_a_cache),
    };

    kept = mmap(NULL, PROCESSES * THREADS * sizeof *kept, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return kept != MAP_FAILED ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
