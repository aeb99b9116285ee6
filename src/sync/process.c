/* process.c - the page that fork wipes, and what a new process must be. */
#define _GNU_SOURCE
#include "sync/process.h"
#include "sync/page.h"

#include <errno.h>
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
__thread struct process_self process_self = {.low = UINTPTR_MAX};

/* The last number that was given, here or before the fork. */
static _Atomic(uint32_t) last_number = 1;

void process_start(void)
{
    size_t bytes = page_size();

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
    process_greet();
}

static uint32_t id_of_kernel(void)
{
    long id = syscall(SYS_gettid);

    return id > 0 ? (uint32_t)id : 0;
}

/* Reads the id that the C library writes into a mutex; makes no system call. */
static uint32_t id_of_libc(void)
{
#ifdef __GLIBC__
    pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;

    pthread_mutex_lock(&mutex);
    uint32_t id = (uint32_t)mutex.__data.__owner;
    pthread_mutex_unlock(&mutex);
    return id;
#else
    return id_of_kernel();
#endif
}

/* Whether `id` is the thread's. It is right if it differs from the id before the fork: fork() gives
 * the copied thread a new one. It is right in a new thread, whose own variables are all zero: the C
 * library set it. In all other cases the kernel is asked. One is the first thread of a process to
 * come here that never came by before: it may be new or a copy. Another is a child that by chance
 * has its parent's id, in another PID namespace. */
static bool is_right(uint32_t id)
{
    uint32_t process = process_number != NULL ? *process_number : 0;
    uint32_t former = process_self.tid;

    if (former == 0 && (process != 0 || process_number == NULL))
        return true;
    if (former != 0 && former != id && process_self.number != process)
        return true;

    uint32_t told = id_of_kernel(); /* 0: a sandbox refuses */
    return told == 0 || id == told;
}

/* NB: syscall(), since write() is a cancellation point. */
static _Noreturn void stop(void)
{
    static const char text[] =
        "dvsm: this process was made by a raw clone(): its thread's id is not "
        "known to the C library, and its death would free no lock; use fork()\n";

    syscall(SYS_write, STDERR_FILENO, text, sizeof text - 1);
    abort();
}

static void number_process(void)
{
    uint32_t expected = 0, number = atomic_fetch_add(&last_number, 1) + 1;

    if (number == 0)
        number = atomic_fetch_add(&last_number, 1) + 1;
    __atomic_compare_exchange_n(process_number, &expected, number, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED); /* another thread may have been first */
}

NOINLINE void process_greet(void)
{
    uint32_t id = id_of_libc();
    int saved = errno;

    if (!is_right(id))
        stop();
    if (process_number != NULL && *process_number == 0)
        number_process();

    uintptr_t stack = process_stack();
    uintptr_t low = stack > PROCESS_STACK_NEAR ? stack - PROCESS_STACK_NEAR : 0;
    process_self.tid = id;
    process_self.number = process_number != NULL ? *process_number : 0;
    process_self.stack = stack;
    if (process_self.low > low)
        process_self.low = low;
    errno = saved;
}
