/* test_many_heaps_threads.c - threads make and destroy heaps while others look up the heaps of
 * blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "dvsm/dvsm.h"

enum { MIB = 1 << 20, MAKERS = 3, READERS = 2, KEPT = 30, MINE = 5, ROUNDS = 150, SIZE = 100 };

static dvsm_heap *kept[KEPT];
static void *block[KEPT];
static atomic_bool stop;
static atomic_int wrong;

static dvsm_heap *make_heap(void)
{
    return dvsm_heap_create(
        &(dvsm_options){.backend = &dvsm_backend_anon, .reserve = 8 * MIB, .arenas = 1});
}

static void *come_and_go(void *context)
{
    dvsm_heap *mine[MINE] = {NULL};
    void *p[MINE] = {NULL};

    (void)context;
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = round % MINE;

        if (mine[i] != NULL && (dvsm_heap_of(p[i]) != mine[i] || dvsm_heap_destroy(mine[i]) != 0))
            atomic_fetch_add(&wrong, 1);
        mine[i] = make_heap();
        p[i] = mine[i] != NULL ? dvsm_heap_malloc(mine[i], SIZE) : NULL;
        if (p[i] == NULL || dvsm_heap_of(p[i]) != mine[i])
            atomic_fetch_add(&wrong, 1);
    }
    for (unsigned i = 0; i < MINE; i++)
        dvsm_heap_destroy(mine[i]);
    return NULL;
}

static void *look_up(void *context)
{
    int local;

    (void)context;
    while (!atomic_load(&stop)) {
        for (unsigned i = 0; i < KEPT; i++)
            if (dvsm_heap_of(block[i]) != kept[i])
                atomic_fetch_add(&wrong, 1);
        if (dvsm_heap_of(&local) != NULL)
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

static void test_what_stays_is_found_while_others_come_and_go(void **state)
{
    pthread_t maker[MAKERS], reader[READERS];

    (void)state;
    for (unsigned i = 0; i < KEPT; i++) {
        kept[i] = make_heap();
        assert_non_null(kept[i]);
        block[i] = dvsm_heap_malloc(kept[i], SIZE);
    }
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&reader[i], NULL, look_up, NULL), 0);
    for (unsigned i = 0; i < MAKERS; i++)
        assert_int_equal(pthread_create(&maker[i], NULL, come_and_go, NULL), 0);
    for (unsigned i = 0; i < MAKERS; i++)
        pthread_join(maker[i], NULL);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(reader[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    for (unsigned i = 0; i < KEPT; i++)
        assert_int_equal(dvsm_heap_destroy(kept[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_stays_is_found_while_others_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
