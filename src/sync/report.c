/* report.c - faults kept for a thread, the handler, the line on stderr. */
#define _GNU_SOURCE
#include "sync/report.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINE = 512 }; /* the longest label of a heap, 255 bytes, and as much again */

static _Atomic(fault_handler) current_handler;

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

/* Appends as much of the text as there is room for; returns the new end. */
static size_t add(char *line, size_t at, const char *text)
{
    while (*text != '\0' && at < LINE - 1)
        line[at++] = *text++;
    return at;
}

/* As printf's %p. */
static size_t add_address(char *line, size_t at, const void *address)
{
    char digits[2 * sizeof(uintptr_t) + 1];
    size_t first = sizeof digits - 1;

    digits[first] = '\0';
    for (uintptr_t left = (uintptr_t)address; left != 0; left /= 16)
        digits[--first] = "0123456789abcdef"[left % 16];
    if (address == NULL)
        return add(line, at, "(nil)");
    return add(line, add(line, at, "0x"), digits + first);
}

/* Makes one write and uses no stdio, which needs a stack of its own: the heap may be the very thing
 * that is broken. Calls syscall(), since write() is a cancellation point: a thread to be cancelled
 * would end there, and the fault would be lost. A line that is cut also ends with a newline. */
static _Noreturn void print_and_abort(const struct fault_report *report)
{
    char line[LINE];
    size_t bytes = add(line, 0, "dvsm: ");

    bytes = add(line, add(line, bytes, report->function), ": ");
    bytes = add(line, add(line, bytes, report->what), " at ");
    bytes = add(line, add_address(line, bytes, report->address), " (heap ");
    bytes = add(line, add(line, bytes, report->heap), ")\n");
    line[bytes - 1] = '\n';
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
