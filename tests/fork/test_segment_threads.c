/* test_segment_threads.c - threads and processes use one granule map at once.
 *
 * Each worker takes runs, signs every granule in a shared table, checks after a while whether its
 * signature is still there, and gives the runs back. So a run that was handed out twice is seen.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>

#include "support/child.h"
#include "support/granule_backend.h"
#include "support/random.h"

enum { WORKERS = 4, HELD = 6, GRANULES = 400 };

struct worker {
    struct granule_backend *b;
    atomic_uint *signature; /* of each granule */
    struct run held[HELD];  /* pending runs, in memory that all share */
    enum run_kind kind[HELD];
    unsigned number; /* from 1; also the owner's id */
    uint64_t seed;
    unsigned long operations;
    unsigned long wrong;
};

static struct random_run arguments;

/* Whether each granule has the signature `expected`; then signs it with `next`. */
static bool sign(struct worker *w, struct run run, unsigned expected, unsigned next)
{
    size_t first = granule_number(w->b, run.start);

    for (size_t i = first; i < first + run.bytes / GRANULE; i++)
        if (atomic_exchange(&w->signature[i], next) != expected)
            return false;
    return true;
}

static void give(struct worker *w, size_t i)
{
    struct run *run = &w->held[i];
    bool right = sign(w, *run, w->number, 0) &&
                 segment_owner(w->b->segments.map, run->start, NULL) == w->number;

    if (w->kind[i] == RUN_LARGE)
        right = right && segment_is_large_block(w->b->segments.map, w->number, run->start,
                                                run->start + run->bytes);
    w->wrong += !right;
    segment_give(&w->b->segments, run, (struct run){NULL, 0});
}

static void take(struct worker *w, size_t i, struct random_source *random)
{
    struct run *run = &w->held[i];

    w->kind[i] = random_once_in(random, 2) ? RUN_LARGE : RUN_SEGMENT;
    if (!segment_take(&w->b->segments, w->number, w->kind[i], random_size(random, 20) * GRANULE,
                      run))
        return;
    w->wrong += !segment_commit(&w->b->segments, w->kind[i], *run) || !sign(w, *run, 0, w->number);
}

static void *work(void *context)
{
    struct worker *w = context;
    struct random_source random = {w->seed + w->number};

    for (unsigned long n = 0; n < w->operations; n++) {
        size_t i = random_below(&random, HELD);

        if (w->held[i].bytes > 0)
            give(w, i);
        else
            take(w, i, &random);
        if (random_once_in(&random, 50))
            segment_release(&w->b->segments, 10 * GRANULE);
    }
    for (size_t i = 0; i < HELD; i++)
        if (w->held[i].bytes > 0)
            give(w, i);
    return NULL;
}

static int work_in_child(void *context)
{
    struct worker *w = context;

    work(w);
    CHILD_CHECK(w->wrong == 0);
    return 0;
}

static void *share(size_t bytes)
{
    void *place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(place != MAP_FAILED);
    return place;
}

static struct worker *hire(struct granule_backend *b)
{
    struct worker *workers = share(WORKERS * sizeof *workers);
    atomic_uint *signature = share(GRANULES * sizeof *signature);

    segment_set_retain(&b->segments, 50 * GRANULE);
    segment_set_limit(&b->segments, 200 * GRANULE);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i].b = b;
        workers[i].signature = signature;
        workers[i].number = i + 1;
        workers[i].seed = arguments.seed;
        workers[i].operations = arguments.operations / WORKERS;
    }
    return workers;
}

static void dismiss(struct worker *workers)
{
    struct granule_backend *b = workers->b;
    struct segment_usage usage;

    segment_usage(&b->segments, &usage);
    assert_int_equal(usage.used, 0);
    assert_int_equal(usage.committed, usage.retained);
    assert_int_equal(usage.retained, granules_with_memory(b) * GRANULE);
    assert_int_equal(granule_backend_check(b), 0);
    munmap(workers->signature, GRANULES * sizeof *workers->signature);
    munmap(workers, WORKERS * sizeof *workers);
    granule_backend_delete(b);
}

static void test_threads_get_runs_of_their_own(void **state)
{
    struct worker *workers = hire(granule_backend_new(GRANULES));
    pthread_t thread[WORKERS];

    (void)state;
    for (size_t i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, work, &workers[i]), 0);
    for (size_t i = 0; i < WORKERS; i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
        assert_int_equal(workers[i].wrong, 0);
    }
    dismiss(workers);
}

static void test_processes_get_runs_of_their_own(void **state)
{
    struct granule_backend *b = granule_backend_new(GRANULES);
    struct run *pending = &b->pending[0];
    pid_t child[WORKERS];

    (void)state;
    /* The protection of the map's pages is private to each process: all of them are made
     * accessible before the fork. */
    assert_true(segment_take(&b->segments, 1, RUN_SEGMENT, GRANULES * GRANULE, pending));
    segment_give(&b->segments, pending, (struct run){NULL, 0});

    struct worker *workers = hire(b);

    for (size_t i = 0; i < WORKERS; i++)
        child[i] = start_child(work_in_child, &workers[i]);
    for (size_t i = 0; i < WORKERS; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    dismiss(workers);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processes_get_runs_of_their_own),
        cmocka_unit_test(test_threads_get_runs_of_their_own),
    };

    arguments = random_run_from(argc, argv, 200000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
