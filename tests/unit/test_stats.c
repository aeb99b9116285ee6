/* test_stats.c - dvsm_stats() and mallinfo count exactly what a walk meets. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/clock.h"
#include "support/random.h"

enum { BLOCKS = 2000, ROUNDS = 60, CALLS = 400, MANY = 1000000 };

struct seen {
    size_t count[DVSM_CHUNK_CACHED + 1];
    size_t bytes[DVSM_CHUNK_CACHED + 1];
};

static void see(const dvsm_chunk *chunk, void *context)
{
    struct seen *seen = context;

    seen->count[chunk->state]++;
    seen->bytes[chunk->state] += chunk->bytes;
}

/* Statistics count a cached block with its class's size, a walk with its chunk's, which may be a
 * little larger. The difference counts as used. */
static void assert_agree(dvsm_heap *heap)
{
    struct seen seen = {.count = {0}};
    dvsm_stats_t stats;
    struct dvsm_mallinfo info = dvsm_heap_mallinfo(heap);

    assert_int_equal(dvsm_stats(heap, &stats), 0);
    dvsm_walk(heap, see, &seen);

    size_t used = seen.bytes[DVSM_CHUNK_USED] + seen.bytes[DVSM_CHUNK_LARGE];
    size_t cached = seen.bytes[DVSM_CHUNK_CACHED];
    assert_int_equal(stats.used_blocks, seen.count[DVSM_CHUNK_USED] + seen.count[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.large_blocks, seen.count[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.large_bytes, seen.bytes[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.free_chunks, seen.count[DVSM_CHUNK_FREE]);
    assert_int_equal(stats.free_bytes, seen.bytes[DVSM_CHUNK_FREE]);
    assert_int_equal(stats.cached_blocks, seen.count[DVSM_CHUNK_CACHED]);
    assert_int_equal(stats.used_bytes + stats.cached_bytes, used + cached);
    assert_true(stats.cached_bytes <= cached && cached - stats.cached_bytes <= cached / 8);
    assert_int_equal(info.ordblks, stats.free_chunks);
    assert_int_equal(info.smblks, stats.cached_blocks);
    assert_int_equal(info.fordblks, stats.free_bytes + stats.cached_bytes);
    assert_int_equal(info.uordblks + info.fordblks, info.arena + info.hblkhd);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* Any call on any of the places. */
static void call_one(dvsm_heap *heap, struct random_source *random, void **place)
{
    size_t size = random_size(random, random_once_in(random, 50) ? 600000 : 20000);

    switch (random_below(random, 8)) {
    case 0:
        *place = dvsm_heap_realloc(heap, *place, size);
        break;
    case 1:
        dvsm_free(*place);
        *place = dvsm_heap_memalign(heap, (size_t)32 << random_below(random, 8), size);
        break;
    case 2:
    case 3:
        dvsm_free(*place);
        *place = NULL;
        break;
    default:
        dvsm_free(*place);
        *place = dvsm_heap_malloc(heap, size);
    }
}

static void call_many(dvsm_heap *heap, struct random_source *random, void **places)
{
    size_t at = random_below(random, BLOCKS - 40);

    for (int i = 0; i < CALLS; i++)
        call_one(heap, random, &places[random_below(random, BLOCKS)]);
    assert_int_equal(dvsm_bulk_free(places + at, 40), 0);
    dvsm_heap_independent_calloc(heap, 20, random_size(random, 200), places + at);
    if (random_once_in(random, 8))
        dvsm_heap_trim(heap, 0);
}

static void work_and_compare(unsigned arenas, uint64_t seed)
{
    static void *places[BLOCKS];
    struct random_source random = {seed};
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = arenas});

    assert_non_null(heap);
    assert_agree(heap);
    for (int i = 0; i < ROUNDS; i++) {
        call_many(heap, &random, places);
        assert_agree(heap);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        dvsm_free(places[i]);
        places[i] = NULL;
    }
    assert_agree(heap);
    dvsm_heap_trim(heap, 0);
    assert_agree(heap);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_stats_agree_with_a_walk(void **state)
{
    (void)state;
    work_and_compare(1, 3);
    work_and_compare(0, 4);
}

/* A child is killed in one of its calls. Its half-done change is completed or undone, and its
 * blocks stay in use. */
static void test_stats_agree_after_a_death(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);

    (void)state;
    for (unsigned i = 0; i < 30; i++) {
        pid_t child = fork();

        if (child == 0) {
            static void *places[BLOCKS];
            struct random_source random = {i};

            for (;;)
                call_many(heap, &random, places);
        }
        usleep(1000 * (2 + i % 7));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        dvsm_reap(heap);
        assert_agree(heap);
    }
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static double seconds(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID) / 1e9;
}

/* The shortest of several runs, in this thread's own time, since others may be using the
 * machine. */
static void test_stats_take_no_longer_for_many_blocks(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);
    dvsm_stats_t stats;
    double best = 1;

    (void)state;
    for (unsigned i = 0; i < MANY; i++)
        assert_non_null(dvsm_heap_malloc(heap, 16 + i % 80));
    for (int i = 0; i < 20; i++) {
        double start = seconds();

        assert_int_equal(dvsm_stats(heap, &stats), 0);
        dvsm_heap_mallinfo(heap);
        best = seconds() - start < best ? seconds() - start : best;
    }
    print_message("%zu blocks: dvsm_stats and mallinfo in %.1f us\n", stats.used_blocks,
                  best * 1e6);
    assert_true(stats.used_blocks == MANY && best < 1e-3);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats_agree_with_a_walk),
        cmocka_unit_test(test_stats_agree_after_a_death),
        cmocka_unit_test(test_stats_take_no_longer_for_many_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
