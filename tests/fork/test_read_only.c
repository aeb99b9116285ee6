/* test_read_only.c - a heap that another program joined with DVSM_READ_ONLY: it may look, not touch;
 * and the ranges of a heap.
 *
 * The other program is this one, executed once more (support/program.h).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "support/program.h"

enum { BLOCKS = 500, RANGES = 4096 };

static char name[64];
static dvsm_heap *heap;

/* The root of the heap. */
struct shared {
    volatile int number;
    char *block[BLOCKS];
    dvsm_stats_t stats; /* as the maker sees it */
};

/* ---- what the other program does ------------------------------------------------------------- */

static struct shared *join(const char *of)
{
    heap = dvsm_heap_attach(of, DVSM_READ_ONLY);
    return heap != NULL ? dvsm_root_get(heap, "shared") : NULL;
}

static void count(const dvsm_chunk *chunk, void *context)
{
    size_t *blocks = context;

    *blocks += chunk->state == DVSM_CHUNK_USED || chunk->state == DVSM_CHUNK_LARGE;
}

static int look(char **arguments)
{
    struct shared *shared = join(arguments[0]);
    dvsm_stats_t stats = {.size = sizeof stats};
    size_t blocks = 0;

    CHILD_CHECK(shared != NULL && dvsm_heap_of(shared) == heap);
    for (int round = 0; round < 3; round++) {
        CHILD_CHECK(dvsm_check(heap, stderr) == 0);
        CHILD_CHECK(dvsm_stats(heap, &stats) == 0);
        CHILD_CHECK(stats.used_blocks == shared->stats.used_blocks);
        CHILD_CHECK(stats.committed_bytes == shared->stats.committed_bytes);
        blocks = 0;
        errno = 0;
        dvsm_walk(heap, count, &blocks);
        CHILD_CHECK(blocks == stats.used_blocks && errno == 0);
    }
    CHILD_CHECK(dvsm_heap_footprint(heap) == stats.committed_bytes);
    CHILD_CHECK(dvsm_heap_max_footprint(heap) >= stats.committed_bytes);
    CHILD_CHECK(dvsm_heap_limit(heap) == stats.limit_bytes);
    CHILD_CHECK(dvsm_heap_mallinfo(heap).uordblks > 0);
    for (size_t i = 0; i < BLOCKS; i++)
        CHILD_CHECK(dvsm_malloc_usable_size(shared->block[i]) >= i + 1 &&
                    shared->block[i][i] == (char)i);
    CHILD_CHECK(dvsm_heap_detach(heap) == 0);
    return 0;
}

#define REFUSED(call)                                                                              \
    do {                                                                                           \
        errno = 0;                                                                                 \
        CHILD_CHECK(call);                                                                         \
        CHILD_CHECK(errno == EROFS);                                                               \
    } while (0)

static void *init(dvsm_heap *of, void *context)
{
    (void)of;
    return context;
}

static int touch(char **arguments)
{
    struct shared *shared = join(arguments[0]);
    void *block = shared->block[7], *aligned, *blocks[] = {shared->block[8], shared->block[9]};
    size_t size = 10;

    REFUSED(dvsm_heap_malloc(heap, 1) == NULL);
    REFUSED(dvsm_heap_calloc(heap, 1, 1) == NULL);
    REFUSED(dvsm_heap_realloc(heap, NULL, 1) == NULL);
    REFUSED(dvsm_heap_reallocarray(heap, NULL, 1, 1) == NULL);
    REFUSED(dvsm_heap_aligned_alloc(heap, 64, 64) == NULL);
    REFUSED(dvsm_heap_memalign(heap, 64, 64) == NULL);
    REFUSED(dvsm_heap_strdup(heap, "text") == NULL);
    REFUSED(dvsm_heap_strndup(heap, "text", 2) == NULL);
    REFUSED(dvsm_heap_independent_calloc(heap, 1, 1, NULL) == NULL);
    REFUSED(dvsm_heap_independent_comalloc(heap, 1, &size, NULL) == NULL);
    CHILD_CHECK(dvsm_heap_posix_memalign(heap, &aligned, 64, 64) == EROFS);
    REFUSED(dvsm_realloc(block, 100000) == NULL);
    REFUSED(dvsm_realloc_in_place(block, 1) == NULL);
    REFUSED((dvsm_free(block), true));
    REFUSED((dvsm_free_sized(block, 8), true));
    REFUSED(dvsm_bulk_free(blocks, 2) == 2 && blocks[0] != NULL);
    REFUSED(dvsm_heap_trim(heap, 0) == 0);
    REFUSED(dvsm_heap_set_limit(heap, 1) == 0);
    REFUSED(dvsm_reap(heap) == -1);
    REFUSED(dvsm_root_set(heap, "other", block) == -1);
    REFUSED(dvsm_root_swap(heap, "shared", block, NULL) == -1);
    REFUSED(dvsm_root_get_or_init(heap, "other", init, block) == NULL);
    REFUSED(dvsm_heap_inherit(heap) == -1);
    REFUSED(dvsm_heap_destroy(heap) == -1);
    REFUSED(dvsm_heap_attach(arguments[0], 0) == NULL);
    CHILD_CHECK(dvsm_heap_attach(arguments[0], DVSM_READ_ONLY) == heap);
    CHILD_CHECK((fcntl(dvsm_heap_fd(heap), F_GETFL) & O_ACCMODE) == O_RDONLY);
    return 0;
}

