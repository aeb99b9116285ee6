/* test_growing.c - large blocks that grow, and those that are never touched: how much is copied,
 * how much is written, and how much has pages. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "engine/arena.h"
#include "segment/segment.h"
#include "support/growing_arena.h"

#define MIB ((size_t)1 << 20)

/* ---- growing by turns */

enum { BUFFERS = 16 };

/* Buffers grow to `end` bytes each, `step` more at a time. The bytes that are copied are at most
 * one and a half times what the buffers have in the end. */
static void grow_by_turns(size_t step, size_t end)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);
    unsigned char *buffer[BUFFERS] = {NULL};
    size_t copied = 0;

    for (size_t size = 0; size < end; size += step)
        for (size_t i = 0; i < BUFFERS; i++) {
            unsigned char *grown = dvsm_heap_realloc(heap, buffer[i], size + step);

            assert_non_null(grown);
            if (grown != buffer[i])
                copied += size;
            buffer[i] = grown;
            for (size_t k = 0; k < step; k += 4096)
                grown[size + k] = (unsigned char)(i + size / step);
        }
    assert_in_range(copied, 0, BUFFERS * end * 3 / 2);
    for (size_t i = 0; i < BUFFERS; i++)
        for (size_t k = 0; k < end; k += 4096)
            assert_int_equal(buffer[i][k], (unsigned char)(i + k / step));
    assert_in_range(dvsm_heap_max_footprint(heap), 0, 2 * BUFFERS * end);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_bulk_free((void **)buffer, BUFFERS), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_buffers_that_grow_by_turns_are_seldom_copied(void **state)
{
    (void)state;
    grow_by_turns(65536, 4 * MIB);
    grow_by_turns(200 * 4096, 16 * 200 * 4096);
}

/* Blocks that fill the heap can still move and grow, one after the other. */
static void test_growing_at_the_limit(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.limit = 12 * MIB});
    unsigned char *buffer[4] = {NULL};
    size_t sum = 0;

    (void)state;
    for (size_t size = 65536;; size += 65536) {
        size_t i = size / 65536 % 4;
        unsigned char *grown = dvsm_heap_realloc(heap, buffer[i], size);

        if (grown == NULL)
            break;
        buffer[i] = grown;
        sum += 65536 * 4;
    }
    assert_true(sum > 6 * MIB);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_bulk_free((void **)buffer, 4), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* dvsm_walk() finds a large block by a word that also counts how often it grew. */
static void find_large(const dvsm_chunk *chunk, void *context)
{
    void **found = context;

    if (chunk->state == DVSM_CHUNK_LARGE)
        *found = chunk->block;
}

