/* test_base.c - bits, checks, faults, journal, lock.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/journal.h"
#include "support/child.h"
#include "sync/lock.h"
#include "sync/report.h"

static void *shared_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

/* ---- bits */

static void test_lowest_and_highest_find_each_single_bit(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SIZE_BITS; i++) {
        size_t bit = (size_t)1 << i;

        assert_int_equal(bits_lowest(bit), i);
        assert_int_equal(bits_highest(bit), i);
        assert_int_equal(bits_lowest(SIZE_MAX << i), i);
        assert_int_equal(bits_highest(bit | (bit - 1)), i);
    }
}

static void test_bits_above_leaves_only_higher_ones(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SIZE_BITS; i++) {
        size_t above = bits_above(SIZE_MAX, i);

        for (unsigned k = 0; k < SIZE_BITS; k++)
            assert_int_equal((above >> k) & 1, k > i);
        assert_true(bits_above((size_t)1 << i, i) == 0);
    }
}

static void test_power_of_two_is_told_from_its_neighbours(void **state)
{
    (void)state;
    assert_false(bits_is_power_of_two(0));
    assert_true(bits_is_power_of_two(1));
    for (unsigned i = 2; i < SIZE_BITS; i++) {
        size_t power = (size_t)1 << i;

        assert_true(bits_is_power_of_two(power));
        assert_false(bits_is_power_of_two(power - 1));
        assert_false(bits_is_power_of_two(power + 1));
    }
    assert_false(bits_is_power_of_two(SIZE_MAX));
}

static void test_rounding_meets_multiples_and_wraps_only_at_the_end(void **state)
{
    (void)state;
    assert_true(bits_round_up(0, 16) == 0);
    assert_true(bits_round_up(1, 16) == 16);
    assert_true(bits_round_up(16, 16) == 16);
    assert_true(bits_round_up(17, 16) == 32);
    assert_true(bits_round_down(0, 16) == 0);
    assert_true(bits_round_down(15, 16) == 0);
    assert_true(bits_round_down(16, 16) == 16);
    assert_true(bits_round_up(7, 1) == 7);
    assert_true(bits_round_down(SIZE_MAX, 16) == SIZE_MAX - 15);
    assert_true(bits_round_up(SIZE_MAX - 15, 16) == SIZE_MAX - 15);
    assert_true(bits_round_up(SIZE_MAX - 14, 16) == 0);
    assert_true(bits_round_up(SIZE_MAX, 16) == 0);
}

static void test_power_of_two_above_is_the_smallest(void **state)
{
    (void)state;
    assert_true(bits_power_of_two_above(0) == 1);
    assert_true(bits_power_of_two_above(1) == 1);
    for (unsigned i = 1; i < SIZE_BITS; i++) {
        size_t power = (size_t)1 << i;

        assert_true(bits_power_of_two_above(power) == power);
        assert_true(bits_power_of_two_above(power / 2 + 1) == power);
        assert_true(bits_power_of_two_above(power + 1) == (i + 1 < SIZE_BITS ? power << 1 : 0));
    }
    assert_true(bits_power_of_two_above(SIZE_MAX) == 0);
}

/* ---- checks */

static void test_check_counts_and_reports_what_does_not_hold(void **state)
{
    (void)state;
    char text[256] = "";
    struct check check = {.report = fmemopen(text, sizeof text, "w")};

    assert_non_null(check.report);
    assert_true(check_that(&check, true, "one is %d", 1));
    assert_int_equal(check.violations, 0);
    assert_false(check_that(&check, false, "two is %d", 2));
    assert_false(check_that(&check, false, "three is %d", 3));
    assert_int_equal(check.violations, 2);
    fclose(check.report);
    assert_string_equal(text, "two is 2\nthree is 3\n");
}

static void test_check_without_report_only_counts(void **state)
{
    (void)state;
    struct check check = {.report = NULL};

    for (int i = 0; i < 1000; i++)
        assert_false(check_that(&check, false, "number %d", i));
    assert_int_equal(check.violations, 1000);
}

static void test_check_reports_a_hundred_and_counts_all(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    struct check check = {.report = open_memstream(&text, &length)};

    for (int i = 1; i <= 150; i++)
        check_that(&check, false, "%d", i);
    fclose(check.report);
    assert_int_equal(check.violations, 150);
    assert_non_null(strstr(text, "\n100\n"));
    assert_null(strstr(text, "101"));
    free(text);
}

