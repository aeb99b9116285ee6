/* test_names.c - heaps that unrelated programs share: by name, by descriptor, across exec.
 *
 * The other programs are this one, executed once more (support/program.h).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/descriptors.h"
#include "support/program.h"

enum { NODES = 1000, CREATORS = 8, RACES = 20, KILLS = 60, JOINERS = 40, HEAPS = 4, ROUNDS = 200 };

static char name[64];

struct node {
    struct node *next;
    size_t number;
};

static dvsm_heap *create(unsigned flags)
{
    return dvsm_heap_create(
        &(dvsm_options){.backend = &dvsm_backend_shm_open, .name = name, .flags = flags});
}

static struct node *make_list(dvsm_heap *heap)
{
    struct node *list = NULL;

    for (size_t i = 0; i < NODES; i++) {
        struct node *node = dvsm_heap_malloc(heap, sizeof *node);

        if (node == NULL)
            return NULL;
        *node = (struct node){list, i};
        list = node;
    }
    return list;
}

static size_t sum_of(const struct node *list)
{
    size_t sum = 0;

    for (; list != NULL; list = list->next)
        sum += list->number;
    return sum;
}

static void *pointer_of(const char *text)
{
    return (void *)(uintptr_t)strtoull(text, NULL, 16);
}

struct text {
    char is[24];
};

static struct text text_of(const void *pointer)
{
    struct text text;

    snprintf(text.is, sizeof text.is, "%llx", (unsigned long long)(uintptr_t)pointer);
    return text;
}

/* ---- what the other programs do */

/* Sums the list, frees its second node and puts a node of its own in front of the third. */
static int change_list(dvsm_heap *heap, struct node *list)
{
    CHILD_CHECK(heap != NULL && dvsm_heap_of(list) == heap);
    CHILD_CHECK(sum_of(list) == (size_t)NODES * (NODES - 1) / 2);
    struct node *node = dvsm_heap_malloc(heap, sizeof *node), *second = list->next;

    CHILD_CHECK(node != NULL);
    *node = *second;
    list->next = node;
    dvsm_free(second);
    return 0;
}

static int use_by_name(char **arguments)
{
    dvsm_heap *heap = dvsm_heap_attach(arguments[0], 0);

    CHILD_CHECK(change_list(heap, pointer_of(arguments[1])) == 0);
    CHILD_CHECK(dvsm_check(heap, stderr) == 0);
    CHILD_CHECK(dvsm_heap_detach(heap) == 0);
    CHILD_CHECK(dvsm_heap_of(pointer_of(arguments[1])) == NULL);
    return 0;
}

static int use_by_descriptor(char **arguments)
{
    int fd = atoi(arguments[0]);
    dvsm_heap *heap = dvsm_heap_attach_fd(fd, 0);

    CHILD_CHECK(heap != NULL && dvsm_heap_fd(heap) != fd);
    CHILD_CHECK(change_list(heap, pointer_of(arguments[1])) == 0);
    CHILD_CHECK(fcntl(fd, F_GETFD) == 0);
    return 0;
}

static int use_default(char **arguments)
{
    CHILD_CHECK(change_list(dvsm_heap_default(), pointer_of(arguments[0])) == 0);
    return 0;
}

static int create_and_count(char **arguments)
{
    (void)arguments;
    snprintf(name, sizeof name, "%s", arguments[0]);
    dvsm_heap *heap = create(0);

    CHILD_CHECK(heap != NULL);
    CHILD_CHECK(dvsm_heap_malloc(heap, 1000) != NULL);
    dvsm_heap *again = dvsm_heap_attach(name, 0);
    CHILD_CHECK(again == heap);
    CHILD_CHECK(dvsm_heap_detach(again) == 0 && dvsm_heap_malloc(heap, 1000) != NULL);
    return 0;
}

static int create_for_ever(char **arguments)
{
    snprintf(name, sizeof name, "%s", arguments[0]);
    while (true) {
        dvsm_heap *heap = create(DVSM_EXCLUSIVE);

        if (heap != NULL)
            dvsm_heap_destroy(heap);
    }
    return 0;
}

/* Attaches to several heaps, uses and leaves them. */
static int join_all(char **arguments)
{
    dvsm_heap *heaps[HEAPS];
    char each[80];

    for (int i = 0; i < HEAPS; i++) {
        snprintf(each, sizeof each, "%s.%d", arguments[0], i);
        heaps[i] = dvsm_heap_attach(each, 0);
        if (heaps[i] == NULL)
            fprintf(stderr, "%s\n", dvsm_heap_message());
        CHILD_CHECK(heaps[i] != NULL);
        void *block = dvsm_heap_malloc(heaps[i], 100);
        CHILD_CHECK(block != NULL && dvsm_heap_of(block) == heaps[i]);
        if (i % 2 == 0)
            dvsm_free(block);
    }
    for (int i = 0; i < HEAPS; i++)
        CHILD_CHECK(dvsm_heap_detach(heaps[i]) == 0);
    return 0;
}

