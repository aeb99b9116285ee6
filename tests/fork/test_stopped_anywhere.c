/* test_stopped_anywhere.c - a process that is stopped at any instruction of its calls keeps no
 * other process waiting.
 *
 * One child goes through calls an instruction at a time. Every few instructions it stands still
 * while another process, the witness, allocates and frees and measures its longest call. If the
 * child stands still with the granule map's lock, the witness may have to wait: such moments are
 * counted.
 *
 * Not under sanitizers: it single-steps whole calls, and instrumentation adds millions of steps.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "segment/segment_map.h"
#include "support/child.h"
#include "support/exchange.h"
#include "support/stepping.h"

enum { STRIDE = 47, CALLS = 10, BLOCKS = 8, BAR_MS = 20, PATIENCE_MS = 100 };

static struct dvsm_heap *heap;

static struct exchange *said; /* what the witness did; in shared memory */

static int asked[2], answered[2]; /* pipes: a byte for each burst of calls */

static int witness(void *context)
{
    static void *block[BLOCKS];
    char byte;

    (void)context;
    *said = (struct exchange){heap, block, BLOCKS, .random = 1, .bar_ms = BAR_MS};
    while (read(asked[0], &byte, 1) == 1 && byte != 0) {
        for (int i = 0; i < CALLS; i++)
            CHILD_CHECK(exchange_block(said));
        CHILD_CHECK(write(answered[1], &byte, 1) == 1);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        dvsm_free(block[i]);
    return 0;
}

/* ---- the process that is stopped */

static void calls(void *context)
{
    void *block[4];

    (void)context;
    for (unsigned i = 0; i < 4; i++)
        block[i] = dvsm_heap_malloc(heap, (size_t)40 << 4 * i);
    block[0] = dvsm_heap_realloc(heap, block[0], 1000);
    for (unsigned i = 0; i < 4; i++)
        dvsm_free(block[i]);
}

/* Whether the process holds the map's lock: the C library's mutex word has the holder's thread
 * id, besides a bit that says that others wait. */
static bool has_map(pid_t process)
{
    return (heap->region->map->lock.mutex.__data.__lock & FUTEX_TID_MASK) == process;
}

static void ask(char byte)
{
    assert_int_equal(write(asked[1], &byte, 1), 1);
}

static bool has_answered(int milliseconds)
{
    struct pollfd answer = {.fd = answered[0], .events = POLLIN};
    char byte;

    return poll(&answer, 1, milliseconds) == 1 && read(answered[0], &byte, 1) == 1;
}

/* Whether the witness finished its calls while the other process stood still. */
static bool others_go_on(const struct stepped *s, unsigned *moments)
{
    ask(1);
    if (has_answered(PATIENCE_MS))
        return true;
    ++*moments;
    if (has_map(s->child))
        return false;
    fail_msg("stopped at %#zx: others wait for more than %d ms", (size_t)stepping_at(s),
             PATIENCE_MS);
    return false;
}

static void others_go_on_at_each_stop(size_t cache_bytes)
{
    struct stepped s;
    unsigned steps = 0, with_map = 0, moments = 0;
    bool answered_all = true;

    heap = dvsm_heap_create(&(dvsm_options){.cache_bytes = cache_bytes});
    assert_non_null(heap);
    pid_t other = start_child(witness, NULL);
    if (!stepping_start(&s, calls, NULL))
        skip();
    for (; stepping_step(&s); steps++) {
        with_map += has_map(s.child);
        if (!answered_all)
            answered_all = has_answered(0);
        else if (steps % STRIDE == 0)
            answered_all = others_go_on(&s, &moments);
    }
    assert_int_equal(stepping_finish(&s), 0);
    assert_true(answered_all || has_answered(PATIENCE_MS));
    ask(0);
    assert_int_equal(wait_for_child(other), 0);
    printf("%u instructions, %u of them with the map's lock; %u calls of another process, the "
           "longest %.1f ms, %u above %d ms, %u waited for the map\n",
           steps, with_map, said->calls, said->longest, said->slow, BAR_MS, moments);
    assert_true(said->slow <=
                moments + said->calls / 200); /* a busy machine stops processes, too */

    dvsm_stats_t stats;
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_with_a_cache(void **state)
{
    (void)state;
    others_go_on_at_each_stop(0);
}

static void test_without(void **state)
{
    (void)state;
    others_go_on_at_each_stop(SIZE_MAX);
}

static int set_up(void **state)
{
    (void)state;
    said = mmap(NULL, sizeof *said, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return said == MAP_FAILED || pipe(asked) != 0 || pipe(answered) != 0 ? -1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_a_cache),
        cmocka_unit_test(test_without),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
