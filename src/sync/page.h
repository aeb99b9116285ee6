/* page.h - the size of a page of memory, in bytes: a power of two. */
#ifndef DVSM_SYNC_PAGE_H
#define DVSM_SYNC_PAGE_H

#include <stddef.h>
#include <unistd.h>

static inline size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

#endif
