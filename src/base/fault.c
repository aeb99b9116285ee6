/* fault.c - recording a fault. */
#include "base/fault.h"

bool fault_raise(struct fault *fault, enum fault_kind kind, const char *what, const void *address)
{
    if (fault->kind == FAULT_NONE)
        *fault = (struct fault){kind, what, address};
    return false;
}
