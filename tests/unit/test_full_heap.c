/* test_full_heap.c - heaps that are full, and heaps that are small.
 *
 * Any caller can have all the memory there is, on whatever CPU it was freed. When there is no more,
 * a call fails quickly, fails again if it is repeated, and changes nothing.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/clock.h"
#include "support/cpu.h"
#include "support/random.h"

enum { KIB = 1 << 10, MIB = 1 << 20, BLOCKS_MOST = 1 << 18 };

static void *block[BLOCKS_MOST];
static size_t blocks; /* block[0 .. blocks) are in use */
static size_t cpu[2]; /* two CPUs that the process may use; if there is only one, the same twice */

static dvsm_heap *heap_of(size_t limit)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.limit = limit});

    assert_non_null(heap);
    blocks = 0;
    return heap;
}

/* Allocates blocks of that size until none is left; returns the bytes in use. */
static size_t fill(dvsm_heap *heap, size_t size)
{
    size_t bytes = 0;

    for (void *p; blocks < BLOCKS_MOST && (p = dvsm_heap_malloc(heap, size)) != NULL;) {
        block[blocks++] = p;
        bytes += dvsm_malloc_usable_size(p) + sizeof(size_t);
    }
    return bytes;
}

static void free_all(void)
{
    while (blocks > 0)
        dvsm_free(block[--blocks]);
}

static void free_all_upwards(void)
{
    for (size_t i = 0; i < blocks; i++)
        dvsm_free(block[i]);
    blocks = 0;
}

static bool has_two_cpus(void)
{
    return cpu[0] != cpu[1];
}

static void go_to(size_t i)
{
    assert_true(cpu_go_to(cpu[i % 2]));
}

/* ---- how much of it can be used -------------------------------------------------------------- */

static void test_most_of_the_limit_can_be_in_use(void **state)
{
    const struct {
        size_t limit, percent;
    } limits[] = {{MIB, 60}, {2 * MIB, 80}, {4 * MIB, 90}, {16 * MIB, 90}, {64 * MIB, 90}};
    const size_t sizes[] = {24, 100, 250, 1000, 4000, 20000, 60000};

    (void)state;
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            size_t limit = limits[i].limit;

            if (limit / sizes[j] >= BLOCKS_MOST)
                continue;
            dvsm_heap *heap = heap_of(limit);
            size_t first = fill(heap, sizes[j]);

            if (first < limit / 100 * limits[i].percent)
                fail_msg("limit %zu KiB, blocks of %zu: %zu %% can be in use", limit / KIB,
                         sizes[j], first * 100 / limit);
            assert_true(dvsm_heap_footprint(heap) <= limit);
            /* Twice more, after freeing from the last block down, and from the first one up. */
            free_all();
            size_t second = fill(heap, sizes[j]);
            free_all_upwards();
            size_t third = fill(heap, sizes[j]);
            if (second < first / 100 * 99 || third < first / 100 * 99)
                fail_msg("limit %zu KiB, blocks of %zu: %zu bytes, then %zu, then %zu", limit / KIB,
                         sizes[j], first, second, third);
            assert_int_equal(dvsm_check(heap, stderr), 0);
            assert_int_equal(dvsm_heap_destroy(heap), 0);
        }
}

/* Allocates and frees blocks of all sizes on both CPUs; in the end nothing is in use. */
static void use_from_everywhere(dvsm_heap *heap, struct random_source *random)
{
    for (unsigned turn = 0; turn < 4; turn++) {
        go_to(turn);
        for (;;) {
            void *p = dvsm_heap_malloc(heap, random_size(random, 40 * KIB));

            if (p == NULL || blocks == BLOCKS_MOST)
                break;
            block[blocks++] = p;
        }
        go_to(turn / 2);
        for (size_t i = blocks; i > 0; i--)
            if (random_below(random, 3) != 0) {
                dvsm_free(block[i - 1]);
                block[i - 1] = block[--blocks];
            }
    }
    go_to(1);
    free_all();
}

