/* lock.c - the robust process-shared mutex. */
#define _GNU_SOURCE
#include "sync/lock.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "base/compiler.h"
#include "sync/process.h"
#include "sync/report.h"
#include "sync/tsan.h"
#include "sync/word_lock.h"

enum { SLICE_MS = 5, NS_A_MS = 1000000, NS_A_SECOND = 1000000000, BITS_A_RANK = 12 };

/* With glibc 2.30 and later a wait does not depend on the time of day. A program's ThreadSanitizer
 * may not know that function, and would then take the lock to be free. */
#if defined __GLIBC__ && __GLIBC_PREREQ(2, 30)
static clockid_t wait_clock(void)
{
    return __tsan_init != NULL ? CLOCK_REALTIME : CLOCK_MONOTONIC;
}

static int wait_until(pthread_mutex_t *mutex, const struct timespec *until)
{
    return __tsan_init != NULL ? pthread_mutex_timedlock(mutex, until)
                               : pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, until);
}
#else
static clockid_t wait_clock(void)
{
    return CLOCK_REALTIME;
}

static int wait_until(pthread_mutex_t *mutex, const struct timespec *until)
{
    return pthread_mutex_timedlock(mutex, until);
}
#endif

/* Makes the lock elsewhere and copies it into place. ThreadSanitizer would report initialising it
 * in place as a race with the first thread that locks it, since it does not see how that thread
 * learns of the lock. */
