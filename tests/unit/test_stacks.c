/* test_stacks.c - how much stack the calls take: a thread may have PTHREAD_STACK_MIN of it.
 *
 * The test fills the stack below its frame with a pattern, makes the call, and looks for the lowest
 * byte that has changed. That includes what the C library's functions take, but not looking them up
 * at their first calls, which takes 3 KiB: the library and this test are linked so that all are
 * looked up before.
 *
 * Not under sanitizers: instrumented functions take more stack than is promised.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/depot.h"
#include "heap/heap.h"
#include "support/child.h"

enum {
    KIB = 1 << 10,
    MIB = 1 << 20,
    STACK = 256 * KIB,
    RED_ZONE = 512,
    BAR = 4 * KIB,
    PAINT = 0xA5
};

static struct dvsm_heap *heap;
static void *block[200];

/* ---- the calls */

static void allocate(void)
{
    static const size_t sizes[] = {24, 500, 3000, 20000, 100000, 300000, 5000000};

    for (size_t i = 0; i < 70; i++)
        block[i] = dvsm_heap_malloc(heap, sizes[i % 7]);
}

static void reallocate(void)
{
    for (size_t i = 0; i < 70; i++)
        block[i] = dvsm_heap_realloc(heap, block[i], i % 2 == 0 ? 700 * i + 10 : 40000);
}

static void allocate_aligned(void)
{
    for (size_t i = 70; i < 100; i++)
        block[i] = dvsm_heap_memalign(heap, (size_t)64 << i % 12, 100 * i);
}

static void allocate_many(void)
{
    size_t sizes[] = {100, 2000, 30000};

    dvsm_heap_independent_calloc(heap, 50, 40, block + 100);
    dvsm_heap_independent_comalloc(heap, 3, sizes, block + 150);
}

static void fill_up(void)
{
    static void *filler[40000];
    size_t n = 0;

    dvsm_heap_set_limit(heap, 32 * MIB);
    while (n < 40000 && (filler[n] = dvsm_heap_malloc(heap, 1500)) != NULL)
        n++;
    dvsm_heap_malloc(heap, MIB);
    dvsm_heap_realloc(heap, block[0], MIB);
    for (size_t i = 0; i < n; i++)
        dvsm_free(filler[i]);
    dvsm_heap_set_limit(heap, SIZE_MAX);
}

static void release(void)
{
    for (size_t i = 0; i < 60; i++)
        dvsm_free(block[i]);
    dvsm_bulk_free(block + 60, 93);
}

static void trim(void)
{
    dvsm_heap_trim(heap, 0);
}

static void look(void)
{
    dvsm_stats_t stats;

    dvsm_stats(heap, &stats);
    dvsm_heap_mallinfo(heap);
    dvsm_heap_footprint(heap);
    dvsm_reap(heap);
}

static void visit_nothing(void *start, void *end, size_t used, void *context)
{
    (void)start, (void)end, (void)used, (void)context;
}

static void walk(void)
{
    dvsm_malloc_inspect_all(visit_nothing, NULL);
}

static void check(void)
{
    assert_int_equal(dvsm_check(heap, NULL), 0);
}

static void make_and_destroy(void)
{
    struct dvsm_heap *other = dvsm_heap_create(NULL);

    dvsm_free(dvsm_heap_malloc(other, 100));
    assert_int_equal(dvsm_heap_destroy(other), 0);
}

static void do_nothing(const dvsm_fault *fault)
{
    (void)fault;
}

static void misuse(void)
{
    void *p = dvsm_heap_malloc(heap, 100);

    dvsm_set_fault_handler(do_nothing);
    dvsm_free(p);
    dvsm_free(p);
    dvsm_free((char *)p + 8);
    dvsm_set_fault_handler(NULL);
}

/* Dies while it holds an arena and all depots. */
static int die_with_locks(void *context)
{
    struct arena_hold hold = {0};

    (void)context;
    CHILD_CHECK(cache_lock_all(&heap->cache));
    CHILD_CHECK(arenas_enter_index(&heap->arenas, &hold, 0));
    return 0;
}

static void recover(void)
{
    allocate();
    release();
}

/* ---- measuring */

static char *stack;

static NOINLINE size_t depth_of(void (*call)(void))
{
    char *here = __builtin_frame_address(0);

    memset(stack, PAINT, (size_t)(here - stack) - RED_ZONE);
    call();
    for (char *p = stack; p < here; p++)
        if (*(unsigned char *)p != PAINT)
            return (size_t)(here - p);
    return 0;
}

struct measured {
    const char *name;
    void (*call)(void);
    size_t depth;
};

static void *measure(void *context)
{
    for (struct measured *m = context; m->name != NULL; m++)
        m->depth = depth_of(m->call);
    return NULL;
}

static void measure_in_thread(struct measured *m)
{
    pthread_attr_t attributes;
    pthread_t thread;

    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(stack != MAP_FAILED);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK);
    assert_int_equal(pthread_create(&thread, &attributes, measure, m), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    munmap(stack, STACK);
    for (; m->name != NULL; m++) {
        printf("%-18s %5zu bytes of stack\n", m->name, m->depth);
        assert_in_range(m->depth, 1, BAR);
    }
}

static void test_no_call_takes_more_than_four_kibibytes(void **state)
{
    struct measured calls[] = {{"malloc", allocate, 0},
                               {"realloc", reallocate, 0},
                               {"memalign", allocate_aligned, 0},
                               {"independent", allocate_many, 0},
                               {"at the limit", fill_up, 0},
                               {"free", release, 0},
                               {"trim", trim, 0},
                               {"stats", look, 0},
                               {"inspect_all", walk, 0},
                               {"check", check, 0},
                               {"create, destroy", make_and_destroy, 0},
                               {"a fault", misuse, 0},
                               {NULL, NULL, 0}};

    (void)state;
    for (size_t cache = 0; cache < 2; cache++) {
        heap = dvsm_heap_create(&(dvsm_options){.cache_bytes = cache == 0 ? 0 : SIZE_MAX});
        assert_non_null(heap);
        measure_in_thread(calls);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

static void test_recovery_takes_no_more(void **state)
{
    struct measured calls[] = {{"recovery", recover, 0}, {NULL, NULL, 0}};

    (void)state;
    heap = dvsm_heap_create(NULL);
    assert_non_null(heap);
    allocate();
    release();
    assert_int_equal(run_in_child(die_with_locks, NULL), 0);
    measure_in_thread(calls);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_call_takes_more_than_four_kibibytes),
        cmocka_unit_test(test_recovery_takes_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
