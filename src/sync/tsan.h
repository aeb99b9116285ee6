/* tsan.h - ThreadSanitizer in a program, when this library was built without it.
 *
 * It sees the locks, since it intercepts calls to the C library, but it sees no atomic access of
 * ours. So it reports a race where one thread gets a block that another freed, unless both took the
 * same lock or the functions below tell it of the order. NB: never give them the address of a lock:
 * ThreadSanitizer forgets what was noted there when the lock is released.
 */
#ifndef DVSM_SYNC_TSAN_H
#define DVSM_SYNC_TSAN_H

#include <stdbool.h>
#include <stddef.h>

#if defined __SANITIZE_THREAD__
#define BUILT_WITH_TSAN 1
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
#define BUILT_WITH_TSAN 1
#endif
#endif
#ifndef BUILT_WITH_TSAN
#define BUILT_WITH_TSAN 0
#endif

extern void __tsan_init(void) __attribute__((weak));
extern void __tsan_acquire(void *address) __attribute__((weak));
extern void __tsan_release(void *address) __attribute__((weak));

static inline bool tsan_watches(void)
{
    return !BUILT_WITH_TSAN && __tsan_init != NULL;
}

/* Tells that what this thread did until tsan_release() comes before what another thread does after
 * tsan_acquire() of the same address. */
static inline void tsan_release(void *address)
{
    if (tsan_watches() && __tsan_release != NULL)
        __tsan_release(address);
}

static inline void tsan_acquire(void *address)
{
    if (tsan_watches() && __tsan_acquire != NULL)
        __tsan_acquire(address);
}

#endif