int lock_init(struct lock *lock, enum lock_rank rank)
{
    pthread_mutexattr_t attributes;
    struct lock made = {.rank = rank};
    int error = pthread_mutexattr_init(&attributes);

    word_lock_start();
    if (error != 0)
        return error;
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    error = pthread_mutex_init(&made.mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (error != 0)
        return error;
    *lock = made;
    pthread_mutex_destroy(&made.mutex);
    return 0;
}

/* ---- what the thread holds ------------------------------------------------------------------- */

/* How many locks of each rank, the lowest rank in the lowest bits. Signal handlers change it, too,
 * but each leaves it as it found it. */
static __thread uint64_t held __attribute__((tls_model("initial-exec")));
_Static_assert(LOCK_RANKS *BITS_A_RANK <= 64, "each rank has its count");

static uint64_t one_of(size_t rank)
{
    return (uint64_t)1 << (rank % LOCK_RANKS * BITS_A_RANK);
}

static uint64_t weight_of(const struct lock *lock)
{
    return lock->rank != LOCK_OF_PROGRAM ? one_of(lock->rank) : 0;
}

static void note_held(const struct lock *lock)
{
    held += weight_of(lock);
    compiler_barrier();
}

static void note_left(const struct lock *lock)
{
    compiler_barrier();
    held -= weight_of(lock);
}

bool lock_may_wait(enum lock_rank rank)
{
    return held < one_of(rank);
}

static bool may_wait_for(const struct lock *lock)
{
    return lock->rank != LOCK_OF_PROGRAM ? held < one_of(lock->rank) : held == 0;
}

bool lock_holds_any(void)
{
    return held != 0;
}

void lock_forget(void)
{
    held = 0;
}

/* The range whose locks this thread passes over. */
static __thread struct {
    uintptr_t start;
    size_t bytes;
} passed_over __attribute__((tls_model("initial-exec")));

void lock_pass_over(const void *start, size_t bytes)
{
    passed_over.start = (uintptr_t)start;
    passed_over.bytes = bytes;
}

static bool is_passed_over(const struct lock *lock)
{
    return unlikely(passed_over.bytes != 0) &&
           (uintptr_t)lock - passed_over.start < passed_over.bytes;
}

/* ---- the mutex ------------------------------------------------------------------------------- */

/* An error that a sound mutex never gives means that the mutex was overwritten. Such a lock counts
 * as taken. */
static NOINLINE enum lock_state report_damage(const struct lock *lock)
{
    fault_report(&(struct fault){FAULT_DAMAGE, "damaged lock", lock}, "locks",
                 "a lock's operation");
    return LOCK_TAKEN;
}

static enum lock_state state_of(const struct lock *lock, int error)
{
    switch (error) {
    case 0:
        return LOCK_ACQUIRED;
    case EOWNERDEAD:
        return LOCK_OWNER_DIED;
    case EBUSY:
    case ETIMEDOUT:
        return LOCK_TAKEN;
    case EDEADLK:
        return LOCK_REENTERED;
    default:
        return report_damage(lock);
    }
}

/* The C library writes its own id of the thread into the mutex: check the id where the C library
 * may not know this thread. */
static void greet(void)
{
    if (process_is_in_doubt())
        process_greet();
}

/* What an interrupted call named for the kernel, if this is a signal handler. */
static void *named(void)
{
    struct word_lock_list *head = word_lock_head();

    return likely(head != NULL) ? head->list_op_pending : NULL;
}

/* NB: needed outside a handler, too: after a wait that timed out, glibc leaves the mutex named. */
static void name_again(void *former)
{
    struct word_lock_list *head = word_lock_head();

    compiler_barrier();
    if (likely(head != NULL))
        head->list_op_pending = former;
}

static int try(struct lock *lock)
{
    void *former = named();
    int error = pthread_mutex_trylock(&lock->mutex);

    name_again(former);
    return error;
}

static struct timespec in_a_slice(int milliseconds)
{
    struct timespec until;

    clock_gettime(wait_clock(), &until);
    until.tv_nsec += (long)milliseconds * NS_A_MS;
    if (until.tv_nsec >= NS_A_SECOND) {
        until.tv_sec++;
        until.tv_nsec -= NS_A_SECOND;
    }
    return until;
}

/* Waits in slices. NB: a wake-up can be lost with a waiter that is killed, or stopped, just when it
 * was woken. Without slices the other waiters would sleep beside a free lock until another thread
 * has to wait for it. */
static NOINLINE int wait_for(struct lock *lock, int milliseconds)
{
    int error = ETIMEDOUT;

    while (error == ETIMEDOUT && milliseconds != 0) {
        int slice = milliseconds < 0 || milliseconds > SLICE_MS ? SLICE_MS : milliseconds;
        struct timespec until = in_a_slice(slice);
        void *former = named();

        error = wait_until(&lock->mutex, &until);
        name_again(former);
        if (milliseconds > 0)
            milliseconds -= slice;
    }
    return error;
}

static enum lock_state take(struct lock *lock, int milliseconds)
{
    if (is_passed_over(lock))
        return LOCK_ACQUIRED;
    greet();
    note_held(lock);

    int error = try(lock);
    if (unlikely(error == EBUSY) && milliseconds != 0)
        error = wait_for(lock, milliseconds);
    enum lock_state state = state_of(lock, error);
    if (unlikely(state == LOCK_TAKEN || state == LOCK_REENTERED))
        note_left(lock);
    return state;
}

enum lock_state lock_try_acquire(struct lock *lock)
{
    return take(lock, 0);
}

enum lock_state lock_acquire_within(struct lock *lock, int milliseconds)
{
    return take(lock, may_wait_for(lock) ? milliseconds : 0);
}

enum lock_state lock_acquire(struct lock *lock)
{
    return lock_acquire_within(lock, LOCK_PATIENT);
}

enum lock_state lock_acquire_next(struct lock *lock)
{
    return take(lock, held < one_of(lock->rank) << BITS_A_RANK ? LOCK_PATIENT : 0);
}

static __thread size_t repairs;

void lock_repaired(struct lock *lock)
{
    if (!is_passed_over(lock) && pthread_mutex_consistent(&lock->mutex) != 0)
        report_damage(lock);
    repairs++;
}

size_t lock_repairs(void)
{
    return repairs;
}

void lock_release(struct lock *lock)
{
    if (is_passed_over(lock))
        return;
    void *former = named();
    int error = pthread_mutex_unlock(&lock->mutex);

    name_again(former);
    note_left(lock);
    if (unlikely(error != 0))
        report_damage(lock);
}
