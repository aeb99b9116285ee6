/* test_threads.c - threads of one process at work at once; also run under ThreadSanitizer, which
 * sees data races. */
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

#include "base/journal.h"
#include "dvsm/dvsm.h"
#include "shm/shm.h"
#include "sync/lock.h"

enum { THREADS = 4 };

typedef void *(*thread_work)(void *context);

/* Each thread gets a context; what it returns is what failed, or NULL. */
static void in_threads(thread_work work, void *const context[THREADS])
{
    pthread_t thread[THREADS];

    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, work, context[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed;

        assert_int_equal(pthread_join(thread[i], &failed), 0);
        assert_string_equal(failed != NULL ? failed : "nothing", "nothing");
    }
}

static void in_threads_alike(thread_work work, void *context)
{
    void *contexts[THREADS];

    for (int i = 0; i < THREADS; i++)
        contexts[i] = context;
    in_threads(work, contexts);
}

/* ---- the lock and what it guards */

struct ledger {
    struct lock lock;
    struct journal journal;
    size_t sum, rounds;
};

enum { ROUNDS = 20000 };

/* Changes the ledger; one change in four is undone. */
static void *change_ledger(void *context)
{
    struct ledger *ledger = context;

    for (size_t i = 0; i < ROUNDS; i++) {
        if (lock_acquire(&ledger->lock) != LOCK_ACQUIRED)
            return "the lock";
        journal_store(&ledger->journal, &ledger->sum, ledger->sum + 2);
        journal_store(&ledger->journal, &ledger->rounds, ledger->rounds + 1);
        if (i % 4 == 0)
            journal_roll_back(&ledger->journal);
        else
            journal_commit(&ledger->journal);
        lock_release(&ledger->lock);
    }
    return NULL;
}

static void test_a_lock_and_its_journal_serve_many_threads(void **state)
{
    (void)state;
    static struct ledger ledger;

    assert_int_equal(lock_init(&ledger.lock, LOCK_ARENA), 0);
    in_threads_alike(change_ledger, &ledger);
    assert_int_equal(ledger.rounds, THREADS * ROUNDS / 4 * 3);
    assert_int_equal(ledger.sum, 2 * ledger.rounds);
    assert_true(journal_is_empty(&ledger.journal));
}

/* ---- a backend, in different ranges */

struct range {
    const dvsm_mapping *mapping;
    char *start;
    size_t bytes;
};

static void *commit_and_release(void *context)
{
    const struct range *r = context;
    const dvsm_backend *b = &dvsm_backend_memfd;

    for (int i = 0; i < 50; i++) {
        if (b->commit(b, r->mapping, r->start, r->bytes) != 0)
            return "commit";
        for (size_t k = 0; k < r->bytes; k += 512)
            if (r->start[k] != 0)
                return "not zero";
        memset(r->start, 'x', r->bytes);
        if (b->release(b, r->mapping, r->start, r->bytes) != 0)
            return "release";
    }
    return NULL;
}

static void test_ranges_are_committed_by_many_threads(void **state)
{
    (void)state;
    const dvsm_backend *b = &dvsm_backend_memfd;
    const size_t bytes = 64 << 10;
    dvsm_mapping m = {.bytes = 1 << 20, .fd = -1};
    struct range range[THREADS];
    void *contexts[THREADS];

    assert_int_equal(shm_reserve_fitting(b, &m, m.bytes), 0);
    for (size_t i = 0; i < THREADS; i++) {
        range[i] = (struct range){&m, (char *)m.base + i * bytes, bytes};
        contexts[i] = &range[i];
    }
    in_threads(commit_and_release, contexts);
    assert_int_equal(b->unmap(b, &m, 1), 0);
}

/* ---- the heap */

enum { SLOTS = 64, OPERATIONS = 20000 };

/* A place where threads exchange blocks: whoever takes one out frees it. */
struct market {
    dvsm_heap *heap;
    _Atomic(unsigned char *) slot[SLOTS];
    atomic_uint seed;
};

/* From a byte to a large block; most are small. */
static size_t some_size(unsigned *seed)
{
    switch (rand_r(seed) % 100) {
    case 0:
        return 1 + (size_t)rand_r(seed) % (1 << 20);
    case 1:
    case 2:
    case 3:
        return 1 + (size_t)rand_r(seed) % (32 << 10);
    default:
        return 1 + (size_t)rand_r(seed) % 512;
    }
}

static bool is_marked(const unsigned char *block)
{
    size_t bytes = dvsm_malloc_usable_size((void *)(uintptr_t)block);

    return (block[bytes - 1] ^ block[0]) == 0xff;
}

