/* test_many_heaps.c - a thousand heaps in one process: a block's heap is found, as quickly in the
 * last as in the first; also while threads make and destroy heaps, and in children that are forked
 * at that moment.
 */
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
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/child.h"
#include "support/clock.h"
#include "support/random.h"

enum { HEAPS = 1000, MIB = 1 << 20, SIZE = 100 };

static dvsm_heap *heap[HEAPS];
static void *block[HEAPS];

/* The heaps use no file descriptors: a process may have fewer of those than a thousand. */
static dvsm_heap *make_heap(void)
{
    return dvsm_heap_create(
        &(dvsm_options){.backend = &dvsm_backend_anon, .reserve = 8 * MIB, .arenas = 1});
}

static void make_all(void)
{
    for (int i = 0; i < HEAPS; i++) {
        heap[i] = make_heap();
        if (heap[i] == NULL)
            fail_msg("heap %d of %d", i, HEAPS);
        block[i] = dvsm_heap_malloc(heap[i], SIZE);
        assert_non_null(block[i]);
    }
}

static void destroy_all(void)
{
    for (int i = 0; i < HEAPS; i++)
        if (heap[i] != NULL)
            assert_int_equal(dvsm_heap_destroy(heap[i]), 0);
}

static void shuffle(unsigned *order, size_t count, struct random_source *random)
{
    for (unsigned i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = random_below(random, i + 1);
        unsigned moved = order[i];

        order[i] = order[other];
        order[other] = moved;
    }
}

/* ---- who is found */

static void expect_found(int i)
{
    assert_ptr_equal(dvsm_heap_of(block[i]), heap[i]);
    assert_ptr_equal(dvsm_heap_of((char *)block[i] + SIZE - 1), heap[i]);
}

static void test_each_block_is_found_in_its_heap(void **state)
{
    struct random_source random = {1};
    unsigned order[HEAPS];
    int local;

    (void)state;
    make_all();
    shuffle(order, HEAPS, &random);
    for (int i = 0; i < HEAPS; i++)
        expect_found((int)order[i]);
    for (int i = 0; i < HEAPS; i++) /* in turn, so that the heap is never the one found last */
        for (int j = 0; j < 3; j++)
            expect_found((i * 7 + j * 331) % HEAPS);
    assert_null(dvsm_heap_of(&local));
    assert_null(dvsm_heap_of(NULL));
    assert_null(dvsm_heap_of((void *)UINTPTR_MAX));
    assert_null(dvsm_heap_of((void *)(uintptr_t)test_each_block_is_found_in_its_heap));

    /* Destroys every second heap, in random order; then its addresses belong to no heap. */
    for (int k = 0; k < HEAPS; k++) {
        int i = (int)order[k];

        if (i % 2 != 0)
            continue;
        assert_int_equal(dvsm_heap_destroy(heap[i]), 0);
        heap[i] = NULL;
        assert_null(dvsm_heap_of(block[i]));
    }
    for (int i = 1; i < HEAPS; i += 2)
        expect_found(i);
    for (int i = 0; i < HEAPS; i += 2) {
        heap[i] = make_heap();
        block[i] = dvsm_heap_malloc(heap[i], SIZE);
        expect_found(i);
    }
    for (int i = 0; i < HEAPS; i++) {
        expect_found(i);
        dvsm_free(block[i]);
    }
    destroy_all();
}

/* ---- what it costs */

