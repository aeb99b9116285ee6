/* test_cache_processes.c - cached blocks belong to CPUs, not to processes: processes and threads of
 * all kinds use them, come and go, and nothing piles up or is lost.
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
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "heap/heap.h"
#include "support/child.h"
#include "support/cpu.h"

enum { KIB = 1 << 10, MIB = 1 << 20, BLOCKS = 500 };

static struct dvsm_heap *heap;

static int make_heap(void **state)
{
    (void)state;
    heap = dvsm_heap_create(NULL);
    return heap != NULL ? 0 : -1;
}

static int make_heap_of_one_arena(void **state)
{
    (void)state;
    heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});
    return heap != NULL ? 0 : -1;
}

/* After each test all blocks are freed, and the heap is sound. */
static int check_heap(void **state)
{
    dvsm_stats_t stats;

    (void)state;
    int bad = dvsm_check(heap, stderr) != 0 || dvsm_stats(heap, &stats) != 0;
    if (!bad && stats.used_blocks != 0) {
        fprintf(stderr, "%zu blocks are left\n", stats.used_blocks);
        bad = 1;
    }
    return dvsm_heap_destroy(heap) != 0 || bad ? -1 : 0;
}

static dvsm_stats_t stats(void)
{
    dvsm_stats_t s;

    assert_int_equal(dvsm_stats(heap, &s), 0);
    return s;
}

/* Memory that processes and threads share, outside the heap. */
static void *shared(size_t bytes)
{
    void *place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(place != MAP_FAILED);
    return place;
}

/* ---- one only allocates, another only frees */

enum { RING = 40000, ROUNDS = 400000 };

struct ring {
    void *_Atomic slot[RING];
    atomic_size_t live; /* bytes */
    size_t live_most;   /* as the producer saw it */
    atomic_int failures;
};

static int produce(void *context)
{
    struct ring *ring = context;
    unsigned seed = 7;

    for (size_t i = 0; i < ROUNDS; i++) {
        size_t size = 16 + (size_t)rand_r(&seed) % (i % 50 == 0 ? 8 * KIB : 800);
        unsigned char *block = dvsm_heap_malloc(heap, size);

        CHILD_CHECK(block != NULL);
        block[0] = block[size - 1] = (unsigned char)size;
        size_t live = atomic_fetch_add(&ring->live, size) + size;
        if (live > ring->live_most)
            ring->live_most = live;
        while (atomic_load(&ring->slot[i % RING]) != NULL)
            sched_yield();
        atomic_store(&ring->slot[i % RING], block);
    }
    return 0;
}

/* Lets half of the ring fill first, and stays behind the producer. */
static int consume(void *context)
{
    struct ring *ring = context;
    unsigned seed = 7;

    while (atomic_load(&ring->slot[RING / 2]) == NULL)
        sched_yield();
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t size = 16 + (size_t)rand_r(&seed) % (i % 50 == 0 ? 8 * KIB : 800);
        unsigned char *block;

        while ((block = atomic_exchange(&ring->slot[i % RING], NULL)) == NULL)
            sched_yield();
        CHILD_CHECK(block[0] == (unsigned char)size && block[size - 1] == (unsigned char)size);
        atomic_fetch_sub(&ring->live, size);
        dvsm_free(block);
    }
    return 0;
}

static void expect_footprint_near(const struct ring *ring)
{
    size_t most = dvsm_heap_max_footprint(heap);

    dvsm_stats_t now = stats();
    printf("live %zu, footprint %zu; at the end cached %zu, free %zu in %zu arenas, retained %zu\n",
           ring->live_most, most, now.cached_bytes, now.free_bytes, now.arenas, now.retained_bytes);
    assert_true(most <= ring->live_most / 2 * 3 + MIB);
}

static void test_a_producer_and_a_consumer_in_two_processes(void **state)
{
    struct ring *ring = shared(sizeof *ring);

    (void)state;
    pid_t consumer = start_child(consume, ring);
    assert_int_equal(run_in_child(produce, ring), 0);
    assert_int_equal(wait_for_child(consumer), 0);
    expect_footprint_near(ring);
    munmap(ring, sizeof *ring);
}

static void *consume_in_thread(void *context)
{
    struct ring *ring = context;

    atomic_fetch_add(&ring->failures, consume(ring));
    return NULL;
}

static void test_a_producer_and_a_consumer_in_two_threads(void **state)
{
    struct ring *ring = shared(sizeof *ring);
    pthread_t consumer;

    (void)state;
    assert_int_equal(pthread_create(&consumer, NULL, consume_in_thread, ring), 0);
    assert_int_equal(produce(ring), 0);
    assert_int_equal(pthread_join(consumer, NULL), 0);
    assert_int_equal(atomic_load(&ring->failures), 0);
    expect_footprint_near(ring);
    munmap(ring, sizeof *ring);
}

/* ---- many idle processes */