/* ---- faults */

static struct fault_report last_report;
static int reports;

static void remember_report(const struct fault_report *report)
{
    last_report = *report;
    reports++;
}

static void test_first_fault_of_a_call_is_kept(void **state)
{
    (void)state;
    struct fault fault = {FAULT_NONE, NULL, NULL};
    int a = 0, b = 0;

    assert_false(fault_raise(&fault, FAULT_ARGUMENT, "first", &a));
    assert_false(fault_raise(&fault, FAULT_DAMAGE, "second", &b));
    assert_int_equal(fault.kind, FAULT_ARGUMENT);
    assert_string_equal(fault.what, "first");
    assert_ptr_equal(fault.address, &a);
}

static void test_handler_is_told_and_may_return(void **state)
{
    (void)state;
    int block = 0;
    struct fault fault = {FAULT_ARGUMENT, "double free", &block};

    reports = 0;
    assert_null(fault_set_handler(remember_report));
    fault_report(&fault, "toys", "dvsm_free");
    assert_true(fault_set_handler(NULL) == remember_report);
    assert_int_equal(reports, 1);
    assert_string_equal(last_report.what, "double free");
    assert_ptr_equal(last_report.address, &block);
    assert_string_equal(last_report.heap, "toys");
    assert_string_equal(last_report.function, "dvsm_free");
}

static int report_without_handler(void *context)
{
    fault_set_handler(NULL);
    fault_report(context, "toys", "dvsm_free");
    return 0;
}

static void test_default_prints_one_line_and_aborts(void **state)
{
    (void)state;
    struct fault fault = {FAULT_ARGUMENT, "double free", (void *)(uintptr_t)0x1230};
    char text[512];
    int status = run_in_child_with_stderr(report_without_handler, &fault, text, sizeof text);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_string_equal(text, "dvsm: dvsm_free: double free at 0x1230 (heap toys)\n");
}

/* Reports a fault of a heap whose label has that many bytes. */
static int report_at_length(void *context)
{
    static char heap[1000];
    struct fault fault = {FAULT_DAMAGE, "pointer into a block, or a damaged header",
                          (void *)(uintptr_t)0x1230};

    memset(heap, 'h', *(size_t *)context);
    fault_report(&fault, heap, "dvsm_heap_independent_comalloc");
    return 0;
}

static void test_the_longest_label_fits(void **state)
{
    (void)state;
    char text[1000];
    size_t length = 255;
    int status = run_in_child_with_stderr(report_at_length, &length, text, sizeof text);

    assert_true(WIFSIGNALED(status));
    assert_non_null(strstr(text, " at 0x1230 (heap hhh"));
    assert_string_equal(text + strlen(text) - 5, "hhh)\n");
}

static void test_a_line_too_long_is_cut(void **state)
{
    (void)state;
    char text[1000];
    size_t length = 999;
    int status = run_in_child_with_stderr(report_at_length, &length, text, sizeof text);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_int_equal(strlen(text), 511);
    assert_int_equal(strncmp(text, "dvsm: dvsm_heap_independent_comalloc: ", 38), 0);
    assert_ptr_equal(strchr(text, '\n'), text + 510);
}

/* ---- journal */

enum { FIELDS = 8 };

static void test_committed_stores_stay(void **state)
{
    (void)state;
    struct journal j = {.count = 0};
    size_t number = 1;
    int *pointer = NULL;
    int target = 0;

    journal_store(&j, &number, 2);
    journal_store(&j, &pointer, &target);
    assert_false(journal_is_empty(&j));
    journal_commit(&j);
    assert_true(journal_is_empty(&j));
    journal_roll_back(&j);
    assert_int_equal(number, 2);
    assert_ptr_equal(pointer, &target);
}

static void test_roll_back_restores_the_oldest_value(void **state)
{
    (void)state;
    struct journal j = {.count = 0};
    size_t a = 1, b = 10;

    journal_store(&j, &a, 2);
    journal_store(&j, &b, 20);
    journal_store(&j, &a, 3);
    journal_store(&j, &a, 4);
    journal_roll_back(&j);
    assert_int_equal(a, 1);
    assert_int_equal(b, 10);
    assert_true(journal_is_empty(&j));
}

