/* test_lock_wait.c - a waiter whose wake-up was lost gets the lock all the same.
 *
 * The C library's mutex has a bit in its word that says that somebody waits. The bit is lost if the
 * waiter that was woken dies before it takes the lock, and another thread takes it. The test clears
 * the bit itself.
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
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/child.h"
#include "sync/lock.h"

enum { STEP_US = 1000, STEPS_MOST = 5000 };

static struct lock *lock;

static int take_and_leave(void *context)
{
    (void)context;
    lock_forget(); /* the parent's hold, as a heap does after fork */
    CHILD_CHECK(lock_acquire(lock) == LOCK_ACQUIRED);
    lock_release(lock);
    return 0;
}

#ifdef __GLIBC__
static const int waiters = (int)0x80000000u; /* FUTEX_WAITERS, in the mutex's word */

static void test_a_lost_wake_up_is_made_up_for(void **state)
{
    int status = -1, steps = 0;

    (void)state;
    assert_int_equal(lock_acquire(lock), LOCK_ACQUIRED);
    pid_t child = start_child(take_and_leave, NULL);
    int *word = &lock->mutex.__data.__lock;
    while ((__atomic_load_n(word, __ATOMIC_RELAXED) & waiters) == 0 && steps++ < STEPS_MOST)
        usleep(STEP_US);
    __atomic_fetch_and(word, ~waiters, __ATOMIC_RELAXED);
    lock_release(lock);

    pid_t ended = 0;
    for (steps = 0; ended == 0 && steps < STEPS_MOST; steps++) {
        usleep(STEP_US);
        ended = waitpid(child, &status, WNOHANG);
    }
    if (ended == 0)
        kill(child, SIGKILL);
    assert_int_equal(ended, child);
    assert_int_equal(status, 0);
}
#else
static void test_a_lost_wake_up_is_made_up_for(void **state)
{
    (void)state;
    skip();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_lost_wake_up_is_made_up_for)};

    lock = mmap(NULL, sizeof *lock, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (lock == MAP_FAILED || lock_init(lock, LOCK_ARENA) != 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
