/* brief.c - what a thread must know of itself to take a brief lock. */
#define _GNU_SOURCE
#include "base/brief.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread struct brief_self brief_self;

/* The list belongs to the thread for as long as it lives; a child's one thread has its parent's, at
 * the same place, and fork() has told the kernel so. */
static bool know_list(void)
{
    size_t length = 0;

    if (brief_self.head != NULL)
        return true;
    if (brief_self.has_none)
        return false;
    if (syscall(SYS_get_robust_list, 0, &brief_self.head, &length) != 0 ||
        length < sizeof *brief_self.head)
        brief_self.head = NULL;
    brief_self.has_none = brief_self.head == NULL;
    return !brief_self.has_none;
}

NOINLINE bool brief_look_up(void)
{
    int saved = errno;

    if (process_is_in_doubt())
        process_greet();
    brief_self.process = 0;
    bool known = know_list();
    if (known) {
        brief_self.tid = process_self.tid;
        brief_self.process = *process_number;
    }
    errno = saved;
    return known;
}
