/* test_sharing.c - blocks made in one process, used and freed in another; forks at bad moments.
 *
 * Every case runs on a heap of each backend, also one of a user's own. Processes pass blocks to
 * each other in a `struct board`, which is itself a block of the heap.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "segment/segment_map.h"
#include "support/child.h"
#include "support/failing_backend.h"

enum { KIB = 1 << 10, MIB = 1 << 20, BLOCKS = 40 };

/* ---- a heap of each backend */

struct backend_case {
    const char *name;
    const dvsm_backend *backend; /* NULL: the user's own */
};

static dvsm_heap *heap;
static struct failing_backend *own;

static int make_heap(void **state)
{
    const struct backend_case *c = *state;
    dvsm_options options = {.backend = c->backend, .name = NULL};

    if (c->backend == NULL) {
        own = failing_backend_new(&dvsm_backend_memfd);
        options.backend = &own->backend;
    }
    heap = dvsm_heap_create(&options);
    return heap != NULL ? 0 : -1;
}

/* After each test all blocks are freed, and the heap is sound. */
static int check_heap(void **state)
{
    const struct backend_case *c = *state;
    dvsm_stats_t stats;
    int bad = dvsm_check(heap, stderr) != 0 || dvsm_stats(heap, &stats) != 0;

    if (!bad && stats.used_blocks != 0) {
        fprintf(stderr, "%zu blocks are left\n", stats.used_blocks);
        bad = 1;
    }
    dvsm_heap_destroy(heap);
    if (c->backend == NULL) {
        bad |= atomic_load(&own->misuses) != 0;
        failing_backend_delete(own);
    }
    return bad ? -1 : 0;
}

/* ---- blocks that are passed on */

/* A block's content tells who made it and how large it is. */
struct parcel {
    unsigned char *block;
    size_t size;
    unsigned char mark;
};

/* Sizes for small bins, for trees and for large blocks. */
static size_t size_of(size_t i)
{
    return i % 10 == 9 ? 300 * KIB + i : i % 3 == 0 ? 3000 + 17 * i : 10 + 7 * i;
}

static bool pack(struct parcel *parcel, size_t i, unsigned char mark)
{
    *parcel = (struct parcel){dvsm_heap_malloc(heap, size_of(i)), size_of(i), mark};
    if (parcel->block == NULL)
        return false;
    memset(parcel->block, mark, parcel->size);
    return true;
}

static bool is_intact(const struct parcel *parcel)
{
    for (size_t i = 0; i < parcel->size; i++)
        if (parcel->block[i] != parcel->mark)
            return false;
    return true;
}

static bool unpack(struct parcel *parcel)
{
    bool intact = parcel->block != NULL && is_intact(parcel);

    dvsm_free(parcel->block);
    parcel->block = NULL;
    return intact;
}

/* ---- everybody allocates, everybody frees */

/* The parent, its child, its grandchild, and a thread of each. */
enum { MAKERS = 6 };

struct board {
    struct parcel parcel[MAKERS][BLOCKS];
    atomic_int failures;
};

static struct board *board;

struct maker {
    unsigned number;
    bool frees; /* frees what the maker `number` made, instead of making */
};

static void *make_or_free(void *context)
{
    const struct maker *maker = context;

    for (size_t i = 0; i < BLOCKS; i++) {
        struct parcel *parcel = &board->parcel[maker->number][i];
        bool done = maker->frees ? unpack(parcel) : pack(parcel, i, (unsigned char)(i + 1));
        if (!done)
            atomic_fetch_add(&board->failures, 1);
    }
    return NULL;
}

/* The process and one thread of it work at the same time. */
static void with_a_thread(unsigned process_part, unsigned thread_part, bool frees)
{
    struct maker mine = {process_part, frees}, its = {thread_part, frees};
    pthread_t thread;

    if (pthread_create(&thread, NULL, make_or_free, &its) != 0) {
        atomic_fetch_add(&board->failures, 1);
        return;
    }
    make_or_free(&mine);
    pthread_join(thread, NULL);
}

