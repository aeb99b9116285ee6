/* tsan.h - a program's ThreadSanitizer, where it is in the program and not in this library.
 *
 * It sees the locks, since it is what calls to the C library go to, but no atomic access of ours.
 * So it reports a race where one thread gets a block that another freed, unless both had the same
 * lock or it is told. NB: never tell it of the address of a lock: when the lock is released, what
 * was noted there is forgotten.
 */
#ifndef DVSM_BASE_TSAN_H
#define DVSM_BASE_TSAN_H

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

/* What the thread did until tsan_release() comes before what another does after tsan_acquire() of
 * the same address. */
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
