/* test_api_upkeep.c - the public functions that look after a heap: trim, limits, parameters,
 * statistics, walks.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/blocks.h"
#include "support/child.h"

/* ---- looking after it */

static void test_trim_gives_back(void **state)
{
    (void)state;
    void *block[64];
    for (size_t i = 0; i < COUNT(block); i++)
        block[i] = assert_block(dvsm_malloc(100 * KIB), 100 * KIB);
    size_t full = dvsm_malloc_footprint();
    assert_int_equal(dvsm_bulk_free(block, COUNT(block)), 0);
    dvsm_malloc_trim(2 * MIB);
    size_t padded = dvsm_malloc_footprint();
    assert_int_equal(dvsm_malloc_trim(0), 1);
    size_t least = dvsm_malloc_footprint();
    assert_true(full >= COUNT(block) * 100 * KIB);
    assert_true(least < padded && padded < full);
    assert_true(least < 512 * KIB);
    assert_int_equal(dvsm_malloc_trim(0), 0);
    assert_int_equal(dvsm_malloc_trim(SIZE_MAX), 0);
    assert_true(dvsm_malloc_max_footprint() >= full);
}

static void test_the_limit_holds(void **state)
{
    size_t limit = dvsm_malloc_footprint() + 8 * MIB;
    void *block[100];
    size_t count = 0;

    (void)state;
    dvsm_malloc_trim(0);
    assert_int_equal(dvsm_malloc_footprint_limit(), SIZE_MAX);
    limit = dvsm_malloc_set_footprint_limit(limit);
    assert_int_equal(dvsm_malloc_footprint_limit(), limit);
    assert_int_equal(limit % (64 * KIB), 0);
    while (count < COUNT(block) && (block[count] = dvsm_malloc(200 * KIB)) != NULL)
        count++;
    assert_in_range(count, 5, COUNT(block) - 1);
    assert_int_equal(errno, ENOMEM);
    assert_true(dvsm_malloc_footprint() <= limit);
    assert_fails(dvsm_malloc(16 * MIB), ENOMEM);
    assert_sound();
    assert_int_equal(dvsm_malloc_set_footprint_limit(SIZE_MAX), SIZE_MAX);
    void *more = assert_block(dvsm_malloc(16 * MIB), 16 * MIB);
    dvsm_free(more);
    assert_int_equal(dvsm_bulk_free(block, count), 0);
    assert_int_equal(dvsm_malloc_set_footprint_limit(1), 64 * KIB);
    assert_int_equal(dvsm_malloc_set_footprint_limit(SIZE_MAX - 5), SIZE_MAX);
}

static void test_mallopt_takes_what_dlmalloc_takes(void **state)
{
    (void)state;
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 1 << 20), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 0), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, -1), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 4096), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 1 << 20), 1);
    dvsm_free(assert_block(dvsm_malloc(5000000), 5000000));
    assert_sound();
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 65536), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 2048), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 65535), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, 0), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_GRANULARITY, -1), 0);
    assert_int_equal(dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1), 1);
    assert_int_equal(dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -2), 0);
    assert_int_equal(dvsm_mallopt(1, 64), 0);
    assert_int_equal(dvsm_mallopt(0, 64), 0);
    assert_int_equal(dvsm_mallopt(-5, 64), 0);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 256 * KIB);
    dvsm_mallopt(DVSM_M_TRIM_THRESHOLD, 2 * MIB);
}

static void test_the_threshold_decides_what_is_large(void **state)
{
    (void)state;
    void *first = dvsm_malloc(10);
    void *large = dvsm_malloc(3 * MIB);
    assert_int_equal(dvsm_mallinfo().hblks, 1);
    assert_true(dvsm_mallinfo().hblkhd >= 3 * MIB);
    dvsm_free(large);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, -1);
    large = dvsm_malloc(3 * MIB);
    assert_int_equal(dvsm_mallinfo().hblks, 0);
    dvsm_free(large);
    dvsm_mallopt(DVSM_M_MMAP_THRESHOLD, 256 * KIB);
    dvsm_free(first);
}

