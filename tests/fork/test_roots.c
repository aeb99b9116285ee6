/* test_roots.c - roots: set, found, swapped and made, by many at once, some of whom are killed. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "support/child.h"
#include "support/random.h"

enum { MOST = 1024, PROCESSES = 6, SWAPS = 20000, KILLS = 100, MAKERS = 8 };

static dvsm_heap *heap;

static int set_up(void **state)
{
    (void)state;
    heap = dvsm_heap_create(NULL);
    return heap == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    return dvsm_check(heap, stderr) != 0 || dvsm_heap_destroy(heap) != 0;
}

static const char *numbered(size_t number)
{
    static __thread char name[48];

    snprintf(name, sizeof name, "root %zu of many, with a name that is as long", number);
    return name;
}

/* ---- one process ----------------------------------------------------------------------------- */

static void test_a_root_is_found_until_it_is_removed(void **state)
{
    int data[3];
    void *former = data;

    (void)state;
    assert_null(dvsm_root_get(heap, "a"));
    assert_int_equal(errno, ENOENT);
    assert_int_equal(dvsm_root_set(heap, "a", &data[0]), 0);
    assert_int_equal(dvsm_root_set(heap, "ab", &data[1]), 0);
    assert_ptr_equal(dvsm_root_get(heap, "a"), &data[0]);
    assert_ptr_equal(dvsm_root_get(heap, "ab"), &data[1]);
    assert_int_equal(dvsm_root_swap(heap, "a", &data[2], &former), 0);
    assert_ptr_equal(former, &data[0]);
    assert_ptr_equal(dvsm_root_get(heap, "a"), &data[2]);
    assert_int_equal(dvsm_root_swap(heap, "a", NULL, &former), 0);
    assert_ptr_equal(former, &data[2]);
    assert_null(dvsm_root_get(heap, "a"));
    assert_int_equal(dvsm_root_swap(heap, "a", NULL, &former), 0);
    assert_null(former);
    assert_ptr_equal(dvsm_root_get(heap, "ab"), &data[1]);
}

static void test_as_many_as_there_can_be(void **state)
{
    static char data[MOST];

    (void)state;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < MOST; i++)
            assert_int_equal(dvsm_root_set(heap, numbered(i), &data[i]), 0);
        assert_int_equal(dvsm_root_set(heap, "one more", data), -1);
        assert_int_equal(errno, ENOSPC);
        assert_int_equal(dvsm_root_set(heap, numbered(7), &data[8]), 0);
        for (size_t i = 0; i < MOST; i++)
            assert_ptr_equal(dvsm_root_get(heap, numbered(i)), &data[i == 7 ? 8 : i]);
        for (size_t i = 0; i < MOST; i++)
            assert_int_equal(dvsm_root_set(heap, numbered(i), NULL), 0);
        assert_null(dvsm_root_get(heap, numbered(3)));
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
}

static void *no_init(dvsm_heap *of, void *context)
{
    (void)of;
    ++*(int *)context;
    errno = ENOTBLK;
    return NULL;
}