static void test_with_nothing_in_use_a_block_of_nearly_all_can_be_had(void **state)
{
    const size_t limits[] = {4 * MIB, 16 * MIB, 64 * MIB};
    struct random_source random = {3};

    (void)state;
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        for (unsigned asks = 0; asks < 2; asks++) {
            dvsm_heap *heap = heap_of(limits[i]);

            use_from_everywhere(heap, &random);
            go_to(asks);
            void *p = dvsm_heap_malloc(heap, limits[i] / 10 * 9);
            if (p == NULL)
                fail_msg("limit %zu MiB: none of 90 %%, with nothing in use", limits[i] / MIB);
            memset(p, 1, limits[i] / 10 * 9);
            dvsm_free(p);
            p = dvsm_heap_memalign(heap, 4096, limits[i] / 10 * 8);
            assert_non_null(p);
            dvsm_free(p);
            assert_int_equal(dvsm_check(heap, stderr), 0);
            assert_int_equal(dvsm_heap_destroy(heap), 0);
        }
}

static void test_what_one_cpu_frees_is_had_by_another(void **state)
{
    const size_t limits[] = {2 * MIB, 4 * MIB, 16 * MIB};
    const size_t sizes[] = {100, 1000, 8000, 30000};

    (void)state;
    if (!has_two_cpus())
        skip();
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            dvsm_heap *heap = heap_of(limits[i]);

            for (unsigned turn = 0; turn < 3; turn++) {
                go_to(turn);
                size_t here = fill(heap, sizes[j]);
                free_all();
                go_to(turn + 1);
                size_t there = fill(heap, sizes[j]);
                free_all();
                /* What the first CPU's lanes keep may be out of reach, but no more: an eighth of
                 * the limit. */
                if (there < here - limits[i] / 8)
                    fail_msg("limit %zu KiB, blocks of %zu: %zu bytes, on another CPU %zu",
                             limits[i] / KIB, sizes[j], here, there);
            }
            /* The same for blocks of another size. */
            go_to(0);
            size_t here = fill(heap, sizes[j]);
            free_all();
            go_to(1);
            size_t there = fill(heap, sizes[j] * 3 / 2);
            free_all();
            if (there < here - limits[i] / 8 - 5 * sizes[j]) /* for segments' ends */
                fail_msg("limit %zu KiB, blocks of %zu: %zu bytes, then of %zu %zu bytes",
                         limits[i] / KIB, sizes[j], here, sizes[j] * 3 / 2, there);
            assert_int_equal(dvsm_heap_destroy(heap), 0);
        }
}

static void test_a_heap_with_one_block_commits_little(void **state)
{
    const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_anon,
                                            &dvsm_backend_shm_open};

    (void)state;
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.backend = backends[i]});

        assert_non_null(heap);
        void *p = dvsm_heap_malloc(heap, 100);
        assert_non_null(p);
        assert_in_range(dvsm_heap_footprint(heap), 1, 160 * KIB);
        dvsm_free(p);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

/* ---- every arena is looked into -------------------------------------------------------------- */

enum { PIECES = 8, PIECE = 190000 };

