/* lock.h - a lock in shared memory that outlives its holder.
 *
 * A robust, process-shared POSIX mutex. When the process or thread that holds it dies, the next one
 * to acquire it gets LOCK_OWNER_DIED: it must repair what the lock guards (journal_roll_back()
 * first), then call lock_repaired(), then go on as if it had got LOCK_ACQUIRED. Dying before
 * lock_repaired() hands the same task to the next. Never moved, never destroyed: it goes with its
 * region.
 *
 * Locks nest in one order only: depot, arena, region.
 */
#ifndef DVSM_BASE_LOCK_H
#define DVSM_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct lock {
    pthread_mutex_t mutex;
};

enum lock_state {
    LOCK_ACQUIRED,
    LOCK_OWNER_DIED,
    LOCK_TAKEN,    /* lock_try_acquire() only: another thread holds it */
    LOCK_REENTERED /* the calling thread holds it already: a signal handler, say */
};

/* Returns 0 or an errno value. */
int lock_init(struct lock *lock);
enum lock_state lock_acquire(struct lock *lock);
enum lock_state lock_try_acquire(struct lock *lock);
void lock_repaired(struct lock *lock);
void lock_release(struct lock *lock);

/* How many locks the calling thread has repaired so far. */
size_t lock_repairs(void);

#endif
