/* lock.h - a lock in shared memory that outlives its holder.
 *
 * A robust, process-shared POSIX mutex. When the process or thread that holds it dies, the next
 * thread to acquire it gets LOCK_OWNER_DIED. That thread must repair what the lock guards
 * (journal_roll_back() first), then call lock_repaired(), then go on as if it had got
 * LOCK_ACQUIRED. If it dies before lock_repaired(), the next holder has the same task. A lock is
 * never moved and never destroyed: it goes with its region.
 *
 * Locks nest in the order of their ranks. A thread waits for a lock only if the lock's rank is
 * higher than that of every lock the thread holds, of whatever heap; otherwise it only tries. So no
 * circle of waiting threads can form, though a signal handler may interrupt a call that holds locks
 * and call any function: the handler does not get a lock that it would have to wait for
 * (LOCK_TAKEN, LOCK_REENTERED). Every caller can do without the lock. A held lock is noted from
 * before it is taken until after it is released, so that a handler sees it at every instruction.
 *
 * A handler may also end the process. For the kernel, the C library names the mutex that is being
 * taken or released in the thread's `list_op_pending`, and clears that field in the end. What an
 * interrupted call had there, its mutex or a word lock (word_lock.h), is put back after each
 * operation. NB: if the process is killed during just those instructions of a handler, the lock
 * that the interrupted call was taking stays locked.
 */
#ifndef DVSM_SYNC_LOCK_H
#define DVSM_SYNC_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* In the order in which they nest. LOCK_OF_PROGRAM: held while the program's own code runs, which
 * may call anything. So it does not count among the locks that a thread holds, and a thread waits
 * for it only while it holds no other. */
enum lock_rank {
    LOCK_ROOTS,
    LOCK_DEPOT,
    LOCK_ARENA_TABLE,
    LOCK_ARENA,
    LOCK_GRANULE_MAP,
    LOCK_RANKS,
    LOCK_OF_PROGRAM
};

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
 *     lock_acquire_next     as lock_acquire(), for one more lock of a rank of which the thread
 *                           holds some: all of them are taken by this function, in a fixed order of
 *                           their own, begun while the thread held none of the rank or above */
enum lock_state lock_acquire(struct lock *lock);
enum lock_state lock_acquire_within(struct lock *lock, int milliseconds);
enum lock_state lock_try_acquire(struct lock *lock);
enum lock_state lock_acquire_next(struct lock *lock);
void lock_repaired(struct lock *lock);
void lock_release(struct lock *lock);

/* Whether the calling thread would wait for a lock of that rank, and whether it holds any lock. */
bool lock_may_wait(enum lock_rank rank);
bool lock_holds_any(void);

/* From now on this thread takes no lock that lies in the range: it counts as got at once. For
 * looking at a copy that nobody else has; with 0 bytes, as before. */
void lock_pass_over(const void *start, size_t bytes);

/* A new process holds no lock: those of the thread that forked it are not the child's. */
void lock_forget(void);

/* How many locks the calling thread has repaired so far. */
size_t lock_repairs(void);

#endif