static void test_what_is_refused(void **state)
{
    char longest[DVSM_ROOT_NAME_MOST + 2];
    int calls = 0;

    (void)state;
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    const char *const wrong[] = {NULL, "", longest};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(dvsm_root_set(heap, wrong[i], &calls), -1);
        assert_int_equal(errno, EINVAL);
        assert_null(dvsm_root_get(heap, wrong[i]));
        assert_int_equal(errno, EINVAL);
        assert_null(dvsm_root_get_or_init(heap, wrong[i], no_init, &calls));
        assert_int_equal(errno, EINVAL);
    }
    assert_int_equal(dvsm_root_swap(NULL, "a", &calls, NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_null(dvsm_root_get(NULL, "a"));
    assert_int_equal(errno, EINVAL);
    assert_null(dvsm_root_get_or_init(NULL, "a", no_init, &calls));
    assert_null(dvsm_root_get_or_init(heap, "a", NULL, &calls));
    assert_int_equal(errno, EINVAL);
    assert_int_equal(calls, 0);
    assert_null(dvsm_root_get_or_init(heap, "a", no_init, &calls));
    assert_int_equal(errno, ENOTBLK);
    assert_int_equal(calls, 1);
    longest[DVSM_ROOT_NAME_MOST] = '\0';
    assert_int_equal(dvsm_root_set(heap, longest, &calls), 0);
    assert_ptr_equal(dvsm_root_get(heap, longest), &calls);
}

static void test_there_is_no_memory_for_the_table(void **state)
{
    dvsm_heap *full = dvsm_heap_create(&(dvsm_options){.limit = 1 << 20});
    int data;

    (void)state;
    while (dvsm_heap_malloc(full, 100) != NULL)
        ;
    dvsm_heap_set_limit(full, 1);
    assert_int_equal(dvsm_root_set(full, "a", &data), -1);
    assert_int_equal(errno, ENOMEM);
    assert_null(dvsm_root_get(full, "a"));
    assert_int_equal(dvsm_check(full, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(full), 0);
}

/* A writer that died after it had written an entry and before it counted it: the root never was. */
static void test_an_entry_that_was_not_counted(void **state)
{
    struct root_table *table = &heap->region->roots;
    int data[2];

    (void)state;
    assert_int_equal(dvsm_root_set(heap, "a", &data[0]), 0);
    assert_int_equal(table->used, 1);
    table->used = 0;
    assert_null(dvsm_root_get(heap, "a"));
    assert_int_equal(dvsm_root_set(heap, "b", &data[1]), 0);
    assert_ptr_equal(dvsm_root_get(heap, "b"), &data[1]);
    assert_null(dvsm_root_get(heap, "a"));
}

/* ---- get_or_init ----------------------------------------------------------------------------- */

struct made {
    int *calls;
    const char *inner; /* a root that is made while this one is; NULL: none */
};

static void *init(dvsm_heap *of, void *context)
{
    const struct made *made = context;
    struct made within = {made->calls, NULL};

    if (made->inner != NULL && dvsm_root_get_or_init(of, made->inner, init, &within) == NULL)
        return NULL;
    usleep(1000);
    __atomic_fetch_add(made->calls, 1, __ATOMIC_RELAXED);
    return dvsm_heap_malloc(of, 100);
}

static void test_a_root_is_made_once_and_may_make_others(void **state)
{
    int calls = 0;

    (void)state;
    void *root = dvsm_root_get_or_init(heap, "outer", init, &(struct made){&calls, "inner"});
    assert_non_null(root);
    assert_int_equal(calls, 2);
    assert_ptr_equal(dvsm_root_get_or_init(heap, "outer", init, &(struct made){&calls, NULL}),
                     root);
    assert_ptr_equal(dvsm_root_get(heap, "outer"), root);
    assert_non_null(dvsm_root_get(heap, "inner"));
    assert_int_equal(calls, 2);
}

static void test_a_root_that_needs_itself(void **state)
{
    int calls = 0;

    (void)state;
    assert_null(dvsm_root_get_or_init(heap, "self", init, &(struct made){&calls, "self"}));
    assert_int_equal(errno, EDEADLK);
    assert_int_equal(calls, 0);
    assert_non_null(dvsm_root_get_or_init(heap, "self", init, &(struct made){&calls, NULL}));
}

static int *shared_calls;

static int make_all(void *context)
{
    void **seen = context;

    for (size_t i = 0; i < 20; i++) {
        seen[i] =
            dvsm_root_get_or_init(heap, numbered(i), init, &(struct made){shared_calls, NULL});
        CHILD_CHECK(seen[i] != NULL && seen[i] == dvsm_root_get(heap, numbered(i)));
    }
    return 0;
}

static void test_many_make_the_same_roots(void **state)
{
    pid_t child[MAKERS];
    void **seen = dvsm_heap_calloc(heap, MAKERS * 20, sizeof *seen);

    (void)state;
    *shared_calls = 0;
    for (size_t i = 0; i < MAKERS; i++)
        child[i] = start_child(make_all, seen + 20 * i);
    for (size_t i = 0; i < MAKERS; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    assert_int_equal(*shared_calls, 20);
    for (size_t i = 0; i < MAKERS * 20; i++)
        assert_ptr_equal(seen[i], seen[i % 20]);
}

static void *init_for_ever(dvsm_heap *of, void *context)
{
    (void)of;
    *(volatile int *)context = 1;
    while (true)
        pause();
    return NULL;
}

static int die_in_init(void *context)
{
    dvsm_root_get_or_init(heap, "late", init_for_ever, context);
    return 0;
}

static void test_a_maker_is_killed(void **state)
{
    (void)state;
    *shared_calls = 0;
    pid_t child = start_child(die_in_init, shared_calls);
    while (__atomic_load_n(shared_calls, __ATOMIC_RELAXED) == 0)
        usleep(100);
    kill(child, SIGKILL);
    wait_for_child(child);
    assert_null(dvsm_root_get(heap, "late"));
    *shared_calls = 0;
    assert_non_null(dvsm_root_get_or_init(heap, "late", init, &(struct made){shared_calls, NULL}));
    assert_int_equal(*shared_calls, 1);
}

static void *init_and_fork(dvsm_heap *of, void *context)
{
    int *status = context;
    pid_t child = fork();

    if (child == 0)
        return context;
    waitpid(child, status, 0);
    return dvsm_heap_malloc(of, 1);
}

static int make_in_a_forked_child(void *context)
{
    pid_t self = getpid();
    void *root = dvsm_root_get_or_init(heap, "forked", init_and_fork, context);

    if (getpid() != self)
        _exit(root == NULL && errno == EDEADLK ? 0 : 3);
    CHILD_CHECK(root != NULL && *(int *)context == 0);
    return 0;
}

static void test_a_child_that_init_forks(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(make_in_a_forked_child, shared_calls), 0);
    assert_non_null(dvsm_root_get(heap, "forked"));
}

/* ---- many at once ---------------------------------------------------------------------------- */

/* Each value is put in by one and taken out by one. */
static int swap_values(void *context)
{
    uintptr_t *sum = context;

    for (uintptr_t i = 1; i <= SWAPS; i++) {
        void *former;

        CHILD_CHECK(dvsm_root_swap(heap, "swapped", (void *)i, &former) == 0);
        __atomic_fetch_add(sum, (uintptr_t)former - i, __ATOMIC_RELAXED);
    }
    return 0;
}

static void test_swaps_lose_nothing(void **state)
{
    uintptr_t *sum = dvsm_heap_calloc(heap, 1, sizeof *sum);
    pid_t child[PROCESSES];

    (void)state;
    for (size_t i = 0; i < PROCESSES; i++)
        child[i] = start_child(swap_values, sum);
    for (size_t i = 0; i < PROCESSES; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    assert_int_equal(*sum + (uintptr_t)dvsm_root_get(heap, "swapped"), 0);
}

/* Sets and removes roots for ever. A value says which name it belongs to. */
static int change_roots(void *context)
{
    struct random_source dice = {(uint64_t)(uintptr_t)context};

    while (true) {
        size_t i = random_below(&dice, 100);

        CHILD_CHECK(dvsm_root_set(heap, numbered(i),
                                  random_once_in(&dice, 3) ? NULL : (void *)(i + 1)) == 0);
    }
    return 0;
}

static void look_at_roots(void)
{
    for (size_t i = 0; i < 100; i++) {
        void *value = dvsm_root_get(heap, numbered(i));

        assert_true(value == NULL || value == (void *)(i + 1));
    }
}

/* Whoever looks, at whatever moment, finds a name's own value; and killing leaves nothing wrong. */
static void test_readers_and_killed_writers(void **state)
{
    (void)state;
    for (size_t n = 0; n < KILLS; n++) {
        pid_t child[2];

        for (size_t i = 0; i < 2; i++)
            child[i] = start_child(change_roots, (void *)(uintptr_t)(2 * n + i + 1));
        for (int i = 0; i < 20; i++)
            look_at_roots();
        for (size_t i = 0; i < 2; i++)
            kill(child[i], SIGKILL);
        for (size_t i = 0; i < 2; i++)
            assert_int_equal(wait_for_child(child[i]), SIGKILL);
        look_at_roots();
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
    dvsm_reap(heap);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_root_is_found_until_it_is_removed),
        TEST(test_as_many_as_there_can_be),
        TEST(test_what_is_refused),
        TEST(test_there_is_no_memory_for_the_table),
        TEST(test_an_entry_that_was_not_counted),
        TEST(test_a_root_is_made_once_and_may_make_others),
        TEST(test_a_root_that_needs_itself),
        TEST(test_many_make_the_same_roots),
        TEST(test_a_maker_is_killed),
        TEST(test_a_child_that_init_forks),
        TEST(test_swaps_lose_nothing),
        TEST(test_readers_and_killed_writers),
    };

    shared_calls = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared_calls == MAP_FAILED || cmocka_run_group_tests(tests, NULL, NULL);
}
