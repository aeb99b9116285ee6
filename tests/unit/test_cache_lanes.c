/* test_cache_lanes.c - size classes, magazine words, and one lane: by sequences through the
 * thread's rseq area and through a stand-in, and locked.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/cache.h"
#include "cache/lane_locked.h"
#include "support/child.h"
#include "support/cpu.h"
#include "support/stand_in.h"

/* ---- classes */

static void test_each_class_serves_its_own_size(void **state)
{
    (void)state;
    for (unsigned cls = 2; cls < CACHE_CLASSES; cls++) {
        size_t size = class_size(cls);

        assert_int_equal(size % CHUNK_ALIGN, 0);
        assert_int_equal(class_above(size), cls);
        assert_int_equal(class_below(size), cls);
        assert_true(size > class_size(cls - 1));
    }
    assert_int_equal(class_size(CLASS_EXACT_LAST), 1 << 10);
    assert_int_equal(class_size(CLASS_COARSE_LAST), 32 << 10);
    assert_int_equal(class_size(CACHE_CLASSES - 1), 256 << 10);
}

static void test_a_request_gets_the_smallest_class_that_has_room(void **state)
{
    unsigned cls = 2;

    (void)state;
    for (size_t size = CHUNK_MIN; size <= CLASS_MOST; size++) {
        if (size > class_size(cls))
            cls++;
        assert_int_equal(class_above(size), cls);
    }
    assert_int_equal(cls, CACHE_CLASSES - 1);
    assert_int_equal(class_above(CLASS_MOST + 1), CLASS_NONE);
    assert_int_equal(class_above(SIZE_MAX / 2), CLASS_NONE);
}

/* The last class also takes chunks of one step more: what is left of a step is no chunk. */
static void test_a_chunk_is_at_home_in_the_largest_class_it_has_room_for(void **state)
{
    unsigned cls = 2;

    (void)state;
    for (size_t size = CHUNK_MIN; size <= CLASS_MOST + CHUNK_ALIGN; size += CHUNK_ALIGN) {
        while (cls + 1 < CACHE_CLASSES && class_size(cls + 1) <= size)
            cls++;
        assert_int_equal(class_below(size), cls);
    }
    assert_int_equal(class_below(CLASS_MOST + 2 * CHUNK_ALIGN), CLASS_NONE);
    assert_int_equal(class_below(SIZE_MAX / 2), CLASS_NONE);
}

/* free() finds a class by size / 128. Chunks just above 1 KiB, whose classes lie closer
 * together, are left to the slow path. */
static void test_the_table_says_what_the_formula_says(void **state)
{
    unsigned char table[CLASS_TABLE] = {0};

    (void)state;
    class_fill_table(table);
    for (size_t size = CLASS_COARSE_LEAST; size <= CLASS_COARSE_MOST + CHUNK_ALIGN;
         size += CHUNK_ALIGN)
        assert_int_equal(table[size / 128], class_below(size));
    for (size_t i = 0; i < CLASS_COARSE_LEAST / 128; i++)
        assert_int_equal(table[i], 0);
}

/* A block of a size between two classes wastes less than an eighth, above 32 KiB a quarter. */
static void test_classes_waste_less_than_an_eighth(void **state)
{
    (void)state;
    for (size_t size = CLASS_EXACT_MOST; size <= CLASS_MOST; size++) {
        size_t given = class_size(class_above(size)), part = size <= CLASS_COARSE_MOST ? 8 : 4;

        assert_true((given - size) * part <= size + part);
    }
}

/* ---- magazine words */

static word pages[2][MAGAZINE_BYTES / WORD] __attribute__((aligned(MAGAZINE_BYTES)));

static struct magazine *page(size_t i)
{
    return (struct magazine *)(void *)pages[i];
}

