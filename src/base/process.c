/* process.c - the page that fork wipes, and what a new process must be. */
#define _GNU_SOURCE
#include "base/process.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux 4.14. */
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

volatile uint32_t *process_number;

/* The last number that was given, here or before the fork. */
static _Atomic(uint32_t) last_number = 1;

void process_start(void)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);

    if (process_number != NULL)
        return;
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    if (madvise(page, bytes, MADV_WIPEONFORK) != 0) {
        munmap(page, bytes);
        return;
    }
    *(volatile uint32_t *)page = last_number;
    process_number = page;
}

/* Whether the C library takes the calling thread for the one that it is. What it writes into a mutex
 * tells. */
static bool is_known_to_libc(void)
{
#ifdef __GLIBC__
    pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;

    pthread_mutex_lock(&mutex);
    bool known = mutex.__data.__owner == (int)syscall(SYS_gettid);
    pthread_mutex_unlock(&mutex);
    return known;
#else
    return true;
#endif
}

NOINLINE void process_greet(void)
{
    static const char text[] =
        "dvsm: this process was made by a raw clone(): its thread's id is not "
        "known to the C library, and its death would free no lock; use fork()\n";

    if (!is_known_to_libc()) {
        ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
        (void)ignored;
        abort();
    }
    uint32_t expected = 0, number = atomic_fetch_add(&last_number, 1) + 1;
    if (number == 0)
        number = atomic_fetch_add(&last_number, 1) + 1;
    __atomic_compare_exchange_n(process_number, &expected, number, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED); /* another thread may have been first */
}