static void test_the_journal_holds_what_it_promises(void **state)
{
    (void)state;
    static struct journal j;
    static size_t field[JOURNAL_CAPACITY];

    for (size_t i = 0; i < JOURNAL_CAPACITY; i++)
        journal_store(&j, &field[i], i + 1);
    assert_int_equal(j.count, JOURNAL_CAPACITY);
    journal_roll_back(&j);
    for (size_t i = 0; i < JOURNAL_CAPACITY; i++)
        assert_int_equal(field[i], 0);
}

struct overfilled {
    struct journal *journal; /* shared */
    size_t capacity;
};

/* Makes one store too many. All of them go to the word behind the journal. */
static int overfill(void *context)
{
    const struct overfilled *o = context;
    word *behind = (word *)&o->journal->entry[o->capacity];

    for (size_t i = 0; i < o->capacity; i++)
        journal_store_within(o->journal, o->capacity, behind, 1);
    journal_store_within(o->journal, o->capacity, behind, 2);
    return 1;
}

static void test_a_full_journal_ends_the_process_before_the_store(void **state)
{
    size_t capacities[] = {JOURNAL_CAPACITY, JOURNAL_SHORT_CAPACITY};
    char text[200];

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct overfilled o = {shared_pages(2 * sizeof *o.journal), capacities[i]};
        int status = run_in_child_with_stderr(overfill, &o, text, sizeof text);

        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        assert_non_null(strstr(text, "more entries than its journal has"));
        assert_int_equal(o.journal->count, o.capacity);
        assert_int_equal((word)o.journal->entry[o.capacity].address, 1);
    }
}

/* A process killed between counting an entry and its store leaves an entry whose store never
 * came. */
static void test_an_entry_without_its_store_does_no_harm(void **state)
{
    (void)state;
    struct journal j = {.count = 0};
    size_t a = 1, b = 10;

    journal_store(&j, &a, 2);
    j.entry[1] = (struct journal_entry){(word *)&b, 10};
    j.count = 2;
    journal_roll_back(&j);
    assert_int_equal(a, 1);
    assert_int_equal(b, 10);
}

/* Changes each field several times, so that only the right order of undoing gives the right
 * values. */
static void make_changes(struct journal *j, size_t field[FIELDS])
{
    for (size_t i = 0; i < 3 * FIELDS; i++)
        journal_store(j, &field[i % FIELDS], 100 + i);
}

/* Leaves what a roll back leaves that is killed after `done` entries. */
static void roll_back_partly(const struct journal *j, size_t done)
{
    for (size_t n = j->count; n > j->count - done; n--)
        *j->entry[n - 1].address = j->entry[n - 1].old;
}

static void test_roll_back_may_stop_at_any_entry_and_be_repeated(void **state)
{
    (void)state;
    for (size_t done = 0; done <= 3 * FIELDS; done++) {
        struct journal j = {.count = 0};
        size_t field[FIELDS];

        for (size_t i = 0; i < FIELDS; i++)
            field[i] = i;
        make_changes(&j, field);
        roll_back_partly(&j, done);
        journal_roll_back(&j);
        for (size_t i = 0; i < FIELDS; i++)
            assert_int_equal(field[i], i);
        assert_true(journal_is_empty(&j));
    }
}

struct ledger {
    struct lock lock;
    struct journal journal;
    size_t field[FIELDS];
    atomic_size_t turns;
};

/* Adds 1 to every field in one change, again and again, until it is killed. */
static int keep_changing(void *context)
{
    struct ledger *ledger = context;

    for (;;) {
        if (lock_acquire(&ledger->lock) != LOCK_ACQUIRED)
            return 1;
        for (size_t i = 0; i < FIELDS; i++)
            journal_store(&ledger->journal, &ledger->field[i], ledger->field[i] + 1);
        journal_commit(&ledger->journal);
        lock_release(&ledger->lock);
        atomic_fetch_add(&ledger->turns, 1);
    }
}

static void wait_for_turns(struct ledger *ledger, size_t turns)
{
    while (atomic_load(&ledger->turns) < turns)
        usleep(100);
}