static void mark(unsigned char *block, unsigned char value)
{
    block[0] = value;
    block[dvsm_malloc_usable_size(block) - 1] = value ^ 0xff;
}

static void *trade(void *context)
{
    struct market *market = context;
    unsigned seed = atomic_fetch_add(&market->seed, 1);

    for (int i = 0; i < OPERATIONS; i++) {
        unsigned char *mine = dvsm_heap_malloc(market->heap, 1 + some_size(&seed));

        if (mine == NULL)
            return "no memory";
        mark(mine, (unsigned char)i);
        unsigned char *other = atomic_exchange(&market->slot[rand_r(&seed) % SLOTS], mine);
        if (other != NULL && !is_marked(other))
            return "contents";
        if (i % 8 == 0 && other != NULL) {
            unsigned char *moved = dvsm_heap_realloc(market->heap, other, 1 + some_size(&seed));

            if (moved == NULL)
                return "no memory to move to";
            other = moved;
        }
        dvsm_free(other);
        if (i % (OPERATIONS / 4) == 0)
            dvsm_heap_trim(market->heap, 0);
    }
    return NULL;
}

static void test_threads_free_what_others_allocated(void **state)
{
    (void)state;
    struct market market = {.heap = dvsm_heap_create(NULL), .seed = 1};
    dvsm_stats_t stats;

    assert_non_null(market.heap);
    in_threads_alike(trade, &market);
    assert_int_equal(dvsm_check(market.heap, stderr), 0);
    for (size_t i = 0; i < SLOTS; i++)
        dvsm_free(atomic_load(&market.slot[i]));
    assert_int_equal(dvsm_check(market.heap, stderr), 0);
    assert_int_equal(dvsm_stats(market.heap, &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
    assert_int_equal(dvsm_heap_destroy(market.heap), 0);
}

static void *look_inside(void *context)
{
    struct market *market = context;

    for (int i = 0; i < 20; i++) {
        dvsm_stats_t stats;

        if (dvsm_check(market->heap, stderr) != 0)
            return "not sound";
        if (dvsm_stats(market->heap, &stats) != 0 || stats.committed_bytes == 0)
            return "stats";
        struct dvsm_mallinfo info = dvsm_heap_mallinfo(market->heap);
        if (info.uordblks + info.fordblks != info.arena + info.hblkhd)
            return "mallinfo";
    }
    return NULL;
}

static void test_the_heap_is_checked_while_others_work(void **state)
{
    (void)state;
    struct market market = {.heap = dvsm_heap_create(NULL), .seed = 100};
    pthread_t observer;
    void *failed;

    assert_non_null(market.heap);
    assert_int_equal(pthread_create(&observer, NULL, look_inside, &market), 0);
    in_threads_alike(trade, &market);
    assert_int_equal(pthread_join(observer, &failed), 0);
    assert_string_equal(failed != NULL ? failed : "nothing", "nothing");
    assert_int_equal(dvsm_heap_destroy(market.heap), 0);
}

static pthread_barrier_t start;

/* One thread fills in what the fast path knows of the heap's granules while others read it. */
static void *use_the_default_heap(void *context)
{
    void *block[100];

    (void)context;
    pthread_barrier_wait(&start);
    for (size_t i = 0; i < 100; i++)
        if ((block[i] = dvsm_malloc(i * 100)) == NULL)
            return "malloc";
    for (size_t i = 0; i < 100; i++)
        dvsm_free(block[i]);
    return NULL;
}

static void test_all_threads_are_the_first_to_use_the_default_heap(void **state)
{
    (void)state;
    assert_int_equal(pthread_barrier_init(&start, NULL, THREADS), 0);
    in_threads_alike(use_the_default_heap, NULL);
    assert_int_equal(pthread_barrier_destroy(&start), 0);
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

static void *create_and_destroy(void *context)
{
    (void)context;
    for (int i = 0; i < 20; i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.reserve = 16 << 20});
        void *block = dvsm_heap_malloc(heap, 1000);

        if (block == NULL || dvsm_heap_of(block) != heap)
            return "a heap of one's own";
        dvsm_free(block);
        if (dvsm_heap_destroy(heap) != 0)
            return "destroy";
    }
    return NULL;
}

static void test_heaps_come_and_go_in_many_threads(void **state)
{
    (void)state;
    in_threads_alike(create_and_destroy, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_threads_are_the_first_to_use_the_default_heap),
        cmocka_unit_test(test_a_lock_and_its_journal_serve_many_threads),
        cmocka_unit_test(test_ranges_are_committed_by_many_threads),
        cmocka_unit_test(test_threads_free_what_others_allocated),
        cmocka_unit_test(test_the_heap_is_checked_while_others_work),
        cmocka_unit_test(test_heaps_come_and_go_in_many_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
