/* lock.c - the robust process-shared mutex. */
#define _GNU_SOURCE
#include "base/lock.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/brief.h"
#include "base/compiler.h"

enum { WAIT_NS_MOST = 50000000, NS_A_SECOND = 1000000000 };

/* A copy of one that was made elsewhere: ThreadSanitizer would take making it in place for a race with
 * whoever locks it first, since it does not see how they learn of it. */
int lock_init(struct lock *lock)
{
    pthread_mutexattr_t attributes;
    struct lock made;
    int error = pthread_mutexattr_init(&attributes);

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

/* Anything but these answers means that the mutex itself was overwritten: nothing can be trusted
 * then. */
static enum lock_state state_of(int error)
{
    switch (error) {
    case 0:
        return LOCK_ACQUIRED;
    case EOWNERDEAD:
        return LOCK_OWNER_DIED;
    case EBUSY:
        return LOCK_TAKEN;
    case EDEADLK:
        return LOCK_REENTERED;
    default:
        abort();
    }
}

/* The holder's id is the C library's: it is looked at where that may not know this thread. */
static void greet(void)
{
    if (process_is_in_doubt())
        process_greet();
}

/* Waits, but looks again now and then. NB: a wake-up can be lost with a waiter that is killed just when
 * it was woken, if another thread takes the lock before the kernel looks at it: those who still wait
 * would sleep beside a free lock until somebody else has to wait for it. */
static NOINLINE enum lock_state wait_for(struct lock *lock)
{
    int error;

    do {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += WAIT_NS_MOST;
        if (until.tv_nsec >= NS_A_SECOND) {
            until.tv_sec++;
            until.tv_nsec -= NS_A_SECOND;
        }
        error = pthread_mutex_timedlock(&lock->mutex, &until);
    } while (error == ETIMEDOUT);
    return state_of(error);
}

enum lock_state lock_try_acquire(struct lock *lock)
{
    greet();
    return state_of(pthread_mutex_trylock(&lock->mutex));
}

enum lock_state lock_acquire(struct lock *lock)
{
    enum lock_state state = lock_try_acquire(lock);

    return unlikely(state == LOCK_TAKEN) ? wait_for(lock) : state;
}

static __thread size_t repairs;

void lock_repaired(struct lock *lock)
{
    if (pthread_mutex_consistent(&lock->mutex) != 0)
        abort();
    repairs++;
}

size_t lock_repairs(void)
{
    return repairs;
}

void lock_release(struct lock *lock)
{
    if (pthread_mutex_unlock(&lock->mutex) != 0)
        abort();
}