static const unsigned kinds[] = {2,
                                 CLASS_EXACT_LAST,
                                 CLASS_EXACT_LAST + 1,
                                 CLASS_COARSE_LAST,
                                 CLASS_COARSE_LAST + 1,
                                 CACHE_CLASSES - 1};
static const size_t capacities[] = {62, 62, 14, 14, 6, 6};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static void test_a_magazine_and_its_count_are_one_word(void **state)
{
    struct magazine *m = page(0);

    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        size_t capacity = magazine_capacity(kinds[k]);

        assert_int_equal(capacity, capacities[k]);
        for (size_t n = 0; n <= capacity; n++) {
            word w = magazine_word(m, n);

            assert_ptr_equal(magazine_of(kinds[k], w), m);
            assert_int_equal(magazine_count(kinds[k], w), n);
            assert_int_equal(magazine_is_empty(kinds[k], w), n == 0);
            assert_int_equal(magazine_is_full(kinds[k], w), n == capacity);
            assert_ptr_equal(magazine_next(w), &m->slot[n]);
            assert_true(n == 0 || magazine_last(w) == &m->slot[n - 1]);
        }
    }
}

static void test_a_lane_never_used_is_empty_and_full(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        assert_true(magazine_is_empty(kinds[k], 0));
        assert_true(magazine_is_full(kinds[k], 0));
        assert_int_equal(magazine_count(kinds[k], 0), 0);
    }
}

/* ---- one lane, by whatever means */

enum { CPUS = 2 };

static struct lane *lanes;
static struct lane_view view;
static bool locked;
static unsigned lane_in_use;

static union {
    word whole[4];
} block[64];

/* The kernel may abort a sequence at any time. What fails so often fails for another reason. */
enum { TRIES = 100 };

static void *pop_once(unsigned cls)
{
    if (locked)
        return word_lock_get_ready() ? lane_locked_pop(&lanes[lane_in_use], cls) : NULL;
    return lane_pop_any(&view, cls);
}

/* Clears the mark, as malloc does: a block with a mark is a free one. */
static void *pop(unsigned cls)
{
    void *popped = NULL;

    for (int tries = 0; tries < TRIES && popped == NULL; tries++)
        popped = pop_once(cls);
    if (popped != NULL)
        magazine_clear_mark(popped);
    return popped;
}

static bool push_once(unsigned cls, void *given)
{
    if (locked)
        return word_lock_get_ready() && lane_locked_push(&lanes[lane_in_use], cls, given);
    return lane_push_any(&view, cls, given);
}

/* A sequence that is aborted between the mark and the commit leaves the mark. */
static bool push(unsigned cls, void *given)
{
    bool marked = magazine_is_marked(given), done = false;

    for (int tries = 0; tries < TRIES && !done; tries++) {
        if (!marked && magazine_is_marked(given))
            magazine_clear_mark(given);
        done = push_once(cls, given);
    }
    return done;
}

static bool exchange_once(unsigned cpu, unsigned cls, word old, word replacement)
{
    if (locked)
        return cpu == lane_in_use && lane_locked_exchange(&lanes[cpu], cls, old, replacement);
    return lane_exchange(&view, cpu, cls, old, replacement);
}

static bool exchange(unsigned cpu, unsigned cls, word old, word replacement)
{
    bool done = false;

    for (int tries = 0; tries < TRIES && !done; tries++)
        done = exchange_once(cpu, cls, old, replacement);
    return done;
}

static word loaded(unsigned cls)
{
    return lanes[lane_in_use].loaded[cls];
}

