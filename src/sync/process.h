/* process.h - noticing, without a fork handler, that this is a new process, and whether the C
 * library knows it.
 *
 * Robust locks hold the thread's id as the C library knows it. In a child made by a raw clone(),
 * the C library still has the parent's id, so the child's death would free no lock. Such a child is
 * stopped, with a message, where it first comes to a lock:
 *
 *   - A copy of the process: a page that the kernel wipes in every process made by copying
 *     (MADV_WIPEONFORK) holds the process's number; 0 means that nobody has looked yet. The copied
 *     thread still has an ancestor's number. fork() gave it a new id; a raw clone() left the old
 *     one.
 *   - One that shares the memory (CLONE_VM without CLONE_THREAD) shares that page, too, and even
 *     the thread's own variables; but it must run on another stack. So the id is checked when a
 *     thread comes from a stack address far from the one before. The fast path, which takes no
 *     lock, only notices a stack below every stack seen of the thread so far: mmap puts a newer
 *     stack there.
 *
 * The kernel is asked only in doubt. Neither a child of fork nor a new thread needs a system call
 * here, unless the thread that forked had not come by before.
 */
#ifndef DVSM_SYNC_PROCESS_H
#define DVSM_SYNC_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

/* NULL: the system cannot wipe pages (before Linux 4.14), or there was no memory. */
extern volatile uint32_t *process_number __attribute__((visibility("hidden")));

/* What was seen of the calling thread when it last came by; a child has its parent's. */
struct process_self {
    uint32_t tid;    /* 0: never */
    uint32_t number; /* the process's */
    uintptr_t stack; /* about where on its stack it was */
    uintptr_t
        low; /* PROCESS_STACK_NEAR below the lowest such place; UINTPTR_MAX: it never came by */
};
extern __thread struct process_self process_self
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

enum { PROCESS_STACK_NEAR = 256 << 10 };

/* Makes the page, unless it is there. */
void process_start(void);

/* Called in doubt: checks that the thread has the id that the C library believes, or stops the
 * process. A new process gets a number that none of its ancestors had: a fresh number keeps the
 * forked thread's cached one from matching. Leaves errno alone. */
void process_greet(void);

static inline uintptr_t process_stack(void)
{
    return (uintptr_t)__builtin_frame_address(0);
}

/* NB: asking for the frame's address would make the compiler set up a frame. */
static inline __attribute__((always_inline)) bool process_is_below(void)
{
#if defined __x86_64__ && defined __LP64__
    bool below;

    __asm__("cmpq %[low], %%rsp" : "=@ccb"(below) : [low] "m"(process_self.low));
    return unlikely(below);
#else
    return unlikely(process_stack() < process_self.low);
#endif
}

static inline bool process_is_in_doubt(void)
{
    if (unlikely(process_number == NULL))
        return false;
    return unlikely(process_self.number != *process_number || process_self.number == 0 ||
                    process_stack() - process_self.stack + PROCESS_STACK_NEAR >
                        2 * (uintptr_t)PROCESS_STACK_NEAR);
}

#endif