static void test_mallinfo_adds_up(void **state)
{
    (void)state;
    void *small = dvsm_malloc(1000), *hole = dvsm_malloc(1000), *end = dvsm_malloc(1000);
    void *large = dvsm_malloc(8 * MIB); /* more than any arena has free */
    dvsm_free(hole);
    struct dvsm_mallinfo info = dvsm_mallinfo();
    assert_int_equal(info.uordblks + info.fordblks, info.arena + info.hblkhd);
    assert_true(info.uordblks >= 2000 + 8 * MIB);
    assert_true(info.fordblks >= 1000);
    assert_true(info.ordblks + info.smblks >= 2);
    assert_true(info.keepcost <= info.fordblks);
    assert_true(info.usmblks >= info.arena + info.hblkhd);
    assert_true(info.fsmblks <= info.fordblks && (info.smblks > 0) == (info.fsmblks > 0));
    assert_int_equal(info.hblks, 1);
    dvsm_free(small);
    dvsm_free(end);
    dvsm_free(large);
}

static int print_stats(void *context)
{
    (void)context;
    dvsm_malloc_stats();
    return 0;
}

static void test_malloc_stats_prints_three_lines(void **state)
{
    char text[1000];
    size_t most, now, used;

    (void)state;
    void *block = dvsm_malloc(54321);
    assert_int_equal(run_in_child_with_stderr(print_stats, NULL, text, sizeof text), 0);
    assert_int_equal(sscanf(text,
                            "max system bytes = %zu\nsystem bytes = %zu\nin use bytes = %zu\n",
                            &most, &now, &used),
                     3);
    assert_int_equal(most, dvsm_malloc_max_footprint());
    assert_int_equal(now, dvsm_malloc_footprint());
    assert_int_equal(used, dvsm_mallinfo().uordblks);
    dvsm_free(block);
}

struct inspected {
    const void *wanted;
    size_t used_bytes, free_bytes, wanted_seen;
};

static void inspect(void *start, void *end, size_t used_bytes, void *context)
{
    struct inspected *inspected = context;
    size_t bytes = (size_t)((char *)end - (char *)start);

    assert_true(start < end);
    inspected->used_bytes += used_bytes;
    if (used_bytes == 0)
        inspected->free_bytes += bytes;
    if (start == inspected->wanted)
        inspected->wanted_seen += used_bytes;
}

static void test_inspect_all_sees_blocks_and_free_chunks(void **state)
{
    (void)state;
    void *small = dvsm_malloc(100), *hole = dvsm_malloc(5000), *end = dvsm_malloc(100);
    void *large = dvsm_memalign(4096, MIB);
    dvsm_free(hole);
    struct inspected of_small = {small, 0, 0, 0}, of_large = {large, 0, 0, 0};
    dvsm_malloc_inspect_all(inspect, &of_small);
    dvsm_malloc_inspect_all(inspect, &of_large);
    assert_int_equal(of_small.wanted_seen, dvsm_malloc_usable_size(small));
    assert_int_equal(of_large.wanted_seen, dvsm_malloc_usable_size(large));
    assert_int_equal(of_small.used_bytes, dvsm_malloc_usable_size(small) +
                                              dvsm_malloc_usable_size(end) +
                                              dvsm_malloc_usable_size(large));
    assert_true(of_small.free_bytes >= 4900);
    dvsm_free(small);
    dvsm_free(end);
    dvsm_free(large);
}

/* ---- looking inside */

struct seen {
    size_t count[5], bytes[5];
    const void *wanted;
    dvsm_chunk chunk; /* the wanted one */
};

static void see(const dvsm_chunk *chunk, void *context)
{
    struct seen *seen = context;

    seen->count[chunk->state]++;
    seen->bytes[chunk->state] += chunk->bytes;
    if (chunk->block == seen->wanted)
        seen->chunk = *chunk;
}