/* Generation 0 is the parent. `turn` shifts the parts that a generation frees, so that others
 * free what it made. */
struct family {
    unsigned generation, turn;
    bool frees;
};

static int live(void *context)
{
    struct family f = *(struct family *)context;
    unsigned part = (2 * f.generation + f.turn) % MAKERS;

    struct family next = {f.generation + 1, f.turn, f.frees};
    pid_t child = f.generation < 2 ? start_child(live, &next) : 0;
    with_a_thread(part, (part + 1) % MAKERS, f.frees);
    return child == 0 ? 0 : wait_for_child(child) != 0;
}

static void test_each_frees_what_any_other_made(void **state)
{
    (void)state;
    board = dvsm_heap_calloc(heap, 1, sizeof *board);
    assert_non_null(board);
    for (unsigned turn = 0; turn < MAKERS; turn++) {
        struct family making = {0, 0, false}, freeing = {0, turn, true};
        assert_int_equal(live(&making), 0);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(live(&freeing), 0);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(atomic_load(&board->failures), 0);
    }
    dvsm_free(board);
}

/* ---- growth after the fork */

static int grow(void *context)
{
    struct parcel *parcels = context;

    for (size_t i = 0; i < 2000; i++)
        CHILD_CHECK(pack(&parcels[i], i, (unsigned char)i));
    return 0;
}

/* The child makes the heap grow by 60 MB after the fork. */
static void test_the_parent_uses_what_the_child_grew(void **state)
{
    struct parcel *parcels = dvsm_heap_calloc(heap, 4000, sizeof *parcels);
    size_t before = dvsm_heap_footprint(heap);

    (void)state;
    assert_non_null(parcels);
    assert_int_equal(run_in_child(grow, parcels), 0);
    assert_true(dvsm_heap_footprint(heap) > before + 50 * MIB);
    for (size_t i = 0; i < 2000; i++)
        assert_true(is_intact(&parcels[i]));
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(grow(parcels + 2000), 0); /* the parent grows where the child stopped */
    for (size_t i = 0; i < 4000; i++)
        assert_true(unpack(&parcels[i]));
    dvsm_free(parcels);
}

static int resize(void *context)
{
    struct parcel *parcels = context;

    for (size_t i = 0; i < BLOCKS; i++) {
        parcels[i].block = dvsm_realloc(parcels[i].block, 3 * parcels[i].size);
        CHILD_CHECK(parcels[i].block != NULL);
        CHILD_CHECK(dvsm_malloc_usable_size(parcels[i].block) >= 3 * parcels[i].size);
    }
    return 0;
}

static void test_a_child_resizes_its_parents_blocks(void **state)
{
    struct parcel *parcels = dvsm_heap_calloc(heap, BLOCKS, sizeof *parcels);

    (void)state;
    for (size_t i = 0; i < BLOCKS; i++)
        assert_true(pack(&parcels[i], i, (unsigned char)(100 + i)));
    assert_int_equal(run_in_child(resize, parcels), 0);
    for (size_t i = 0; i < BLOCKS; i++)
        assert_true(unpack(&parcels[i]));
    dvsm_free(parcels);
}

/* ---- fork in the middle of malloc */

static atomic_bool stop;

static void *churn(void *context)
{
    struct parcel parcels[8] = {{0}};
    size_t *rounds = context;

    for (size_t i = 0; !atomic_load(&stop); i++) {
        struct parcel *parcel = &parcels[i % 8];
        if ((parcel->block != NULL && !unpack(parcel)) || !pack(parcel, i % 97, (unsigned char)i))
            abort();
        ++*rounds;
    }
    for (size_t i = 0; i < 8; i++)
        if (parcels[i].block != NULL && !unpack(&parcels[i]))
            abort();
    return NULL;
}

