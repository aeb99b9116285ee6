/* brief.h - a lock for a few instructions. It outlives its holder, and nobody waits for it.
 *
 * One word: 0, or the thread id of its holder; the kernel puts BRIEF_OWNER_DIED there when the
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
 * kernel is asked only once (brief_start()). The thread's id is looked up at its first use in each
 * process (process.h), without a system call.
 */
#ifndef DVSM_SYNC_BRIEF_H
#define DVSM_SYNC_BRIEF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "sync/process.h"

#define BRIEF_OWNER_DIED ((uint32_t)0x40000000)

/* As in linux/futex.h; there the list's entries are circular. */
struct brief_list_head {
    void *list;
    long futex_offset;
    void *list_op_pending;
};

/* What a thread knows of itself. */
struct brief_self {
    uint32_t tid;
    uint32_t process; /* *process_number when this was looked up; 0: never */
};

extern __thread struct brief_self brief_self
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* From brief_self to the thread's list; 0: not known, and no brief lock is ever taken. */
extern intptr_t brief_distance __attribute__((visibility("hidden")));

/* Finds brief_distance, once; may be called before there is a heap. */
void brief_start(void);

/* The calling thread's list; NULL: not known. */
static inline struct brief_list_head *brief_head(void)
{
    return likely(brief_distance != 0)
               ? (struct brief_list_head *)((uintptr_t)&brief_self + (uintptr_t)brief_distance)
               : NULL;
}

/* Fills in brief_self. False: brief locks cannot be taken here. */
bool brief_look_up(void);

static inline bool brief_is_known(void)
{
    return likely(process_number != NULL) &&
           (likely(brief_self.process == *process_number && brief_self.process != 0) ||
            brief_look_up());
}

/* False: another holder has the lock, or brief locks cannot be taken here. `former` is for
 * brief_release(). */
static inline bool brief_acquire(uint32_t *lock, void **former)
{
    uint32_t expected = 0;

    if (unlikely(!brief_is_known()))
        return false;

    struct brief_list_head *head = brief_head();
    *former = head->list_op_pending;
    head->list_op_pending = (char *)lock - head->futex_offset;
    compiler_barrier();
    if (likely(__atomic_compare_exchange_n(lock, &expected, brief_self.tid, false, __ATOMIC_ACQUIRE,
                                           __ATOMIC_RELAXED)))
        return true;
    if (expected == BRIEF_OWNER_DIED &&
        __atomic_compare_exchange_n(lock, &expected, brief_self.tid, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED))
        return true;
    compiler_barrier();
    head->list_op_pending = *former;
    return false;
}

static inline void brief_release(uint32_t *lock, void *former)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
    compiler_barrier();
    brief_head()->list_op_pending = former;
}

#endif