static void test_a_large_request_looks_into_every_arena(void **state)
{
    const size_t wanted[] = {300000, 600000, 1000000};

    (void)state;
    if (!has_two_cpus())
        skip();
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        dvsm_heap *heap = heap_of(0);
        void *mine[PIECES], *others[PIECES];

        go_to(0);
        for (size_t j = 0; j < PIECES; j++)
            mine[j] = dvsm_heap_malloc(heap, PIECE);
        go_to(1);
        for (size_t j = 0; j < PIECES - 1; j++)
            others[j] = dvsm_heap_malloc(heap, PIECE);
        dvsm_heap_set_limit(heap, dvsm_heap_footprint(heap));
        for (size_t j = 0; j < PIECES - 1; j++)
            dvsm_free(others[j]);
        for (size_t asks = 0; asks < 2; asks++) {
            go_to(asks);
            void *p = dvsm_heap_malloc(heap, wanted[i]);
            if (p == NULL)
                fail_msg("%zu bytes, free in another arena, are not had on CPU %zu", wanted[i],
                         cpu[asks]);
            dvsm_free(p);
            p = dvsm_heap_calloc(heap, 1, wanted[i]);
            assert_non_null(p);
            p = dvsm_heap_realloc(heap, p, wanted[i] - 100);
            assert_non_null(p);
            dvsm_free(p);
            p = dvsm_heap_aligned_alloc(heap, 64, wanted[i] - 200);
            assert_non_null(p);
            dvsm_free(p);
        }
        for (size_t j = 0; j < PIECES; j++)
            dvsm_free(mine[j]);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

/* ---- no is no -------------------------------------------------------------------------------- */

/* Makes the call twice if it fails: nothing is freed in between, so that it must fail again. */
static void *ask_twice(dvsm_heap *heap, unsigned call, size_t size, void *old)
{
    void *p[2] = {NULL, NULL};

    for (int i = 0; i < 2; i++) {
        errno = 0;
        switch (call) {
        case 0:
            p[i] = dvsm_heap_malloc(heap, size);
            break;
        case 1:
            p[i] = dvsm_heap_calloc(heap, 1, size);
            break;
        case 2:
            p[i] = dvsm_heap_memalign(heap, 64, size);
            break;
        case 3:
            p[i] = dvsm_heap_aligned_alloc(heap, 4096, size);
            break;
        default:
            p[i] = dvsm_heap_realloc(heap, old, size);
            break;
        }
        if (p[i] != NULL) {
            if (i == 1)
                fail_msg("call %u of %zu bytes: ENOMEM, the same again: a block", call, size);
            return p[i];
        }
        assert_int_equal(errno, ENOMEM);
    }
    return NULL;
}

static void test_what_fails_fails_again(void **state)
{
    struct random_source random = {4};

    (void)state;
    for (unsigned round = 0; round < 40; round++) {
        dvsm_heap *heap = heap_of((1 + random_below(&random, 8)) * MIB);
        size_t most = (size_t)100 << random_below(&random, 10);

        for (unsigned i = 0; i < 6000; i++) {
            if (i % 100 == 0)
                go_to(random_below(&random, 2));
            size_t size = random_size(&random, random_once_in(&random, 30) ? 10 * most : most);
            unsigned call = (unsigned)random_below(&random, 5);
            size_t victim = blocks > 0 ? random_below(&random, blocks) : 0;
            bool again = call == 4 && blocks > 0;
            void *p = ask_twice(heap, again ? 4 : call % 4, size, again ? block[victim] : NULL);

            if (p != NULL && again)
                block[victim] = p;
            else if (p != NULL && blocks < BLOCKS_MOST)
                block[blocks++] = p;
            else if (p == NULL)
                for (size_t n = random_below(&random, 20); n > 0 && blocks > 0; n--) {
                    victim = random_below(&random, blocks);
                    dvsm_free(block[victim]);
                    block[victim] = block[--blocks];
                }
        }
        free_all();
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

/* The missing memory is in the cache, as blocks of the other arena. */
static void test_cached_blocks_of_another_arena_are_had_at_once(void **state)
{
    enum { SMALL = 1000, WANTED = 20000, MOST = 400 };
    void *small[MOST];

    (void)state;
    if (!has_two_cpus())
        skip();
    for (size_t count = 62; count <= MOST; count += 13) {
        dvsm_heap *heap = heap_of(0);

        go_to(0);
        for (int i = 0; i < 8; i++)
            dvsm_heap_malloc(heap, 40000);
        go_to(1);
        for (size_t i = 0; i < count; i++)
            small[i] = dvsm_heap_malloc(heap, SMALL);
        dvsm_heap_set_limit(heap, dvsm_heap_footprint(heap));
        for (size_t i = 0; i < 2; i++) {
            go_to(i);
            for (size_t size = WANTED; size > SMALL; size -= 200)
                while (dvsm_heap_malloc(heap, size) != NULL)
                    ;
        }
        go_to(1);
        for (size_t i = 0; i < count; i++)
            dvsm_free(small[i]);
        go_to(0);
        while (ask_twice(heap, 0, WANTED, NULL) != NULL)
            ;
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

/* ---- what cannot be -------------------------------------------------------------------------- */

static void use_cache(dvsm_heap *heap)
{
    for (size_t i = 0; i < 3000; i++)
        block[i] = dvsm_heap_malloc(heap, 16 + i % 3000);
    for (size_t i = 0; i < 3000; i++)
        dvsm_free(block[i]);
}

static void test_an_impossible_size_changes_nothing(void **state)
{
    const size_t sizes[] = {SIZE_MAX,
                            SIZE_MAX - 1,
                            SIZE_MAX - 8,
                            SIZE_MAX - 16,
                            SIZE_MAX - 4096,
                            SIZE_MAX - 65536,
                            SIZE_MAX / 2 + 1,
                            (size_t)PTRDIFF_MAX + 1,
                            (size_t)PTRDIFF_MAX + 17,
                            SIZE_MAX / 4 * 3};
    dvsm_heap *heap = heap_of(0);
    dvsm_stats_t before, after;
    cpu_set_t mask, now;

    (void)state;
    use_cache(heap);
    char *kept = dvsm_heap_malloc(heap, 100);
    memset(kept, 7, 100);
    assert_int_equal(dvsm_stats(heap, &before), 0);
    assert_int_equal(sched_getaffinity(0, sizeof mask, &mask), 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (unsigned call = 0; call < 10; call++) {
            size_t size = sizes[i], two[2] = {size, 100};
            void *p = NULL;
            int error = 0;

            errno = 0;
            switch (call) {
            case 0:
                p = dvsm_heap_malloc(heap, size);
                break;
            case 1:
                p = dvsm_heap_calloc(heap, size, 1);
                break;
            case 2:
                p = dvsm_heap_calloc(heap, 2, size);
                break;
            case 3:
                p = dvsm_heap_realloc(heap, kept, size);
                break;
            case 4:
                p = dvsm_heap_memalign(heap, 64, size);
                break;
            case 5:
                p = dvsm_heap_aligned_alloc(heap, 8 * MIB, size);
                break;
            case 6:
                errno = dvsm_heap_posix_memalign(heap, &p, 4096, size);
                break;
            case 7:
                p = dvsm_heap_independent_calloc(heap, 3, size, NULL);
                break;
            case 8:
                p = dvsm_heap_independent_comalloc(heap, 2, two, NULL);
                break;
            default:
                p = dvsm_realloc_in_place(kept, size);
                errno = p == NULL ? ENOMEM : 0;
                break;
            }
            error = errno;
            if (p != NULL || error != ENOMEM)
                fail_msg("call %u of %#zx bytes: %p, errno %d", call, size, p, error);
            assert_int_equal(sched_getaffinity(0, sizeof now, &now), 0);
            assert_memory_equal(&mask, &now, sizeof mask);
        }
    assert_int_equal(dvsm_stats(heap, &after), 0);
    assert_int_equal(after.cached_blocks, before.cached_blocks);
    assert_int_equal(after.cached_bytes, before.cached_bytes);
    assert_int_equal(after.committed_bytes, before.committed_bytes);
    assert_int_equal(after.used_blocks, before.used_blocks);
    for (int i = 0; i < 100; i++)
        assert_int_equal(kept[i], 7);
    dvsm_free(kept);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* Another thread keeps looking on which CPUs this one may run. */
struct watch {
    pid_t thread;
    cpu_set_t mask;
    atomic_bool stop;
    atomic_size_t looks, changes;
};

static void *watch_affinity(void *context)
{
    struct watch *watch = context;
    cpu_set_t now;

    while (!atomic_load(&watch->stop)) {
        if (sched_getaffinity(watch->thread, sizeof now, &now) == 0 &&
            !CPU_EQUAL(&now, &watch->mask))
            atomic_fetch_add(&watch->changes, 1);
        atomic_fetch_add(&watch->looks, 1);
    }
    return NULL;
}

static void test_a_lack_of_memory_moves_no_thread(void **state)
{
    struct watch watch = {.thread = (pid_t)syscall(SYS_gettid)};
    struct random_source random = {5};
    cpu_set_t all;
    pthread_t watcher;

    (void)state;
    CPU_ZERO(&all);
    CPU_SET(cpu[0], &all);
    CPU_SET(cpu[1], &all);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    watch.mask = all;
    assert_int_equal(pthread_create(&watcher, NULL, watch_affinity, &watch), 0);
    for (unsigned round = 0; round < 200 || (round < 20000 && watch.looks < 2000); round++) {
        dvsm_heap *heap = heap_of(2 * MIB);

        fill(heap, 64 + random_below(&random, 20000));
        dvsm_heap_malloc(heap, SIZE_MAX);
        for (int i = 0; i < 20; i++) {
            if (blocks > 0)
                dvsm_free(block[--blocks]);
            dvsm_heap_malloc(heap, MIB);
        }
        free_all();
        void *p = dvsm_heap_malloc(heap, 1800 * KIB);
        dvsm_free(p);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
    atomic_store(&watch.stop, true);
    pthread_join(watcher, NULL);
    assert_int_equal(watch.changes, 0);
    cpu_set_t now;
    assert_int_equal(sched_getaffinity(0, sizeof now, &now), 0);
    assert_true(CPU_EQUAL(&all, &now));
}

/* ---- what it costs --------------------------------------------------------------------------- */

static double processor_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* Works like a user's cache that is always full: the oldest blocks are freed until a new one
 * fits. Returns the time of one call, failing ones included. If `room` is not 0, at most that many
 * bytes are in use; otherwise all there are. */
static double turn_over(dvsm_heap *heap, size_t room, size_t most, size_t insertions, uint64_t seed)
{
    enum { RING = BLOCKS_MOST };
    static size_t bytes[RING];
    struct random_source random = {seed};
    size_t head = 0, tail = 0, live = 0, calls = 0;
    double start = 0;

    for (size_t i = 0; i < 2 * insertions; i++) {
        size_t size = 64 + random_size(&random, most);
        void *p;

        if (i == insertions) { /* the heap is full now */
            start = processor_ns();
            calls = 0;
        }
        for (;;) {
            p = room != 0 && live + size > room ? NULL : dvsm_heap_malloc(heap, size);
            calls++;
            if (p != NULL)
                break;
            assert_true(tail < head);
            dvsm_free(block[tail % RING]);
            live -= bytes[tail++ % RING];
            calls++;
        }
        assert_true(head - tail < RING);
        block[head % RING] = p;
        bytes[head++ % RING] = size;
        live += size;
    }
    double took = (processor_ns() - start) / (double)calls;
    while (tail < head)
        dvsm_free(block[tail++ % RING]);
    return took;
}

static void test_at_the_limit_a_call_costs_little_more(void **state)
{
    const size_t limits[] = {4 * MIB, 32 * MIB};
    const size_t mosts[] = {500, 4000, 30000};

    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* the times would be those of instrumented code */
#endif
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        for (size_t j = 0; j < sizeof mosts / sizeof mosts[0]; j++) {
            size_t insertions = limits[i] / mosts[j] * 6;
            double below = 0, at = 0;
            bool good = false;

            insertions = insertions < 20000 ? 20000 : insertions;
            for (int attempt = 0; attempt < 4 && !good; attempt++) {
                dvsm_heap *heap = heap_of(0);
                below = turn_over(heap, limits[i] / 10 * 8, mosts[j], insertions, 6);
                assert_int_equal(dvsm_heap_destroy(heap), 0);
                heap = heap_of(limits[i]);
                at = turn_over(heap, 0, mosts[j], insertions, 6);
                assert_int_equal(dvsm_heap_destroy(heap), 0);
                good = at <= 8 * below; /* about 3 on a quiet machine */
            }
            printf("limit %zu MiB, blocks up to %zu: %.0f ns a call, below the limit %.0f\n",
                   limits[i] / MIB, mosts[j], at, below);
            if (!good)
                fail_msg("%.1f times what it costs below the limit", at / below);
        }
}

static int find_cpus(void **state)
{
    cpu_set_t mask;
    size_t found = 0;

    (void)state;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0)
        return -1;
    for (size_t i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &mask))
            cpu[found++] = i;
    if (found == 1)
        cpu[1] = cpu[0];
    return found > 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_most_of_the_limit_can_be_in_use),
        cmocka_unit_test(test_with_nothing_in_use_a_block_of_nearly_all_can_be_had),
        cmocka_unit_test(test_what_one_cpu_frees_is_had_by_another),
        cmocka_unit_test(test_a_heap_with_one_block_commits_little),
        cmocka_unit_test(test_a_large_request_looks_into_every_arena),
        cmocka_unit_test(test_what_fails_fails_again),
        cmocka_unit_test(test_cached_blocks_of_another_arena_are_had_at_once),
        cmocka_unit_test(test_an_impossible_size_changes_nothing),
        cmocka_unit_test(test_a_lack_of_memory_moves_no_thread),
        cmocka_unit_test(test_at_the_limit_a_call_costs_little_more),
    };

    return cmocka_run_group_tests(tests, find_cpus, NULL);
}