static int allocate_at_once(void *context)
{
    struct parcel parcels[BLOCKS];

    (void)context;
    for (size_t i = 0; i < BLOCKS; i++)
        CHILD_CHECK(pack(&parcels[i], i, 7));
    for (size_t i = 0; i < BLOCKS; i++)
        CHILD_CHECK(unpack(&parcels[i]));
    return 0;
}

static void test_fork_while_threads_are_inside_malloc(void **state)
{
    enum { THREADS = 4, FORKS = 100 };
    pthread_t thread[THREADS];
    size_t rounds[THREADS] = {0};

    (void)state;
    atomic_store(&stop, false);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, &rounds[i]), 0);
    for (size_t i = 0; i < FORKS; i++)
        assert_int_equal(run_in_child(allocate_at_once, NULL), 0);
    atomic_store(&stop, true);
    for (size_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
        assert_true(rounds[i] > 0);
    }
}

/* ---- many at once */

struct crowd {
    pthread_barrier_t all_there; /* none begins before all are alive */
    struct parcel parcel[200];
};

struct member {
    struct crowd *crowd;
    size_t number;
};

static int join_crowd(void *context)
{
    const struct member *me = context;
    struct crowd *crowd = me->crowd;

    pthread_barrier_wait(&crowd->all_there);
    for (size_t round = 0; round < 20; round++) {
        struct parcel mine;
        CHILD_CHECK(pack(&mine, me->number + round, (unsigned char)me->number));
        CHILD_CHECK(unpack(&mine));
    }
    CHILD_CHECK(pack(&crowd->parcel[me->number], me->number, (unsigned char)me->number));
    pthread_barrier_wait(&crowd->all_there);
    CHILD_CHECK(unpack(&crowd->parcel[(me->number + 77) % 200])); /* a block of another process */
    return 0;
}

static void test_two_hundred_processes_alive_at_once(void **state)
{
    struct crowd *crowd = dvsm_heap_calloc(heap, 1, sizeof *crowd);
    pthread_barrierattr_t shared;
    pid_t child[200];

    (void)state;
    assert_int_equal(pthread_barrierattr_init(&shared), 0);
    assert_int_equal(pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED), 0);
    assert_int_equal(pthread_barrier_init(&crowd->all_there, &shared, 200), 0);
    for (size_t i = 0; i < 200; i++) {
        struct member member = {crowd, i};
        child[i] = start_child(join_crowd, &member);
    }
    for (size_t i = 0; i < 200; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    dvsm_free(crowd);
}

/* ---- ways to end */

enum { BY_EXIT, BY__EXIT, BY_EXEC, BY_KILL, WAYS };

static int leave(void *context)
{
    struct parcel *parcels = context;
    int way = parcels[0].mark;

    for (size_t i = 0; i < BLOCKS; i++)
        CHILD_CHECK(pack(&parcels[i], i, (unsigned char)(way + 1)));
    switch (way) {
    case BY_EXIT:
        exit(0);
    case BY_EXEC:
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    case BY_KILL:
        kill(getpid(), SIGKILL);
        _exit(1);
    default:
        _exit(0);
    }
}

static void test_what_a_child_made_outlives_it(void **state)
{
    struct parcel *parcels = dvsm_heap_calloc(heap, BLOCKS, sizeof *parcels);

    (void)state;
    for (int way = 0; way < WAYS; way++) {
        parcels[0].mark = (unsigned char)way;
        int status = run_in_child(leave, parcels);
        assert_int_equal(WIFSIGNALED(status) ? WTERMSIG(status) : -status,
                         way == BY_KILL ? SIGKILL : 0);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        for (size_t i = 0; i < BLOCKS; i++)
            assert_true(unpack(&parcels[i]));
    }
    dvsm_free(parcels);
}