static const struct program programs[] = {
    {"use-by-name", use_by_name},         {"use-by-descriptor", use_by_descriptor},
    {"use-default", use_default},         {"create-and-count", create_and_count},
    {"create-for-ever", create_for_ever}, {"join-all", join_all},
};

/* ---- joining */

static void expect_changed(dvsm_heap *heap, const struct node *list)
{
    assert_int_equal(sum_of(list), (size_t)NODES * (NODES - 1) / 2);
    assert_ptr_equal(dvsm_heap_of(list->next), heap);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

static void test_a_program_joins_by_name(void **state)
{
    (void)state;
    dvsm_heap *heap = create(0);
    assert_non_null(heap);
    assert_string_equal(dvsm_heap_message(), "");
    struct node *list = make_list(heap);

    assert_int_equal(run_program("use-by-name", name, text_of(list).is, NULL), 0);
    expect_changed(heap, list);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    assert_null(dvsm_heap_attach(name, 0));
    assert_int_equal(errno, ENOENT);
}

static const dvsm_backend *const with_file[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open};

static void test_a_program_joins_by_descriptor(void **state)
{
    char number[16];

    (void)state;
    for (size_t i = 0; i < sizeof with_file / sizeof with_file[0]; i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.backend = with_file[i]});
        struct node *list = make_list(heap);
        int fd = dup(dvsm_heap_fd(heap)); /* without FD_CLOEXEC */

        snprintf(number, sizeof number, "%d", fd);
        assert_int_equal(run_program("use-by-descriptor", number, text_of(list).is, NULL), 0);
        expect_changed(heap, list);
        close(fd);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

static void test_a_program_that_is_executed_has_the_same_default_heap(void **state)
{
    (void)state;
    dvsm_heap *heap = dvsm_heap_default();
    struct node *list = make_list(heap);

    assert_int_equal(dvsm_heap_inherit(heap), 0);
    assert_int_equal(strncmp(getenv("DVSM_HEAP"), "fd:", 3), 0);
    assert_int_equal(run_program("use-default", text_of(list).is, NULL), 0);
    expect_changed(heap, list);
    unsetenv("DVSM_HEAP");
    fcntl(dvsm_heap_fd(heap), F_SETFD, FD_CLOEXEC);
}

static void test_a_named_heap_is_inherited_by_its_name(void **state)
{
    (void)state;
    dvsm_heap *heap = create(0);
    struct node *list = make_list(heap);

    assert_int_equal(dvsm_heap_inherit(heap), 0);
    assert_string_equal(getenv("DVSM_HEAP"), name);
    fcntl(dvsm_heap_fd(heap), F_SETFD, FD_CLOEXEC); /* as whoever closes all descriptors */
    assert_int_equal(run_program("use-default", text_of(list).is, NULL), 0);
    expect_changed(heap, list);
    assert_int_equal(dvsm_heap_unlink(name), 0);
    assert_int_equal(dvsm_heap_inherit(heap), 0);
    assert_int_equal(strncmp(getenv("DVSM_HEAP"), "fd:", 3), 0);
    unsetenv("DVSM_HEAP");
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_whoever_comes_first_makes_the_heap_of_the_environment(void **state)
{
    char *block;

    (void)state;
    setenv("DVSM_HEAP", name, 1);
    assert_int_equal(run_program("create-and-count", name, NULL), 0);
    unsetenv("DVSM_HEAP");
    dvsm_heap *heap = dvsm_heap_attach(name, 0);
    assert_non_null(heap);
    block = dvsm_heap_malloc(heap, 1);
    assert_ptr_not_equal(dvsm_heap_of(block), dvsm_heap_default());
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_joining_twice_and_leaving_twice(void **state)
{
    (void)state;
    dvsm_heap *heap = create(0);

    assert_ptr_equal(dvsm_heap_attach(name, 0), heap);
    assert_ptr_equal(create(0), heap);
    assert_ptr_equal(dvsm_heap_attach_fd(dvsm_heap_fd(heap), 0), heap);
    for (int i = 0; i < 3; i++)
        assert_int_equal(dvsm_heap_detach(heap), 0);
    assert_non_null(dvsm_heap_malloc(heap, 10));
    assert_int_equal(dvsm_heap_detach(heap), 0);
    assert_null(dvsm_heap_malloc(heap, 10));
    assert_int_equal(dvsm_heap_detach(heap), -1);
    assert_int_equal(errno, EINVAL);
    heap = dvsm_heap_attach(name, 0); /* the name is still there */
    assert_non_null(heap);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void *join_and_leave(void *context)
{
    dvsm_heap **seen = context;

    for (size_t i = 0; i < ROUNDS; i++) {
        dvsm_heap *heap = dvsm_heap_attach(name, 0);

        if (heap == NULL)
            fprintf(stderr, "%s\n", dvsm_heap_message());
        if (heap == NULL || dvsm_heap_malloc(heap, 100) == NULL || dvsm_heap_detach(heap) != 0)
            return NULL;
        *seen = heap;
    }
    return seen;
}

/* Threads of one process join at once, and leave, some of them as the last one. */
static void test_threads_join_and_leave(void **state)
{
    dvsm_heap *seen[CREATORS];
    pthread_t thread[CREATORS];
    void *done;

    (void)state;
    assert_int_equal(run_program("create-and-count", name, NULL), 0);
    for (size_t i = 0; i < CREATORS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, join_and_leave, &seen[i]), 0);
    for (size_t i = 0; i < CREATORS; i++) {
        assert_int_equal(pthread_join(thread[i], &done), 0);
        assert_ptr_equal(done, &seen[i]);
    }
    dvsm_heap *heap = dvsm_heap_attach(name, 0);
    dvsm_stats_t stats = {.size = sizeof stats};
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.used_blocks, 2 + CREATORS * ROUNDS);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

/* ---- names */

static void test_exclusive(void **state)
{
    (void)state;
    dvsm_heap *heap = create(DVSM_EXCLUSIVE);

    if (heap == NULL)
        print_error("%d %s\n", errno, dvsm_heap_message());
    assert_non_null(heap);
    assert_string_equal(dvsm_heap_message(), "");
    assert_null(create(DVSM_EXCLUSIVE));
    assert_int_equal(errno, EEXIST);
    assert_string_not_equal(dvsm_heap_message(), "");
    assert_int_equal(dvsm_heap_unlink(name), 0);
    dvsm_heap *second = create(DVSM_EXCLUSIVE);
    assert_non_null(second);
    assert_ptr_not_equal(second, heap);
    assert_int_equal(dvsm_heap_destroy(heap), 0); /* leaves the other's name alone */
    assert_ptr_equal(dvsm_heap_attach(name, 0), second);
    assert_int_equal(dvsm_heap_destroy(second), 0);
}

/* Many come at once: one makes the heap, all others join it. */
static void test_creators_race(void **state)
{
    pid_t child[CREATORS];

    (void)state;
    for (int race = 0; race < RACES; race++) {
        for (int i = 0; i < CREATORS; i++)
            child[i] = start_program("create-and-count", name, NULL);
        for (int i = 0; i < CREATORS; i++)
            assert_int_equal(wait_for_child(child[i]), 0);
        dvsm_heap *heap = dvsm_heap_attach(name, 0);
        dvsm_stats_t stats = {.size = sizeof stats};
        assert_non_null(heap);
        assert_int_equal(dvsm_stats(heap, &stats), 0);
        assert_int_equal(stats.used_blocks, 2 * CREATORS);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

/* A creator that is killed leaves a whole heap, or none. */
static void test_creators_are_killed(void **state)
{
    (void)state;
    for (int kill_number = 0; kill_number < KILLS; kill_number++) {
        pid_t child = start_program("create-for-ever", name, NULL);

        usleep(3000 + 500u * (unsigned)kill_number % 7777);
        kill(child, SIGKILL);
        wait_for_child(child);
        dvsm_heap *heap = dvsm_heap_attach(name, 0);
        if (heap == NULL) {
            assert_int_equal(errno, ENOENT);
            continue;
        }
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_non_null(dvsm_heap_malloc(heap, 100));
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
    assert_null(dvsm_heap_attach(name, 0));
}

/* The addresses of several heaps are free in each program, wherever the system put its own parts. */
static void test_several_heaps_in_many_programs(void **state)
{
    dvsm_heap *heaps[HEAPS];
    pid_t child[JOINERS];
    char each[80];

    (void)state;
    for (int i = 0; i < HEAPS; i++) {
        snprintf(each, sizeof each, "%s.%d", name, i);
        heaps[i] =
            dvsm_heap_create(&(dvsm_options){.backend = &dvsm_backend_shm_open, .name = each});
        assert_non_null(heaps[i]);
    }
    for (int i = 0; i < JOINERS; i++)
        child[i] = start_program("join-all", name, NULL);
    for (int i = 0; i < JOINERS; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    for (int i = 0; i < HEAPS; i++) {
        assert_int_equal(dvsm_check(heaps[i], stderr), 0);
        assert_int_equal(dvsm_heap_destroy(heaps[i]), 0);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_program_joins_by_name),
        cmocka_unit_test(test_a_program_joins_by_descriptor),
        cmocka_unit_test(test_a_program_that_is_executed_has_the_same_default_heap),
        cmocka_unit_test(test_a_named_heap_is_inherited_by_its_name),
        cmocka_unit_test(test_whoever_comes_first_makes_the_heap_of_the_environment),
        cmocka_unit_test(test_joining_twice_and_leaving_twice),
        cmocka_unit_test(test_threads_join_and_leave),
        cmocka_unit_test(test_exclusive),
        cmocka_unit_test(test_creators_race),
        cmocka_unit_test(test_creators_are_killed),
        cmocka_unit_test(test_several_heaps_in_many_programs),
    };

    if (program_is_asked_for(argc, argv))
        return program_run(programs, sizeof programs / sizeof programs[0], argv);
    snprintf(name, sizeof name, "/dvsm-test-names-%ld", (long)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