/* The lanes are shared with children. */
static void make_lanes(void)
{
    size_t cpus = (size_t)sysconf(_SC_NPROCESSORS_CONF) + CPUS;

    lanes =
        mmap(NULL, cpus * sizeof *lanes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(lanes != MAP_FAILED);
    process_start();
    view = (struct lane_view){.lanes = lanes, .mode = LANES_SEQUENCES};
    memset(pages, 0, sizeof pages);
    memset(block, 0, sizeof block);
}

static int use_stand_in(void **state)
{
    (void)state;
    make_lanes();
    locked = false;
    lane_in_use = 1;
    view.rseq = stand_in_offset();
    stand_in_be_on(1);
    return 0;
}

static int use_locks(void **state)
{
    (void)state;
    make_lanes();
    locked = true;
    lane_in_use = 0;
    return 0;
}

/* Uses the kernel's rseq area. The thread stays on one CPU, so that the test knows its lane. */
static int use_rseq(void **state)
{
    size_t cpu = (size_t)sched_getcpu();

    (void)state;
    make_lanes();
    locked = false;
    if (!cpu_go_to(cpu))
        return -1;
    lane_in_use = (unsigned)cpu;
    if (!lane_find_rseq(&view.rseq))
        view.rseq = 0;
    return 0;
}

static void skip_without_sequences(void)
{
    if (!locked && view.rseq == 0)
        skip();
}

static void test_a_lane_gives_back_the_last_block_first(void **state)
{
    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        unsigned cls = kinds[k];
        size_t capacity = magazine_capacity(cls);

        lanes[lane_in_use].loaded[cls] = magazine_word(page(0), 0);
        for (size_t i = 0; i < capacity; i++) {
            assert_true(push(cls, &block[i]));
            assert_int_equal(loaded(cls), magazine_word(page(0), i + 1));
        }
        assert_false(push(cls, &block[capacity]));
        for (size_t i = capacity; i-- > 0;) {
            assert_ptr_equal(pop(cls), &block[i]);
            assert_int_equal(loaded(cls), magazine_word(page(0), i));
        }
        assert_null(pop(cls));
        lanes[lane_in_use].loaded[cls] = 0;
    }
}

static void test_a_lane_never_used_takes_and_gives_nothing(void **state)
{
    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        assert_null(pop(kinds[k]));
        assert_false(push(kinds[k], &block[0]));
        assert_int_equal(loaded(kinds[k]), 0);
    }
}

static void test_a_pushed_block_is_marked_with_its_slot(void **state)
{
    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        lanes[lane_in_use].loaded[kinds[k]] = magazine_word(page(0), 3);
        assert_true(push(kinds[k], &block[9]));
        assert_true(magazine_is_marked(&block[9]));
        assert_int_equal(*magazine_mark(&block[9]), (half_word)magazine_word(page(0), 3));
        assert_int_equal(page(0)->slot[3], (word)&block[9]);
        assert_ptr_equal(pop(kinds[k]), &block[9]);
        lanes[lane_in_use].loaded[kinds[k]] = 0;
    }
}

/* Whatever the caller saw, a signal handler, or a child that one forked, may have freed the block
 * since then. */
static void test_a_lane_refuses_a_block_with_a_mark(void **state)
{
    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        lanes[lane_in_use].loaded[kinds[k]] = magazine_word(page(0), 0);
        assert_true(push(kinds[k], &block[1]));
        assert_false(push(kinds[k], &block[1]));
        assert_int_equal(loaded(kinds[k]), magazine_word(page(0), 1));
        assert_ptr_equal(pop(kinds[k]), &block[1]);
        lanes[lane_in_use].loaded[kinds[k]] = 0;
    }
}

/* A refused block stays as it was. */
static void test_a_refused_block_gets_no_mark(void **state)
{
    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        size_t capacity = magazine_capacity(kinds[k]);

        lanes[lane_in_use].loaded[kinds[k]] = magazine_word(page(0), capacity);
        memset(&block[5], 'x', sizeof block[5]);
        assert_false(push(kinds[k], &block[5]));
        for (size_t i = 0; i < sizeof block[5]; i++)
            assert_int_equal(((char *)&block[5])[i], 'x');
        lanes[lane_in_use].loaded[kinds[k]] = 0;
    }
}