/* Dies with the arena's lock held, in the middle of a change, which is then undone. */
static int die_inside(void *context)
{
    struct heap_call call;
    struct arena *arena;

    (void)context;
    CHILD_CHECK(heap_enter(&call, heap, "test"));
    arena = call.hold.call.arena;
    journal_store(&arena->journal, &arena->top, arena->top + 1);
    journal_store(&arena->journal, &arena->top_size, arena->top_size - sizeof *arena->top);
    journal_store(&arena->journal, &arena->dv_size, (size_t)12345);
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_a_child_killed_while_it_holds_the_arena(void **state)
{
    struct parcel before, after;
    dvsm_stats_t stats;

    (void)state;
    assert_true(pack(&before, 5, 5));
    for (size_t round = 1; round <= 3; round++) {
        assert_true(WIFSIGNALED(run_in_child(die_inside, NULL)));
        assert_true(pack(&after, 6, 6));
        assert_true(unpack(&after));
        assert_int_equal(dvsm_stats(heap, &stats), 0);
        assert_int_equal(stats.recoveries, round);
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
    assert_true(unpack(&before));
}

/* Dies with one lock of each kind held: one dvsm_reap() repairs all of them, and a second finds
 * none. */
static int die_with_all_locks(void *context)
{
    struct depot *d = &heap->cache.table->depots[9];
    struct heap_call call;

    (void)context;
    if (heap->cache.table->classes > 0) {
        CHILD_CHECK(lock_acquire(&d->lock) == LOCK_ACQUIRED);
        journal_store(depot_journal(d), &d->demand, d->demand + 1);
    }
    CHILD_CHECK(lock_acquire(&heap->arenas.table->lock) == LOCK_ACQUIRED);
    CHILD_CHECK(heap_enter(&call, heap, "test"));
    CHILD_CHECK(segment_enter(&heap->segments));
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_what_the_dead_left_locked_is_reaped(void **state)
{
    struct parcel parcel;

    (void)state;
    assert_true(pack(&parcel, 7, 7)); /* so that there is an arena */
    assert_int_equal(dvsm_reap(heap), 0);
    bool cached = heap->cache.table->classes > 0;
    size_t demand = cached ? heap->cache.table->depots[9].demand : 0;
    assert_true(WIFSIGNALED(run_in_child(die_with_all_locks, NULL)));
    assert_int_equal(dvsm_reap(heap), cached ? 4 : 3);
    if (cached)
        assert_int_equal(heap->cache.table->depots[9].demand, demand);
    assert_int_equal(dvsm_reap(heap), 0);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_true(unpack(&parcel));

    errno = 0;
    assert_int_equal(dvsm_reap(NULL), -1);
    assert_int_equal(errno, EINVAL);
}

/* Processes are killed at random moments: whoever is left finds a sound heap. What the dead held
 * is found by a walk, and freed. */
static int churn_until_killed(void *context)
{
    size_t rounds = 0;

    (void)context;
    churn(&rounds);
    return 0;
}

struct found {
    void *block[1000];
    size_t count;
};

static void collect_block(const dvsm_chunk *chunk, void *context)
{
    struct found *found = context;

    if ((chunk->state == DVSM_CHUNK_USED || chunk->state == DVSM_CHUNK_LARGE) &&
        found->count < 1000)
        found->block[found->count++] = chunk->block;
}

static void test_children_killed_at_random(void **state)
{
    struct found found = {.count = 0};

    (void)state;
    atomic_store(&stop, false);
    for (long round = 0; round < 40; round++) {
        pid_t one = start_child(churn_until_killed, NULL);
        pid_t other = start_child(churn_until_killed, NULL);
        struct parcel mine;

        nanosleep(&(struct timespec){0, 2000000 + 50000 * round}, NULL);
        kill(one, SIGKILL);
        assert_true(WIFSIGNALED(wait_for_child(one)));
        assert_true(pack(&mine, (size_t)round, 9));
        kill(other, SIGKILL);
        assert_true(WIFSIGNALED(wait_for_child(other)));
        assert_true(unpack(&mine));
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
    dvsm_walk(heap, collect_block, &found);
    assert_in_range(found.count, 1, 40 * 2 * 9);
    assert_int_equal(dvsm_bulk_free(found.block, found.count), 0);
}

/* ---- the default heap */

static int free_default(void *context)
{
    struct parcel *parcel = context;

    CHILD_CHECK(dvsm_heap_of(parcel->block) == dvsm_heap_default());
    CHILD_CHECK(is_intact(parcel));
    dvsm_free(parcel->block);
    parcel->block = dvsm_malloc(50 * MIB);
    CHILD_CHECK(parcel->block != NULL);
    memset(parcel->block, 3, 50 * MIB);
    return 0;
}

static void test_the_default_heap_is_shared_from_the_start(void **state)
{
    struct parcel *parcel = dvsm_malloc(sizeof *parcel);

    (void)state;
    *parcel = (struct parcel){dvsm_malloc(100), 100, 8};
    memset(parcel->block, 8, 100);
    assert_int_equal(run_in_child(free_default, parcel), 0);
    *parcel = (struct parcel){parcel->block, 50 * MIB, 3};
    assert_true(unpack(parcel));
    dvsm_free(parcel);
    assert_int_equal(dvsm_check(dvsm_heap_default(), stderr), 0);
}

/* A heap that a child makes is mapped in no other process. */
static int make_own_heap(void *context)
{
    uintptr_t *address = context;
    dvsm_heap *mine = dvsm_heap_create(NULL);

    CHILD_CHECK(mine != NULL);
    *address = (uintptr_t)dvsm_heap_malloc(mine, 100);
    CHILD_CHECK(dvsm_heap_of((void *)*address) == mine);
    CHILD_CHECK(dvsm_heap_destroy(heap) == 0); /* in this process only */
    return 0;
}

static void test_what_a_child_creates_or_destroys_is_its_own_affair(void **state)
{
    uintptr_t *address = dvsm_heap_malloc(heap, sizeof *address);

    (void)state;
    assert_int_equal(run_in_child(make_own_heap, address), 0);
    assert_null(dvsm_heap_of((void *)*address));
    dvsm_free(address);
}

static const struct backend_case backend_cases[] = {{"memfd", &dvsm_backend_memfd},
                                                    {"shm_open", &dvsm_backend_shm_open},
                                                    {"anon", &dvsm_backend_anon},
                                                    {"the user's own", NULL}};

#define TEST(function)                                                                             \
    {                                                                                              \
#function, function                                                                        \
    }

static const struct {
    const char *name;
    CMUnitTestFunction run;
} cases[] = {
    TEST(test_each_frees_what_any_other_made),
    TEST(test_the_parent_uses_what_the_child_grew),
    TEST(test_a_child_resizes_its_parents_blocks),
    TEST(test_fork_while_threads_are_inside_malloc),
    TEST(test_two_hundred_processes_alive_at_once),
    TEST(test_what_a_child_made_outlives_it),
    TEST(test_a_child_killed_while_it_holds_the_arena),
    TEST(test_what_the_dead_left_locked_is_reaped),
    TEST(test_children_killed_at_random),
    TEST(test_what_a_child_creates_or_destroys_is_its_own_affair),
};

enum {
    BACKENDS = sizeof backend_cases / sizeof backend_cases[0],
    CASES = sizeof cases / sizeof cases[0]
};

int main(void)
{
    static struct backend_case copy[BACKENDS];
    static char name[BACKENDS * CASES][120];
    struct CMUnitTest tests[BACKENDS * CASES + 1] = {
        cmocka_unit_test(test_the_default_heap_is_shared_from_the_start)};

    for (size_t i = 0; i < BACKENDS * CASES; i++) {
        size_t b = i / CASES;
        copy[b] = backend_cases[b];
        snprintf(name[i], sizeof name[i], "%s, %s", cases[i % CASES].name, copy[b].name);
        tests[1 + i] =
            (struct CMUnitTest){name[i], cases[i % CASES].run, make_heap, check_heap, &copy[b]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