static void test_a_change_cut_by_a_kill_is_whole_or_was_not(void **state)
{
    (void)state;
    struct ledger *ledger = shared_pages(sizeof *ledger);
    int found_dead = 0;

    assert_int_equal(lock_init(&ledger->lock, LOCK_ARENA), 0);
    for (int round = 0; round < 100; round++) {
        pid_t child = start_child(keep_changing, ledger);

        wait_for_turns(ledger, atomic_load(&ledger->turns) + 1);
        kill(child, SIGKILL);
        assert_true(WIFSIGNALED(wait_for_child(child)));
        if (lock_acquire(&ledger->lock) == LOCK_OWNER_DIED) {
            journal_roll_back(&ledger->journal);
            lock_repaired(&ledger->lock);
            found_dead++;
        }
        assert_true(journal_is_empty(&ledger->journal));
        for (size_t i = 1; i < FIELDS; i++)
            assert_int_equal(ledger->field[i], ledger->field[0]);
        lock_release(&ledger->lock);
    }
    assert_true(found_dead > 0);
    munmap(ledger, sizeof *ledger);
}

/* ---- lock */

struct scene {
    struct lock lock;
    size_t guarded;
};

static struct scene *new_scene(void)
{
    struct scene *scene = shared_pages(sizeof *scene);

    assert_int_equal(lock_init(&scene->lock, LOCK_ARENA), 0);
    return scene;
}

static int die_holding(void *context)
{
    struct scene *scene = context;

    CHILD_CHECK(lock_acquire(&scene->lock) == LOCK_ACQUIRED);
    scene->guarded = 1;
    raise(SIGKILL);
    return 1;
}

static int die_repairing(void *context)
{
    struct scene *scene = context;

    CHILD_CHECK(lock_acquire(&scene->lock) == LOCK_OWNER_DIED);
    raise(SIGKILL);
    return 1;
}

static int find_taken(void *context)
{
    struct scene *scene = context;

    CHILD_CHECK(lock_try_acquire(&scene->lock) == LOCK_TAKEN);
    return 0;
}

static int acquire_and_release(void *context)
{
    struct scene *scene = context;

    CHILD_CHECK(lock_try_acquire(&scene->lock) == LOCK_ACQUIRED);
    lock_release(&scene->lock);
    CHILD_CHECK(lock_acquire(&scene->lock) == LOCK_ACQUIRED);
    lock_release(&scene->lock);
    return 0;
}

