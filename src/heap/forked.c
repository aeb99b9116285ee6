/* forked.c - a child of a fork() in a signal handler that interrupted a call which holds locks.
 *
 * The child has a copy of the interrupted call, too. If that call went on, it would change what the
 * parent's call is just changing, under locks that are the parent's. So in such a child the heaps
 * are made read-only before fork() returns. The child may exec or exit. If it does anything else to
 * a heap, or the interrupted call goes on, it is ended with a message before anything is changed.
 *
 * NB: this works by the C library's fork handlers, which _Fork() does not call.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "heap/heap.h"
#include "sync/word_lock.h"

/* What SIGSEGV did before; set in such a child. */
static struct sigaction former;

static void stop(int number, siginfo_t *info, void *context)
{
    static const char text[] =
        "dvsm: this process was forked by a signal handler that interrupted a call of "
        "this library; it can exec or exit, but not use a heap\n";

    (void)number, (void)context;
    if (heap_of(info->si_addr) == NULL) { /* the program's own fault: let it happen again */
        sigaction(SIGSEGV, &former, NULL);
        return;
    }
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    abort();
}

/* Whether the robust list names a heap's lock as pending: one that is being taken or left, or a
 * lock held so briefly that only this entry names it (word_lock.h). */
static bool names_a_lock(void)
{
    const struct word_lock_list *head = word_lock_head();

    return head != NULL && head->list_op_pending != NULL && heap_of(head->list_op_pending) != NULL;
}

static void protect(struct dvsm_heap *heap)
{
    mprotect(heap->mapping.base, heap->mapping.bytes, PROT_READ);
}

static void in_child(void)
{
    struct sigaction action = {.sa_sigaction = stop, .sa_flags = SA_SIGINFO | SA_NODEFER};

    if (!lock_holds_any() && !names_a_lock())
        return;
    lock_forget();
    registry_each(protect);
    sigaction(SIGSEGV, &action, &former);
}

void heap_watch_forks(void)
{
    static atomic_flag watched = ATOMIC_FLAG_INIT;

    if (!atomic_flag_test_and_set(&watched))
        pthread_atfork(NULL, NULL, in_child);
}
