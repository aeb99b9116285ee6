/* test_word_lock.c - word locks in children: whose id they contain, and what a dead holder
 * leaves. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.h"
#include "sync/word_lock.h"

static uint32_t *word_of_all;

static bool take(uint32_t *lock)
{
    void *former;

    if (!word_lock_acquire(lock, &former))
        return false;
    bool mine = *lock == (uint32_t)syscall(SYS_gettid);
    word_lock_release(lock, former);
    return mine;
}

static void *take_in_thread(void *context)
{
    return take(context) ? context : NULL;
}

/* In the child a new thread takes a lock first; the thread that called fork takes one after it. */
static int second_thread_first(void *context)
{
    pthread_t thread;
    void *took;

    CHILD_CHECK(pthread_create(&thread, NULL, take_in_thread, context) == 0);
    CHILD_CHECK(pthread_join(thread, &took) == 0);
    CHILD_CHECK(took == context);
    CHILD_CHECK(take(context));
    return 0;
}

static int child_and_grandchild(void *context)
{
    int status = run_in_child(second_thread_first, context);

    CHILD_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return second_thread_first(context);
}

static void test_a_childs_threads_take_locks_under_their_own_ids(void **state)
{
    (void)state;
    assert_true(take(word_of_all));

    int status = run_in_child(child_and_grandchild, word_of_all);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int die_with_lock(void *context)
{
    void *former;

    CHILD_CHECK(word_lock_acquire(context, &former));
    kill(getpid(), SIGKILL);
    return 0;
}

static void test_what_the_dead_held_is_taken_from_them(void **state)
{
    (void)state;
    int status = run_in_child(die_with_lock, word_of_all);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(*word_of_all & WORD_LOCK_OWNER_DIED, WORD_LOCK_OWNER_DIED);
    assert_true(take(word_of_all));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_childs_threads_take_locks_under_their_own_ids),
        cmocka_unit_test(test_what_the_dead_held_is_taken_from_them),
    };

    process_start();
    word_of_all =
        mmap(NULL, sizeof *word_of_all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (word_of_all == MAP_FAILED)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