static void assert_killed(int status)
{
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_lock_excludes_other_processes(void **state)
{
    (void)state;
    struct scene *scene = new_scene();

    assert_int_equal(lock_acquire(&scene->lock), LOCK_ACQUIRED);
    assert_int_equal(run_in_child(find_taken, scene), 0);
    lock_release(&scene->lock);
    assert_int_equal(run_in_child(acquire_and_release, scene), 0);
    munmap(scene, sizeof *scene);
}

static void test_lock_of_the_dead_asks_for_repair_once(void **state)
{
    (void)state;
    struct scene *scene = new_scene();

    assert_killed(run_in_child(die_holding, scene));
    assert_int_equal(lock_acquire(&scene->lock), LOCK_OWNER_DIED);
    assert_int_equal(scene->guarded, 1);
    lock_repaired(&scene->lock);
    lock_release(&scene->lock);
    assert_int_equal(run_in_child(acquire_and_release, scene), 0);
    munmap(scene, sizeof *scene);
}

static void test_trying_finds_the_dead_owner_too(void **state)
{
    (void)state;
    struct scene *scene = new_scene();

    assert_killed(run_in_child(die_holding, scene));
    assert_int_equal(lock_try_acquire(&scene->lock), LOCK_OWNER_DIED);
    lock_repaired(&scene->lock);
    lock_release(&scene->lock);
    munmap(scene, sizeof *scene);
}

static void test_death_before_the_repair_asks_the_next(void **state)
{
    (void)state;
    struct scene *scene = new_scene();

    assert_killed(run_in_child(die_holding, scene));
    for (int i = 0; i < 3; i++)
        assert_killed(run_in_child(die_repairing, scene));
    assert_int_equal(lock_acquire(&scene->lock), LOCK_OWNER_DIED);
    lock_repaired(&scene->lock);
    lock_release(&scene->lock);
    assert_int_equal(run_in_child(acquire_and_release, scene), 0);
    munmap(scene, sizeof *scene);
}

static void *acquire_and_end(void *lock)
{
    return lock_acquire(lock) == LOCK_ACQUIRED ? lock : NULL;
}

static void test_lock_of_a_thread_that_ended_asks_for_repair(void **state)
{
    (void)state;
    struct scene *scene = new_scene();
    pthread_t thread;
    void *result;

    assert_int_equal(pthread_create(&thread, NULL, acquire_and_end, &scene->lock), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_non_null(result);
    assert_int_equal(lock_acquire(&scene->lock), LOCK_OWNER_DIED);
    lock_repaired(&scene->lock);
    lock_release(&scene->lock);
    munmap(scene, sizeof *scene);
}

static void test_a_thread_that_holds_the_lock_is_told_so(void **state)
{
    (void)state;
    struct scene *scene = new_scene();

    assert_int_equal(lock_acquire(&scene->lock), LOCK_ACQUIRED);
    assert_int_equal(lock_acquire(&scene->lock), LOCK_REENTERED);
    assert_int_equal(lock_try_acquire(&scene->lock), LOCK_REENTERED);
    lock_release(&scene->lock);
    assert_int_equal(run_in_child(acquire_and_release, scene), 0);
    munmap(scene, sizeof *scene);
}

static int acquire_overwritten(void *context)
{
    struct scene *scene = context;

    memset(&scene->lock, 0xff, sizeof scene->lock);
    lock_try_acquire(&scene->lock);
    return 0;
}

static int release_not_held(void *context)
{
    lock_release(&((struct scene *)context)->lock);
    return 0;
}

static int repair_what_is_sound(void *context)
{
    lock_repaired(&((struct scene *)context)->lock);
    return 0;
}

static void test_an_impossible_lock_aborts(void **state)
{
    (void)state;
    static const child_work impossible[] = {acquire_overwritten, release_not_held,
                                            repair_what_is_sound};

    for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
        struct scene *scene = new_scene();
        int status = run_in_child(impossible[i], scene);

        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGABRT);
        munmap(scene, sizeof *scene);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lowest_and_highest_find_each_single_bit),
        cmocka_unit_test(test_bits_above_leaves_only_higher_ones),
        cmocka_unit_test(test_power_of_two_is_told_from_its_neighbours),
        cmocka_unit_test(test_rounding_meets_multiples_and_wraps_only_at_the_end),
        cmocka_unit_test(test_power_of_two_above_is_the_smallest),
        cmocka_unit_test(test_check_counts_and_reports_what_does_not_hold),
        cmocka_unit_test(test_check_without_report_only_counts),
        cmocka_unit_test(test_check_reports_a_hundred_and_counts_all),
        cmocka_unit_test(test_first_fault_of_a_call_is_kept),
        cmocka_unit_test(test_handler_is_told_and_may_return),
        cmocka_unit_test(test_default_prints_one_line_and_aborts),
        cmocka_unit_test(test_the_longest_label_fits),
        cmocka_unit_test(test_a_line_too_long_is_cut),
        cmocka_unit_test(test_committed_stores_stay),
        cmocka_unit_test(test_roll_back_restores_the_oldest_value),
        cmocka_unit_test(test_the_journal_holds_what_it_promises),
        cmocka_unit_test(test_a_full_journal_ends_the_process_before_the_store),
        cmocka_unit_test(test_an_entry_without_its_store_does_no_harm),
        cmocka_unit_test(test_roll_back_may_stop_at_any_entry_and_be_repeated),
        cmocka_unit_test(test_a_change_cut_by_a_kill_is_whole_or_was_not),
        cmocka_unit_test(test_lock_excludes_other_processes),
        cmocka_unit_test(test_lock_of_the_dead_asks_for_repair_once),
        cmocka_unit_test(test_trying_finds_the_dead_owner_too),
        cmocka_unit_test(test_death_before_the_repair_asks_the_next),
        cmocka_unit_test(test_lock_of_a_thread_that_ended_asks_for_repair),
        cmocka_unit_test(test_a_thread_that_holds_the_lock_is_told_so),
        cmocka_unit_test(test_an_impossible_lock_aborts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
