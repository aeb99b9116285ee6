/* program.c - executing the test's own program. */
#define _GNU_SOURCE
#include "support/program.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARGUMENTS_MOST = 8 };
static const char mark[] = "--program";

bool program_is_asked_for(int argc, char **argv)
{
    return argc > 2 && strcmp(argv[1], mark) == 0;
}

int program_run(const struct program *programs, size_t count, char **argv)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(programs[i].name, argv[2]) == 0)
            return programs[i].work(argv + 3);
    fprintf(stderr, "no program %s\n", argv[2]);
    return 1;
}

static int execute(void *context)
{
    execv("/proc/self/exe", context);
    perror("execv");
    return 1;
}

static pid_t start(const char *name, va_list more)
{
    char *arguments[ARGUMENTS_MOST + 4] = {"test", (char *)(uintptr_t)mark,
                                           (char *)(uintptr_t)name};
    size_t n = 3;

    while (n < ARGUMENTS_MOST + 3 && (arguments[n] = va_arg(more, char *)) != NULL)
        n++;
    return start_child(execute, arguments);
}

pid_t start_program(const char *name, ...)
{
    va_list more;

    va_start(more, name);
    pid_t child = start(name, more);
    va_end(more);
    return child;
}

int run_program(const char *name, ...)
{
    va_list more;

    va_start(more, name);
    pid_t child = start(name, more);
    va_end(more);
    return wait_for_child(child);
}