static double now(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* Time of malloc and free together: the least of several takes, since others may use the CPU. */
static double pair_in(dvsm_heap *one)
{
    enum { TAKES = 12, PAIRS = 20000 };
    double least = 1e18;

    for (int take = 0; take < TAKES; take++) {
        double start = now();

        for (int i = 0; i < PAIRS; i++)
            dvsm_free(dvsm_heap_malloc(one, SIZE));
        double took = (now() - start) / PAIRS;
        least = took < least ? took : least;
    }
    return least;
}

static void test_the_last_heap_costs_at_most_twice_the_first(void **state)
{
    (void)state;
    make_all();
    double first = 0, last = 0;
    bool good = false;

    for (int attempt = 0; attempt < 5 && !good; attempt++) {
        first = pair_in(heap[0]);
        last = pair_in(heap[HEAPS - 1]);
        good = last <= 2 * first;
    }
    printf("malloc and free in heap 1: %.1f ns, in heap %d: %.1f ns\n", first, HEAPS, last);
    assert_true(good);
    destroy_all();
}

/* Time to find a block's heap, in a ring in which no two successive calls are for the same heap.
 * With a search through the table, a thousand heaps took fifty times as long as ten. */
static double find_in_ring(int count)
{
    enum { TAKES = 10, FINDS = 40000 };
    double least = 1e18;

    for (int take = 0; take < TAKES; take++) {
        double start = now();

        for (int i = 0; i < FINDS; i++)
            if (dvsm_heap_of(block[i % count]) != heap[i % count])
                fail_msg("block %d is not found", i % count);
        double took = (now() - start) / FINDS;
        least = took < least ? took : least;
    }
    return least;
}

static void test_a_ring_of_all_heaps_costs_little_more_than_one_of_ten(void **state)
{
    (void)state;
    make_all();
    double few = 0, all = 0;
    bool good = false;

    for (int attempt = 0; attempt < 5 && !good; attempt++) {
        few = find_in_ring(10);
        all = find_in_ring(HEAPS);
        good = all <= 10 * few; /* the processor's caches make some difference */
    }
    printf("a block's heap among 10: %.1f ns, among %d: %.1f ns\n", few, HEAPS, all);
    assert_true(good);
    destroy_all();
}

/* ---- while heaps come and go */

enum { MAKERS = 4, KEPT = 50, ROUNDS = 150, FORKS = 60 };
static atomic_bool stop;
static atomic_int wrong;

static void *come_and_go(void *context)
{
    dvsm_heap *mine[8] = {NULL};
    void *p[8];

    (void)context;
    for (unsigned round = 0; round < ROUNDS || !atomic_load(&stop); round++) {
        unsigned i = round % 8;

        if (mine[i] != NULL) {
            atomic_fetch_add(&wrong, dvsm_heap_of(p[i]) != mine[i]);
            atomic_fetch_add(&wrong, dvsm_heap_destroy(mine[i]) != 0);
        }
        mine[i] = make_heap();
        p[i] = mine[i] != NULL ? dvsm_heap_malloc(mine[i], SIZE) : NULL;
        atomic_fetch_add(&wrong, p[i] == NULL || dvsm_heap_of(p[i]) != mine[i]);
    }
    for (int i = 0; i < 8; i++)
        if (mine[i] != NULL)
            dvsm_heap_destroy(mine[i]);
    return NULL;
}

/* Whatever the state in which fork copied the table: heaps that were there all the time are
 * found, new ones too, and destroyed ones no more. */
static int use_the_copy(void *context)
{
    dvsm_heap *mine[20];
    void *p[20];

    (void)context;
    for (int i = 0; i < KEPT; i++)
        CHILD_CHECK(dvsm_heap_of(block[i]) == heap[i]);
    for (int i = 0; i < 20; i++) {
        mine[i] = make_heap();
        CHILD_CHECK(mine[i] != NULL);
        p[i] = dvsm_heap_malloc(mine[i], SIZE);
        CHILD_CHECK(p[i] != NULL && dvsm_heap_of(p[i]) == mine[i]);
    }
    for (int i = 0; i < 20; i++) {
        CHILD_CHECK(dvsm_heap_destroy(mine[i]) == 0);
        CHILD_CHECK(dvsm_heap_of(p[i]) == NULL);
    }
    for (int i = 0; i < KEPT; i++) {
        CHILD_CHECK(dvsm_heap_of(block[i]) == heap[i]);
        void *fresh = dvsm_heap_malloc(heap[i], SIZE);
        CHILD_CHECK(fresh != NULL);
        dvsm_free(fresh);
    }
    return 0;
}

static void test_threads_make_and_destroy_heaps_while_children_are_forked(void **state)
{
    pthread_t maker[MAKERS];

    (void)state;
    for (int i = 0; i < KEPT; i++) {
        heap[i] = make_heap();
        assert_non_null(heap[i]);
        block[i] = dvsm_heap_malloc(heap[i], SIZE);
    }
    atomic_store(&stop, false);
    for (int i = 0; i < MAKERS; i++)
        assert_int_equal(pthread_create(&maker[i], NULL, come_and_go, NULL), 0);
    for (int i = 0; i < FORKS; i++) {
        assert_int_equal(run_in_child(use_the_copy, NULL), 0);
        for (int j = 0; j < KEPT; j++)
            assert_ptr_equal(dvsm_heap_of(block[j]), heap[j]);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < MAKERS; i++)
        pthread_join(maker[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    for (int i = 0; i < KEPT; i++)
        assert_int_equal(dvsm_heap_destroy(heap[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_block_is_found_in_its_heap),
        cmocka_unit_test(test_the_last_heap_costs_at_most_twice_the_first),
        cmocka_unit_test(test_a_ring_of_all_heaps_costs_little_more_than_one_of_ten),
        cmocka_unit_test(test_threads_make_and_destroy_heaps_while_children_are_forked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
