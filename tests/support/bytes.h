/* support/bytes.h - what a range of memory holds. */
#ifndef DVSM_TESTS_SUPPORT_BYTES_H
#define DVSM_TESTS_SUPPORT_BYTES_H

#include <stdbool.h>
#include <stddef.h>

static inline bool is_all(const void *start, int byte, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)start)[i] != (unsigned char)byte)
            return false;
    return true;
}

#endif
