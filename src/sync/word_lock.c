/* word_lock.c - what a thread must know of itself to take a word lock. */
#define _GNU_SOURCE
#include "sync/word_lock.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread struct word_lock_self word_lock_self;
intptr_t word_lock_distance;

/* Asks the kernel only once: a sandbox that refuses will refuse the next time, too. */
void word_lock_start(void)
{
    static bool asked;
    struct word_lock_list *head = NULL;
    int saved = errno;
    size_t length = 0;

    if (__atomic_exchange_n(&asked, true, __ATOMIC_RELAXED))
        return;
    if (syscall(SYS_get_robust_list, 0, &head, &length) == 0 && head != NULL &&
        length >= sizeof *head)
        word_lock_distance = (intptr_t)((uintptr_t)head - (uintptr_t)&word_lock_self);
    errno = saved;
}

NOINLINE bool word_lock_look_up(void)
{
    word_lock_start();
    if (word_lock_distance == 0)
        return false;
    if (process_is_in_doubt())
        process_greet();
    word_lock_self.tid = process_self.tid;
    word_lock_self.process = *process_number;
    return true;
}
