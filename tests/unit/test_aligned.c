/* test_aligned.c - blocks of a requested alignment take little more memory than they must: one at a
 * time, in rings, by several threads, mixed with others, resized. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "bins/chunk.h"
#include "dvsm/dvsm.h"
#include "support/random.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB ((size_t)1 << 20)

static size_t round_up(size_t x, size_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* The distance between the starts of two such blocks that lie as close as they can; each has a
 * header before it. */
static size_t stride(size_t alignment, size_t size)
{
    size_t bytes = round_up(size + CHUNK_HEADER, alignment);
    size_t large = round_up(size + 1, 65536) + 65536; /* a header's granule, and the payload's */

    return alignment >= 4 * 65536 && large < bytes ? large : bytes;
}

static dvsm_heap *new_heap(size_t *before)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);

    assert_non_null(heap);
    *before = dvsm_heap_footprint(heap);
    return heap;
}

/* The footprint has never been more than one and a half times `in_use`, and 1 MiB. */
static void expect_small(dvsm_heap *heap, size_t before, size_t in_use, size_t alignment,
                         size_t size)
{
    size_t most = dvsm_heap_max_footprint(heap) - before, bound = in_use + in_use / 2 + MIB;

    if (most > bound)
        fail_msg("alignment %zu, %zu bytes: %zu bytes for %zu in use", alignment, size, most,
                 in_use);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void *get(dvsm_heap *heap, size_t alignment, size_t size)
{
    unsigned char *block = dvsm_heap_aligned_alloc(heap, alignment, size);

    assert_non_null(block);
    assert_int_equal((uintptr_t)block % alignment, 0);
    assert_true(dvsm_malloc_usable_size(block) >= size);
    if (size > 0)
        block[0] = block[size - 1] = 1;
    return block;
}

static const size_t sizes[] = {0, 16, 64, 100, 500, 512, 2048, 4096, 5000, 40000, 65536, 200000};

static void test_one_at_a_time(void **state)
{
    (void)state;
    for (size_t alignment = 32; alignment <= MIB; alignment *= 2)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            size_t before;
            dvsm_heap *heap = new_heap(&before);

            for (int k = 0; k < (alignment < 65536 ? 2000 : 200); k++)
                dvsm_free(get(heap, alignment, sizes[i]));
            expect_small(heap, before, stride(alignment, sizes[i]), alignment, sizes[i]);
        }
}

enum { RING = 50 };

static void turn_ring(dvsm_heap *heap, size_t alignment, size_t size, int times, bool random,
                      struct random_source *source)
{
    void *ring[RING] = {NULL};

    for (int k = 0; k < times; k++) {
        size_t at = random ? random_below(source, RING) : (size_t)k % RING;

        dvsm_free(ring[at]);
        ring[at] = get(heap, alignment, size);
    }
    assert_int_equal(dvsm_bulk_free(ring, RING), 0);
}

static void test_in_rings(void **state)
{
    struct random_source source = {1};

    (void)state;
    for (size_t alignment = 32; alignment <= MIB; alignment *= 4)
        for (size_t i = 0; i < COUNT(sizes) - 1; i++) {
            size_t before;
            dvsm_heap *heap = new_heap(&before);
            int times = stride(alignment, sizes[i]) < 65536 ? 2000 : 300;

            turn_ring(heap, alignment, sizes[i], times, false, &source);
            turn_ring(heap, alignment, sizes[i], times, true, &source);
            expect_small(heap, before, RING * stride(alignment, sizes[i]), alignment, sizes[i]);
        }
}

enum { THREADS = 4 };

struct job {
    dvsm_heap *heap;
    size_t alignment;
    uint64_t seed;
};

static void *turn_in_thread(void *argument)
{
    struct job *job = argument;
    struct random_source source = {job->seed};

    turn_ring(job->heap, job->alignment, 100, 20000, true, &source);
    return NULL;
}

