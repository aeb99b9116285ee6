/* lock.h - a lock in shared memory that outlives its holder.
 *
 * A robust, process-shared POSIX mutex. When the process or thread that holds it dies, the next one
 * to acquire it gets LOCK_OWNER_DIED: it must repair what the lock guards (journal_roll_back()
 * first), then call lock_repaired(), then go on as if it had got LOCK_ACQUIRED. Dying before
 * lock_repaired() hands the same task to the next. Never moved, never destroyed: it goes with its
 * region.
 *
 * Locks nest in the order of their ranks. A thread waits for a lock only if its rank is higher than
 * that of every lock it holds, of whatever heap; else it only tries. So no circle of waiting
 * threads can come to be, though a signal handler may interrupt a call that holds locks and call
 * any function: what it would have to wait for, it does not get (LOCK_TAKEN, LOCK_REENTERED).
 * Whoever acquires a lock can do without. What the thread holds is noted before a lock is taken and
 * until after it is left, so that a handler sees it at every instruction.
 *
 * A handler may also end the process. The C library names the mutex that is being taken or left in
 * the thread's `list_op_pending` for the kernel, and clears it in the end; what an interrupted call
 * had there, its mutex or a brief lock (brief.h), is put back after each operation. NB: killed
 * during just those instructions of a handler, the process leaves what the interrupted call was
 * taking locked.
 */
#ifndef DVSM_BASE_LOCK_H
#define DVSM_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* In the order in which they nest. */
enum lock_rank { LOCK_DEPOT, LOCK_ARENA_TABLE, LOCK_ARENA, LOCK_GRANULE_MAP, LOCK_RANKS };

struct lock {
    pthread_mutex_t mutex;
    size_t rank;
};

enum lock_state {
    LOCK_ACQUIRED,
    LOCK_OWNER_DIED,
    LOCK_TAKEN,    /* another thread holds it, and the caller did not, or may not, wait longer */
    LOCK_REENTERED /* the calling thread holds it already: it is in a signal handler, say */
};

enum { LOCK_PATIENT = -1 };

/* Returns 0 or an errno value. */
int lock_init(struct lock *lock, enum lock_rank rank);

/* Each waits only where the thread may.
 *     lock_acquire          as long as it takes
 *     lock_acquire_within   at most about so many milliseconds; LOCK_PATIENT: as long as it takes
 *     lock_try_acquire      not at all
 *     lock_acquire_next     as lock_acquire(), one more of a rank of which the thread holds some:
 *                           all of them by this function and in an order of their own, begun while
 *                           it held none of the rank or above */
enum lock_state lock_acquire(struct lock *lock);
enum lock_state lock_acquire_within(struct lock *lock, int milliseconds);
enum lock_state lock_try_acquire(struct lock *lock);
enum lock_state lock_acquire_next(struct lock *lock);
void lock_repaired(struct lock *lock);
void lock_release(struct lock *lock);

/* Whether the calling thread would wait for a lock of that rank, and whether it holds any lock. */
bool lock_may_wait(enum lock_rank rank);
bool lock_holds_any(void);

/* A new process holds none: what the thread that forked it holds is not the child's. */
void lock_forget(void);

/* How many locks the calling thread has repaired so far. */
size_t lock_repairs(void);

#endif
