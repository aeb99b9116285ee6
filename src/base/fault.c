/* fault.c - recording and reporting of faults. */
#define _GNU_SOURCE
#include "base/fault.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE = 512 }; /* the longest label of a heap, 255 bytes, and as much again */

static _Atomic(fault_handler) current_handler;

bool fault_raise(struct fault *fault, enum fault_kind kind, const char *what, const void *address)
{
    if (fault->kind == FAULT_NONE)
        *fault = (struct fault){kind, what, address};
    return false;
}

__thread struct fault fault_noted;

void fault_note(const char *what, const void *address)
{
    fault_raise(&fault_noted, FAULT_DAMAGE, what, address);
}

bool fault_take_noted(struct fault *fault)
{
    if (fault_noted.kind == FAULT_NONE)
        return false;
    *fault = fault_noted;
    fault_noted.kind = FAULT_NONE;
    return true;
}

fault_handler fault_set_handler(fault_handler handler)
{
    return atomic_exchange(&current_handler, handler);
}

/* One write and no stdio buffer: the heap may be the very thing that is broken. By syscall(), since
 * write() is a cancellation point: a thread that is to end would end there, and the fault be forgotten.
 * A line that is cut ends as one, too. */
static _Noreturn void print_and_abort(const struct fault_report *report)
{
    char line[LINE];
    int length = snprintf(line, sizeof line, "dvsm: %s: %s at %p (heap %s)\n", report->function,
                          report->what, report->address, report->heap);
    size_t bytes = length < 0 ? 0 : (size_t)length;

    if (bytes >= sizeof line) {
        bytes = sizeof line - 1;
        line[bytes - 1] = '\n';
    }
    syscall(SYS_write, STDERR_FILENO, line, bytes);
    abort();
}

void fault_report(const struct fault *fault, const char *heap, const char *function)
{
    struct fault_report report = {fault->what, fault->address, heap, function};
    fault_handler handler = atomic_load(&current_handler);

    if (handler == NULL)
        print_and_abort(&report);
    handler(&report);
}