static void test_a_block_that_grew_is_walked(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(NULL);
    void *block = NULL, *found = NULL;

    (void)state;
    for (size_t size = MIB; size < 12 * MIB; size += MIB) {
        block = dvsm_heap_realloc(heap, block, size);
        assert_non_null(block);
        dvsm_walk(heap, find_large, &found);
        assert_ptr_equal(found, block);
    }
    dvsm_free(block);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* ---- memory that is fresh */

static void test_the_arena_says_what_is_fresh(void **state)
{
    struct growing_arena *g = growing_arena_new(200);
    struct arena_call call = growing_arena_call(g);

    (void)state;
    g->arena->growth_most = GRANULE;
    char *first = arena_malloc(&call, MIB);
    assert_non_null(first);
    assert_true(call.fresh != NULL && call.fresh <= first);
    memset(first, 0xff, MIB);
    arena_free(&call, first);

    char *partly = arena_calloc(&call, 4, MIB);
    assert_ptr_equal(partly, first);
    assert_ptr_equal(call.fresh, first - CHUNK_HEADER + MIB + GRANULE);
    for (size_t i = 0; i < 4 * MIB; i++)
        assert_int_equal(partly[i], 0);
    memset(partly, 0xff, 4 * MIB);
    arena_free(&call, partly);

    char *again = arena_calloc(&call, 4, MIB);
    assert_ptr_equal(again, first);
    for (size_t i = 0; i < 4 * MIB; i++)
        assert_int_equal(again[i], 0);
    growing_arena_delete(g);
}

/* ---- never touched */

/* How many bytes of [start, start + bytes) have pages. */
static size_t resident(const char *start, size_t bytes)
{
    static unsigned char page[1 << 18];
    size_t size = (size_t)sysconf(_SC_PAGESIZE), pages = 0;
    char *from = (char *)((uintptr_t)start & ~(size - 1));

    assert_true(bytes / size < sizeof page);
    assert_int_equal(mincore(from, bytes, page), 0);
    for (size_t i = 0; i < bytes / size; i++)
        pages += page[i] & 1;
    return pages * size;
}

static void test_lazy_blocks_get_pages_when_touched(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.flags = DVSM_LAZY, .reserve = 800 * MIB});
    dvsm_heap *eager = dvsm_heap_create(&(dvsm_options){.reserve = 200 * MIB});

    (void)state;
    assert_true(heap != NULL && eager != NULL);
    char *block = dvsm_heap_malloc(heap, 300 * MIB), *zeros = dvsm_heap_calloc(heap, 300, MIB);
    char *full = dvsm_heap_malloc(eager, 20 * MIB);
    assert_true(block != NULL && zeros != NULL && full != NULL);
    assert_in_range(resident(full, 20 * MIB - 4096), 19 * MIB, 21 * MIB);
    assert_in_range(resident(block, 300 * MIB), 0, MIB);
    assert_in_range(resident(zeros, 300 * MIB), 0, MIB); /* calloc wrote nothing */
    assert_true(dvsm_heap_footprint(heap) >= 600 * MIB);
    for (size_t i = 0; i < 300 * MIB; i += 10 * MIB) {
        assert_int_equal(zeros[i], 0);
        block[i] = zeros[i] = 1;
    }
    assert_in_range(resident(block, 300 * MIB), 30 * 4096, MIB);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    dvsm_free(block);
    dvsm_free(zeros);

    /* Granules that may have no pages are not retained: a small block needs pages. */
    dvsm_stats_t stats;
    dvsm_stats(heap, &stats);
    assert_int_equal(stats.retained_bytes, 0);
    char *small = dvsm_heap_malloc(heap, 200000);
    assert_in_range(resident(small, 200000), 190000, 210000);
    dvsm_free(small);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    assert_int_equal(dvsm_heap_destroy(eager), 0);
}

static void test_lazy_blocks_count_against_the_limit(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.flags = DVSM_LAZY, .limit = 64 * MIB});

    (void)state;
    char *block = dvsm_heap_malloc(heap, 40 * MIB);
    assert_non_null(block);
    errno = 0;
    assert_null(dvsm_heap_malloc(heap, 40 * MIB));
    assert_int_equal(errno, ENOMEM);
    assert_non_null(block = dvsm_heap_realloc(heap, block, 50 * MIB));
    assert_in_range(resident(block, 50 * MIB), 0, 2 * MIB);
    assert_non_null(block = dvsm_heap_realloc(heap, block, 10 * MIB));
    dvsm_free(block);
    assert_non_null(block = dvsm_heap_malloc(heap, 60 * MIB));
    dvsm_free(block);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* A process that dies while it has lazy blocks, or while it makes one, leaves a sound heap. */
static void test_lazy_blocks_of_a_process_that_is_killed(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.flags = DVSM_LAZY, .limit = 256 * MIB});

    (void)state;
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0)
            for (;;)
                dvsm_free(dvsm_heap_calloc(heap, 10, MIB));
        usleep(2000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        assert_true(dvsm_reap(heap) >= 0);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        void *block = dvsm_heap_malloc(heap, 20 * MIB);
        assert_non_null(block);
        dvsm_free(block);
    }
    assert_in_range(dvsm_heap_footprint(heap), 0, 240 * MIB);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffers_that_grow_by_turns_are_seldom_copied),
        cmocka_unit_test(test_growing_at_the_limit),
        cmocka_unit_test(test_a_block_that_grew_is_walked),
        cmocka_unit_test(test_the_arena_says_what_is_fresh),
        cmocka_unit_test(test_lazy_blocks_get_pages_when_touched),
        cmocka_unit_test(test_lazy_blocks_count_against_the_limit),
        cmocka_unit_test(test_lazy_blocks_of_a_process_that_is_killed),
    };

    return cmocka_run_group_tests_name("growing", tests, NULL, NULL);
}