static int store(char **arguments)
{
    const struct rlimit no_core = {0, 0};
    struct shared *shared = join(arguments[0]);

    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGSEGV, SIG_DFL);                   /* not AddressSanitizer's */
    CHILD_CHECK(dvsm_check(heap, stderr) == 0); /* after a look as before it */
    shared->number = 1;
    return 0;
}

/* Sees what the maker stores, before, between and after looks. */
static int follow(char **arguments)
{
    struct shared *shared = join(arguments[0]);

    for (int i = 1; i <= 20; i++) {
        while (shared->number < i)
            usleep(100);
        CHILD_CHECK(dvsm_check(heap, NULL) >= 0);
    }
    return 0;
}

static const struct program programs[] = {
    {"look", look}, {"touch", touch}, {"store", store}, {"follow", follow}};

/* ---- the maker ------------------------------------------------------------------------------- */

static struct shared *shared;

static int set_up(void **state)
{
    (void)state;
    heap = dvsm_heap_create(&(dvsm_options){
        .backend = &dvsm_backend_shm_open, .name = name, .mode = 0644, .flags = DVSM_EXCLUSIVE});
    shared = heap != NULL ? dvsm_heap_calloc(heap, 1, sizeof *shared) : NULL;
    if (shared == NULL || dvsm_root_set(heap, "shared", shared) != 0)
        return 1;
    for (size_t i = 0; i < BLOCKS; i++) {
        shared->block[i] = dvsm_heap_malloc(heap, i + 1 + (i % 50 == 0 ? 300000 : 0));
        memset(shared->block[i], (int)i, i + 1);
        dvsm_free(dvsm_heap_malloc(heap, 3 * i)); /* some are cached, then */
    }
    shared->stats.size = sizeof shared->stats;
    return dvsm_stats(heap, &shared->stats);
}

static int tear_down(void **state)
{
    (void)state;
    return dvsm_check(heap, stderr) != 0 || dvsm_heap_destroy(heap) != 0;
}

static void test_looking(void **state)
{
    (void)state;
    assert_int_equal(run_program("look", name, NULL), 0);
}

static void test_everything_else_is_refused(void **state)
{
    (void)state;
    assert_int_equal(run_program("touch", name, NULL), 0);
    assert_int_equal(shared->number, 0);
    assert_int_equal(run_program("look", name, NULL), 0);
}

static void test_a_store_faults(void **state)
{
    (void)state;
    int status = run_program("store", name, NULL);

    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_int_equal(shared->number, 0);
}

static void test_what_others_write_is_seen(void **state)
{
    (void)state;
    pid_t child = start_program("follow", name, NULL);

    for (int i = 1; i <= 20; i++) {
        usleep(2000);
        shared->number = i;
        dvsm_free(dvsm_heap_malloc(heap, 1000));
    }
    assert_int_equal(wait_for_child(child), 0);
}

/* Whoever looks waits for no lock. */
static void test_looking_while_everything_is_locked(void **state)
{
    struct heap_call call;

    (void)state;
    assert_true(cache_lock_all(&heap->cache));
    assert_true(heap_enter_index(&call, heap, 0, "test"));
    assert_int_equal(run_program("look", name, NULL), 0);
    heap_leave(&call);
    cache_unlock_all(&heap->cache);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static bool is_in(const struct iovec *ranges, size_t n, const char *block, size_t bytes)
{
    for (size_t i = 0; i < n; i++)
        if ((const char *)ranges[i].iov_base <= block &&
            block + bytes <= (const char *)ranges[i].iov_base + ranges[i].iov_len)
            return true;
    return false;
}

static void test_ranges_have_all_blocks_and_what_is_committed(void **state)
{
    static struct iovec ranges[RANGES];
    uint64_t before, after;
    size_t n = dvsm_heap_ranges(heap, ranges, RANGES, &before), bytes = 0;
    dvsm_stats_t stats = {.size = sizeof stats};

    (void)state;
    assert_in_range(n, 1, RANGES);
    for (size_t i = 0; i < BLOCKS; i++)
        assert_true(is_in(ranges, n, shared->block[i], i + 1));
    for (size_t i = 0; i < n; i++)
        bytes += ranges[i].iov_len;
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(bytes, stats.committed_bytes - stats.metadata_bytes);
    assert_int_equal(dvsm_heap_ranges(heap, NULL, 0, &after), n);
    assert_true(after == before);
    void *large = dvsm_heap_malloc(heap, 40 << 20);
    dvsm_heap_ranges(heap, NULL, 0, &after);
    assert_true(after != before);
    dvsm_free(large);
    for (size_t i = 0; i < BLOCKS; i += 2) {
        dvsm_free(shared->block[i]);
        shared->block[i] = NULL;
    }
    dvsm_heap_trim(heap, 0); /* leaves holes */
    n = dvsm_heap_ranges(heap, ranges, RANGES, NULL);
    bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += ranges[i].iov_len;
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(bytes, stats.committed_bytes - stats.metadata_bytes);
    assert_int_equal(dvsm_heap_ranges(NULL, ranges, RANGES, NULL), 0);
    assert_int_equal(errno, EINVAL);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_looking),
        TEST(test_everything_else_is_refused),
        TEST(test_a_store_faults),
        TEST(test_what_others_write_is_seen),
        TEST(test_looking_while_everything_is_locked),
        TEST(test_ranges_have_all_blocks_and_what_is_committed),
    };

    if (program_is_asked_for(argc, argv))
        return program_run(programs, sizeof programs / sizeof programs[0], argv);
    snprintf(name, sizeof name, "/dvsm-test-read-only-%ld", (long)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