static void test_an_exchange_needs_the_word_unchanged(void **state)
{
    word a = magazine_word(page(0), 5), b = magazine_word(page(1), 7);

    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        unsigned cls = kinds[k];

        assert_true(exchange(lane_in_use, cls, 0, a));
        assert_int_equal(loaded(cls), a);
        assert_false(exchange(lane_in_use, cls, a + WORD, b));
        assert_false(exchange(lane_in_use, cls, 0, b));
        assert_int_equal(loaded(cls), a);
        assert_true(exchange(lane_in_use, cls, a, b));
        assert_true(exchange(lane_in_use, cls, b, 0));
        assert_int_equal(loaded(cls), 0);
    }
}

static void test_an_exchange_needs_this_cpu(void **state)
{
    unsigned other = lane_in_use == 0 ? 1 : 0;

    (void)state;
    skip_without_sequences();
    assert_false(exchange(other, 2, 0, magazine_word(page(0), 5)));
    assert_int_equal(lanes[other].loaded[2] | lanes[lane_in_use].loaded[2], 0);
}

/* Only the lane's word of that class, the magazine and the block are written. */
static void test_other_lanes_and_classes_are_left_alone(void **state)
{
    unsigned char before[sizeof(struct lane)];

    (void)state;
    skip_without_sequences();
    for (size_t k = 0; k < KINDS; k++) {
        memcpy(before, &lanes[lane_in_use].loaded, sizeof lanes->loaded);
        lanes[lane_in_use].loaded[kinds[k]] = magazine_word(page(0), 0);
        assert_true(push(kinds[k], &block[0]));
        assert_ptr_equal(pop(kinds[k]), &block[0]);
        lanes[lane_in_use].loaded[kinds[k]] = 0;
        assert_memory_equal(before, &lanes[lane_in_use].loaded, sizeof lanes->loaded);
        for (size_t cls = 0; cls < CACHE_CLASSES; cls++)
            assert_int_equal(lanes[1 - lane_in_use % 2].loaded[cls], 0);
    }
}

/* ---- what only one kind has */

static void test_the_stand_in_decides_which_lane(void **state)
{
    (void)state;
    skip_without_sequences();
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        stand_in_be_on(cpu);
        assert_int_equal(lane_cpu(&view), cpu);
        lanes[cpu].loaded[9] = magazine_word(page(cpu), 0);
        assert_true(lane_push(&view, 9, LANE_MASK(MAGAZINE_BYTES), &block[cpu]));
        assert_int_equal(lanes[cpu].loaded[9], magazine_word(page(cpu), 1));
    }
    for (unsigned cpu = 0; cpu < CPUS; cpu++) {
        stand_in_be_on(cpu);
        assert_ptr_equal(lane_pop(&view, 9, LANE_MASK(MAGAZINE_BYTES)), &block[cpu]);
    }
}