enum { IDLERS = 200 };

static int work_a_little(void)
{
    static const size_t sizes[] = {24, 100, 300, 1000, 3000, 10000};

    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        void *block[40];

        for (size_t i = 0; i < 40; i++) {
            block[i] = dvsm_heap_malloc(heap, sizes[k]);
            CHILD_CHECK(block[i] != NULL);
        }
        for (size_t i = 0; i < 40; i++)
            dvsm_free(block[i]);
    }
    return 0;
}

struct idlers {
    atomic_int done; /* how many have worked */
    atomic_bool go;
};

static int idle(void *context)
{
    struct idlers *idlers = context;
    int failed = work_a_little();

    atomic_fetch_add(&idlers->done, 1);
    while (!atomic_load(&idlers->go))
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    return failed;
}

/* The processes start one after the other, and all of them stay. */
static void test_two_hundred_idle_processes_cache_no_more_than_a_few(void **state)
{
    struct idlers *idlers = shared(sizeof *idlers);
    pid_t child[IDLERS];
    size_t few = 0;

    (void)state;
    for (int i = 0; i < IDLERS; i++) {
        child[i] = start_child(idle, idlers);
        while (atomic_load(&idlers->done) <= i)
            nanosleep(&(struct timespec){0, 100000}, NULL);
        if (i == 19)
            few = stats().cached_bytes;
    }
    size_t cached = stats().cached_bytes;
    printf("cached after 20: %zu, after %d: %zu\n", few, IDLERS, cached);
    /* Each CPU's cache may hold as much as one of the processes had in use. */
    size_t once =
        (size_t)sysconf(_SC_NPROCESSORS_CONF) * 40 * (24 + 100 + 300 + 1000 + 3000 + 11000);
    assert_true(cached <= 2 * once);
    atomic_store(&idlers->go, true);
    for (int i = 0; i < IDLERS; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    munmap(idlers, sizeof *idlers);
}

/* ---- processes that begin and end in different ways */

enum { BY_EXIT, BY__EXIT, BY_EXEC, BY_KILL, WAYS };

struct passing {
    void *block[BLOCKS];
    int way;
};

static int free_and_leave(void *context)
{
    struct passing *passing = context;

    for (size_t i = 0; i < BLOCKS; i++)
        dvsm_free(passing->block[i]);
    switch (passing->way) {
    case BY_EXIT:
        exit(0);
    case BY_EXEC:
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    case BY_KILL:
        kill(getpid(), SIGKILL);
        _exit(1);
    default:
        _exit(0);
    }
}

static void test_what_a_child_freed_is_there_when_it_is_gone(void **state)
{
    struct passing *passing = shared(sizeof *passing);

    (void)state;
    for (int round = 0; round < 3 * WAYS; round++) {
        passing->way = round % WAYS;
        for (size_t i = 0; i < BLOCKS; i++) {
            passing->block[i] = dvsm_heap_malloc(heap, 200);
            assert_non_null(passing->block[i]);
        }
        assert_int_equal(stats().used_blocks, BLOCKS);
        size_t footprint = dvsm_heap_footprint(heap);
        int status = run_in_child(free_and_leave, passing);
        assert_int_equal(WIFSIGNALED(status), passing->way == BY_KILL);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(stats().used_blocks, 0);
        assert_true(dvsm_heap_footprint(heap) <= footprint + 256 * KIB);
    }
    munmap(passing, sizeof *passing);
}

static int pairs(void *context)
{
    (void)context;
    for (size_t i = 0; i < 2000; i++) {
        unsigned char *block = dvsm_heap_malloc(heap, 16 + i % 900);

        CHILD_CHECK(block != NULL);
        *block = 1;
        dvsm_free(block);
    }
    return 0;
}

static void test_children_however_made_share_the_cache(void **state)
{
    (void)state;
    for (volatile int round = 0; round < 20; round++) {
        pid_t forked = start_child(pairs, NULL);
        pid_t bare = _Fork(); /* no fork handlers are run */

        if (bare == 0)
            _exit(pairs(NULL));
        pid_t replaced = vfork();
        if (replaced == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(1);
        }
        assert_int_equal(pairs(NULL), 0);
        assert_int_equal(wait_for_child(forked), 0);
        assert_int_equal(wait_for_child(bare), 0);
        assert_int_equal(wait_for_child(replaced), 0);
    }
}

/* ---- signals */

static volatile sig_atomic_t handled, handler_failed;

static void allocate_in_handler(int number)
{
    unsigned char *block = dvsm_heap_malloc(heap, 100);

    (void)number;
    if (block == NULL)
        handler_failed = 1;
    else
        block[0] = block[99] = 0xaa;
    dvsm_free(block);
    handled++;
}

/* The program is always in the fast path, and the handler uses the same lane. */
static void test_a_signal_handler_allocates_while_the_program_does(void **state)
{
    struct sigaction action = {.sa_handler = allocate_in_handler}, former;
    struct itimerspec every = {{0, 50000}, {0, 50000}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    void *warm[50];
    timer_t timer;

    (void)state;
    for (size_t cpu = 0; cpu < 64; cpu++)
        if (cpu_go_to(cpu))
            break;
    for (size_t i = 0; i < 50; i++)
        warm[i] = dvsm_heap_malloc(heap, 100);
    for (size_t i = 0; i < 20; i++)
        dvsm_free(warm[i]);
    handled = handler_failed = 0;
    assert_int_equal(sigaction(SIGALRM, &action, &former), 0);
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
    for (size_t i = 0; handled < 3000; i++) {
        unsigned char *a = dvsm_heap_malloc(heap, 100), *b = dvsm_heap_malloc(heap, 100);

        if (a == NULL || b == NULL || a == b)
            break;
        memset(a, 1, 100);
        memset(b, 2, 100);
        if (a[0] != 1 || a[99] != 1 || b[0] != 2 || b[99] != 2)
            handler_failed = 1;
        dvsm_free(a);
        dvsm_free(b);
    }
    timer_delete(timer);
    assert_int_equal(sigaction(SIGALRM, &former, NULL), 0);
    assert_true(handled >= 3000);
    assert_false(handler_failed);
    for (size_t i = 20; i < 50; i++)
        dvsm_free(warm[i]);
}

/* ---- a process without rseq */

/* A process that found no rseq has no fast path. */
static int work_without_lanes(void *context)
{
    (void)context;
    lane_view_close(&heap->cache.view);
    for (int i = 0; i < 50; i++)
        CHILD_CHECK(work_a_little() == 0 && pairs(NULL) == 0);
    CHILD_CHECK(dvsm_heap_trim(heap, 0) >= 0);
    return dvsm_check(heap, stderr);
}

static void test_a_process_without_rseq_works_beside_others(void **state)
{
    (void)state;
    pid_t other = start_child(work_without_lanes, NULL);
    for (int i = 0; i < 50; i++)
        assert_int_equal(work_a_little() + pairs(NULL), 0);
    assert_int_equal(wait_for_child(other), 0);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* ---- other CPUs' lanes */

/* Leaves blocks in the lanes of each CPU that it may use; returns the number of CPUs. */
static int use_each_cpu(void *context)
{
    int cpus = 0;

    (void)context;
    for (size_t cpu = 0; cpu < 64; cpu++)
        if (cpu_go_to(cpu)) {
            CHILD_CHECK(work_a_little() == 0);
            cpus++;
        }
    return cpus > 1 ? 0 : CHILD_SKIP;
}

static void skip_unless_lanes(int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
        skip();
    assert_int_equal(status, 0);
}

static void test_trim_empties_the_lanes_of_all_cpus(void **state)
{
    cpu_set_t before, after;

    (void)state;
    sched_getaffinity(0, sizeof before, &before);
    skip_unless_lanes(run_in_child(use_each_cpu, NULL));
    dvsm_heap_trim(heap, 0);
    assert_int_equal(stats().cached_blocks, 0);
    sched_getaffinity(0, sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after));
}

/* In a heap with a limit, blocks in other CPUs' lanes and in the depots are given back before a
 * call fails with ENOMEM. */
static void test_memory_that_is_short_comes_from_all_lanes(void **state)
{
    static void *block[2000];
    size_t n = 0;

    (void)state;
    for (int i = 0; i < 3; i++)
        skip_unless_lanes(run_in_child(use_each_cpu, NULL));
    dvsm_heap_set_limit(heap, dvsm_heap_footprint(heap));
    while (n < 2000 && (block[n] = dvsm_heap_malloc(heap, 5000)) != NULL)
        n++;
    assert_in_range(n, 10, 1999);
    assert_int_equal(stats().cached_blocks, 0);
    for (size_t i = 0; i < n; i++)
        dvsm_free(block[i]);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, make_heap, check_heap)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_producer_and_a_consumer_in_two_processes,
                                        make_heap_of_one_arena, check_heap),
        cmocka_unit_test_setup_teardown(test_a_producer_and_a_consumer_in_two_threads,
                                        make_heap_of_one_arena, check_heap),
        TEST(test_a_producer_and_a_consumer_in_two_processes),
        TEST(test_a_producer_and_a_consumer_in_two_threads),
        TEST(test_two_hundred_idle_processes_cache_no_more_than_a_few),
        TEST(test_what_a_child_freed_is_there_when_it_is_gone),
        TEST(test_children_however_made_share_the_cache),
        TEST(test_a_process_without_rseq_works_beside_others),
        TEST(test_trim_empties_the_lanes_of_all_cpus),
        TEST(test_memory_that_is_short_comes_from_all_lanes),
        TEST(test_a_signal_handler_allocates_while_the_program_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
