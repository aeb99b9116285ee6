/* check.c - counting violations. */
#include "base/check.h"

#include <stdarg.h>

enum { REPORTED_AT_MOST = 100 };

bool check_that(struct check *check, bool holds, const char *format, ...)
{
    va_list arguments;

    if (likely(holds))
        return true;
    check->violations++;
    if (check->report == NULL || check->violations > REPORTED_AT_MOST)
        return false;
    va_start(arguments, format);
    vfprintf(check->report, format, arguments);
    va_end(arguments);
    fputc('\n', check->report);
    return false;
}