static int die_in_the_lane(void *context)
{
    void *former = NULL;

    (void)context;
    CHILD_CHECK(word_lock_acquire(&lanes[0].lock, &former));
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_a_locked_lane_outlives_its_holder(void **state)
{
    (void)state;
    lanes[0].loaded[4] = magazine_word(page(0), 0);
    assert_true(WIFSIGNALED(run_in_child(die_in_the_lane, NULL)));
    assert_true(push(4, &block[1]));
    assert_true(WIFSIGNALED(run_in_child(die_in_the_lane, NULL)));
    assert_ptr_equal(pop(4), &block[1]);
    assert_true(WIFSIGNALED(run_in_child(die_in_the_lane, NULL)));
    assert_true(lane_locked_exchange(&lanes[0], 4, magazine_word(page(0), 0), 0));
    assert_int_equal(lanes[0].lock, 0);
}

/* A signal handler that interrupted the lane's holder also finds it taken. Nobody waits. */
static void test_who_finds_a_locked_lane_taken_goes_elsewhere(void **state)
{
    word w = magazine_word(page(0), 1);
    void *former = NULL;

    (void)state;
    lanes[0].loaded[4] = w;
    assert_true(word_lock_acquire(&lanes[0].lock, &former));
    assert_null(pop(4));
    assert_false(push(4, &block[1]));
    assert_false(lane_locked_exchange(&lanes[0], 4, w, 0));
    word_lock_release(&lanes[0].lock, former);
    assert_int_equal(lanes[0].loaded[4], w);
}

/* Timer signals at a high rate: each aborts the sequence that it interrupts. The handler uses the
 * same lane and leaves it as it was. Giving the CPU to another thread aborts a sequence, too. */
static volatile sig_atomic_t signals;

static void push_at_last(unsigned cls, void *given)
{
    while (given != NULL && !push(cls, given))
        continue;
}

static void pop_and_push(int number)
{
    void *b = pop(8);

    (void)number;
    push_at_last(8, b);
    signals++;
}

static void test_a_signal_handler_uses_the_lane_that_it_interrupts(void **state)
{
    struct sigaction action = {.sa_handler = pop_and_push}, former;
    struct itimerspec every = {{0, 40000}, {0, 40000}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    timer_t timer;

    (void)state;
    skip_without_sequences();
    for (size_t i = 0; i < 8; i++) {
        lanes[lane_in_use].loaded[8] = magazine_word(page(0), i);
        assert_true(push(8, &block[i]));
    }
    assert_int_equal(sigaction(SIGALRM, &action, &former), 0);
    assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
    while (signals < 2000) {
        push_at_last(8, pop(8));
    }
    timer_delete(timer);
    assert_int_equal(sigaction(SIGALRM, &former, NULL), 0);
    assert_int_equal(loaded(8), magazine_word(page(0), 8));
    word seen = 0;
    for (size_t i = 0; i < 8; i++)
        seen ^= page(0)->slot[i] ^ (word)&block[i];
    assert_int_equal(seen, 0);
}

#define LANE_TESTS(setup)                                                                          \
    cmocka_unit_test_setup(test_a_lane_gives_back_the_last_block_first, setup),                    \
        cmocka_unit_test_setup(test_a_lane_never_used_takes_and_gives_nothing, setup),             \
        cmocka_unit_test_setup(test_a_pushed_block_is_marked_with_its_slot, setup),                \
        cmocka_unit_test_setup(test_a_lane_refuses_a_block_with_a_mark, setup),                    \
        cmocka_unit_test_setup(test_a_refused_block_gets_no_mark, setup),                          \
        cmocka_unit_test_setup(test_an_exchange_needs_the_word_unchanged, setup),                  \
        cmocka_unit_test_setup(test_an_exchange_needs_this_cpu, setup),                            \
        cmocka_unit_test_setup(test_other_lanes_and_classes_are_left_alone, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_class_serves_its_own_size),
        cmocka_unit_test(test_a_request_gets_the_smallest_class_that_has_room),
        cmocka_unit_test(test_a_chunk_is_at_home_in_the_largest_class_it_has_room_for),
        cmocka_unit_test(test_the_table_says_what_the_formula_says),
        cmocka_unit_test(test_classes_waste_less_than_an_eighth),
        cmocka_unit_test(test_a_magazine_and_its_count_are_one_word),
        cmocka_unit_test(test_a_lane_never_used_is_empty_and_full),
        LANE_TESTS(use_stand_in),
        LANE_TESTS(use_locks),
        LANE_TESTS(use_rseq),
        cmocka_unit_test_setup(test_the_stand_in_decides_which_lane, use_stand_in),
        cmocka_unit_test_setup(test_a_locked_lane_outlives_its_holder, use_locks),
        cmocka_unit_test_setup(test_who_finds_a_locked_lane_taken_goes_elsewhere, use_locks),
        cmocka_unit_test_setup(test_a_signal_handler_uses_the_lane_that_it_interrupts, use_rseq),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
