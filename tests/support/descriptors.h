/* support/descriptors.h - how many of a process's descriptors are open. */
#ifndef DVSM_TESTS_SUPPORT_DESCRIPTORS_H
#define DVSM_TESTS_SUPPORT_DESCRIPTORS_H

#include <fcntl.h>

enum { DESCRIPTORS_LOOKED_AT = 256 };

static inline int open_fds_below(int end)
{
    int open = 0;

    for (int fd = 0; fd < end; fd++)
        open += fcntl(fd, F_GETFD) >= 0;
    return open;
}

static inline int open_fds(void)
{
    return open_fds_below(DESCRIPTORS_LOOKED_AT);
}

#endif
