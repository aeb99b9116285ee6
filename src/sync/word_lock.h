/* word_lock.h - a lock for a few instructions. It outlives its holder, and nobody waits for it.
 *
 * One word: 0, or the thread id of its holder; the kernel puts WORD_LOCK_OWNER_DIED there when the
 * holder dies. It is taken by one atomic operation and released by a plain store, since there are
 * no waiters to wake: half the cost of a robust mutex. A thread that finds the lock taken does
 * something else.
 *
 * The kernel learns of the lock through `list_op_pending` of the thread's robust list
 * (set_robust_list(2), Documentation/locking/robust-futex-ABI). That field names a lock that is
 * being taken or released; a lock held for so few instructions need not enter the list itself. The
 * list's head is the C library's. A signal handler that comes in between puts back what it found in
 * the field: here, and in lock.c, whose operations use the same field.
 *
 * A thread's list lies at the same distance from its thread-local memory in all threads, so the
 * kernel is asked only once (word_lock_start()). The thread's id is looked up at its first use in
 * each process (process.h), without a system call.
 */
#ifndef DVSM_SYNC_WORD_LOCK_H
#define DVSM_SYNC_WORD_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "sync/process.h"

#define WORD_LOCK_OWNER_DIED ((uint32_t)0x40000000)

/* As in linux/futex.h; there the list's entries are circular. */
struct word_lock_list {
    void *list;
    long futex_offset;
    void *list_op_pending;
};

/* What a thread knows of itself. */
struct word_lock_self {
    uint32_t tid;
    uint32_t process; /* *process_number when this was looked up; 0: never */
};

extern __thread struct word_lock_self word_lock_self
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* From word_lock_self to the thread's list; 0: not known, and no word lock is ever taken. */
extern intptr_t word_lock_distance __attribute__((visibility("hidden")));

/* Finds word_lock_distance, once; may be called before there is a heap. */
void word_lock_start(void);

/* The list of a thread that is ready: see word_lock_is_ready(). */
static inline struct word_lock_list *word_lock_own_list(void)
{
    return (struct word_lock_list *)((uintptr_t)&word_lock_self + (uintptr_t)word_lock_distance);
}

/* The calling thread's list; NULL: not known. */
static inline struct word_lock_list *word_lock_head(void)
{
    return likely(word_lock_distance != 0) ? word_lock_own_list() : NULL;
}

/* Whether the thread knows itself: then word_lock_self is filled in, and its list is known. */
static inline bool word_lock_is_ready(void)
{
    return likely(process_number != NULL) && likely(word_lock_self.process == *process_number) &&
           likely(word_lock_self.process != 0);
}

/* Fills in word_lock_self. False: word locks cannot be taken here. */
bool word_lock_look_up(void);

static inline bool word_lock_get_ready(void)
{
    return word_lock_is_ready() || (process_number != NULL && word_lock_look_up());
}

/* Only for a thread that is ready. False: another holder has the lock. `former` is for
 * word_lock_release(). */
static inline bool word_lock_take(uint32_t *lock, void **former)
{
    struct word_lock_list *head = word_lock_own_list();
    uint32_t expected = 0;

    *former = head->list_op_pending;
    head->list_op_pending = (char *)lock - head->futex_offset;
    compiler_barrier();
    if (likely(__atomic_compare_exchange_n(lock, &expected, word_lock_self.tid, false,
                                           __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
        return true;
    if (expected == WORD_LOCK_OWNER_DIED &&
        __atomic_compare_exchange_n(lock, &expected, word_lock_self.tid, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED))
        return true;
    compiler_barrier();
    head->list_op_pending = *former;
    return false;
}

/* The same for any thread. False, too: word locks cannot be taken here. */
static inline bool word_lock_acquire(uint32_t *lock, void **former)
{
    return word_lock_get_ready() && word_lock_take(lock, former);
}

static inline void word_lock_release(uint32_t *lock, void *former)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
    compiler_barrier();
    word_lock_own_list()->list_op_pending = former;
}

#endif