/* An arena for each CPU at most, each with room for all. */
static void test_several_threads(void **state)
{
    (void)state;
    for (size_t alignment = 64; alignment <= 4096; alignment *= 8) {
        size_t before;
        dvsm_heap *heap = new_heap(&before);
        pthread_t thread[THREADS];
        struct job job[THREADS];

        for (size_t i = 0; i < THREADS; i++) {
            job[i] = (struct job){heap, alignment, i + 1};
            assert_int_equal(pthread_create(&thread[i], NULL, turn_in_thread, &job[i]), 0);
        }
        for (size_t i = 0; i < THREADS; i++)
            pthread_join(thread[i], NULL);
        expect_small(heap, before, (size_t)THREADS * RING * stride(alignment, 100), alignment, 100);
    }
}

/* Ordinary blocks of the same class come and go between the aligned ones; most of them are not
 * aligned, and serve no such request. */
static void test_mixed_with_ordinary_blocks(void **state)
{
    struct random_source source = {2};
    void *plain[RING] = {NULL}, *aligned[RING] = {NULL};
    size_t before;

    (void)state;
    dvsm_heap *heap = new_heap(&before);
    for (int k = 0; k < 100000; k++) {
        size_t at = random_below(&source, RING);

        if (random_once_in(&source, 2)) {
            dvsm_free(plain[at]);
            assert_non_null(plain[at] = dvsm_heap_malloc(heap, 120));
        } else {
            dvsm_free(aligned[at]);
            aligned[at] = get(heap, (size_t)32 << random_below(&source, 3), 90 + at % 30);
        }
    }
    assert_int_equal(dvsm_bulk_free(plain, RING), 0);
    assert_int_equal(dvsm_bulk_free(aligned, RING), 0);
    expect_small(heap, before, 2 * RING * 128, 64, 100);
}

/* Free returns the lead before an aligned block, too: by whatever call, and also after realloc. */
static void test_resized_and_freed_in_every_way(void **state)
{
    struct random_source source = {3};
    size_t before;

    (void)state;
    dvsm_heap *heap = new_heap(&before);
    for (int k = 0; k < 30000; k++) {
        size_t alignment = (size_t)256 << random_below(&source, 7),
               size = random_size(&source, 6000);
        void *block = get(heap, alignment, size), *other = NULL;

        switch (random_below(&source, 5)) {
        case 0:
            size = random_size(&source, 6000);
            assert_non_null(block = dvsm_heap_realloc(heap, block, size));
            break;
        case 1:
            if (dvsm_realloc_in_place(block, size + 5000) != NULL)
                assert_int_equal((uintptr_t)block % alignment, 0);
            break;
        case 2:
            size = 0;
            assert_non_null(block = dvsm_realloc(block, 0));
            break;
        case 3:
            other = get(heap, alignment, 10);
            assert_int_equal(dvsm_bulk_free((void *[]){other, block}, 2), 0);
            continue;
        default:
            break;
        }
        dvsm_free_aligned_sized(block, alignment, size);
    }
    expect_small(heap, before, 2 * 16384 + 12000, 16384, 6000);
}

/* After the first requests aligned blocks come from the lane: the next one is the one freed
 * last. */
static void test_small_alignments_come_from_the_cache(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.cache_bytes = MIB});
    dvsm_stats_t stats;

    (void)state;
    for (size_t alignment = 128; alignment >= 32; alignment /= 2)
        for (size_t size = 1; size < 3000; size += 97) {
            void *blocks[20];

            for (size_t i = 0; i < COUNT(blocks); i++)
                blocks[i] = get(heap, alignment, size);
            for (size_t i = 0; i < COUNT(blocks); i++)
                dvsm_free(blocks[i]);
            dvsm_stats(heap, &stats);
            size_t cached = stats.cached_blocks;
            dvsm_free(get(heap, alignment, size));
            dvsm_stats(heap, &stats);
            assert_int_equal(stats.cached_blocks, cached);
        }
    assert_in_range(stats.cached_blocks, 200, 3000);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_at_a_time),
        cmocka_unit_test(test_in_rings),
        cmocka_unit_test(test_several_threads),
        cmocka_unit_test(test_mixed_with_ordinary_blocks),
        cmocka_unit_test(test_resized_and_freed_in_every_way),
        cmocka_unit_test(test_small_alignments_come_from_the_cache),
    };

    return cmocka_run_group_tests_name("aligned", tests, NULL, NULL);
}