static void test_walk_and_stats_agree(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});
    struct seen seen = {0};
    dvsm_stats_t stats;

    (void)state;
    void *small = dvsm_heap_malloc(heap, 100), *hole = dvsm_heap_malloc(heap, 5000);
    void *end = dvsm_heap_malloc(heap, 200), *large = dvsm_heap_memalign(heap, 1024, MIB);
    dvsm_free(hole);
    seen.wanted = large;
    dvsm_walk(heap, see, &seen);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(seen.count[DVSM_CHUNK_USED], 2);
    assert_int_equal(seen.count[DVSM_CHUNK_LARGE], 1);
    assert_int_equal(seen.chunk.state, DVSM_CHUNK_LARGE);
    assert_int_equal(seen.chunk.usable, dvsm_malloc_usable_size(large));
    assert_int_equal(seen.chunk.arena, 0);
    assert_int_equal(stats.used_blocks, 3);
    assert_int_equal(stats.used_bytes, seen.bytes[DVSM_CHUNK_USED] + seen.bytes[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.large_blocks, 1);
    assert_int_equal(stats.large_bytes, seen.bytes[DVSM_CHUNK_LARGE]);
    assert_int_equal(stats.free_chunks, seen.count[DVSM_CHUNK_FREE]);
    assert_int_equal(stats.free_bytes, seen.bytes[DVSM_CHUNK_FREE]);
    assert_int_equal(stats.committed_bytes, dvsm_heap_footprint(heap));
    assert_int_equal(stats.committed_most_bytes, dvsm_heap_max_footprint(heap));
    assert_int_equal(stats.limit_bytes, SIZE_MAX);
    assert_int_equal(stats.arenas, 1);
    assert_int_equal(stats.arenas_damaged + stats.recoveries, 0);
    assert_true(stats.metadata_bytes > 0 && stats.metadata_bytes < stats.committed_bytes);
    assert_true(stats.reserved_bytes >= stats.committed_bytes);
    dvsm_free(small);
    dvsm_free(end);
    dvsm_free(large);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* An arena keeps a record for each segment that is not next to the others. A walk shows these
 * records as overhead, not as blocks. */
static void test_records_of_segments_are_overhead(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.arenas = 1});
    struct seen seen = {0};
    void *block[30];
    size_t used = 0;

    (void)state;
    block[0] = dvsm_heap_malloc(heap, 10);
    block[1] = dvsm_heap_malloc(heap, MIB); /* large: stands in the way of the segment's growth */
    for (size_t i = 2; i < COUNT(block); i++)
        block[i] = dvsm_heap_malloc(heap, 30000);
    dvsm_walk(heap, see, &seen);
    for (size_t i = 0; i < COUNT(block); i++)
        used += block[i] != NULL;
    assert_int_equal(used, COUNT(block));
    assert_int_equal(seen.count[DVSM_CHUNK_OVERHEAD], 1);
    assert_int_equal(seen.count[DVSM_CHUNK_USED], used - 1);
    assert_int_equal(blocks_in_use(heap), used);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_bulk_free(block, COUNT(block)), 0);
    assert_int_equal(blocks_in_use(heap), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_stats_of_an_unused_heap(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.reserve = 64 * MIB});
    dvsm_stats_t stats;

    (void)state;
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.reserved_bytes, 64 * MIB);
    assert_int_equal(stats.arenas + stats.used_blocks + stats.free_chunks, 0);
    assert_int_equal(stats.committed_bytes, stats.metadata_bytes);
    assert_int_equal(dvsm_heap_max_footprint(heap), dvsm_heap_footprint(heap));
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_trim(heap, 0), 0);
    assert_int_equal(dvsm_heap_mallinfo(heap).arena, 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        api_test(test_trim_gives_back),
        api_test(test_the_limit_holds),
        api_test(test_mallopt_takes_what_dlmalloc_takes),
        api_test(test_the_threshold_decides_what_is_large),
        api_test(test_mallinfo_adds_up),
        api_test(test_malloc_stats_prints_three_lines),
        api_test(test_inspect_all_sees_blocks_and_free_chunks),
        api_test(test_walk_and_stats_agree),
        api_test(test_records_of_segments_are_overhead),
        api_test(test_stats_of_an_unused_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
