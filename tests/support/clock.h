/* support/clock.h - the time by one of the system's clocks. */
#ifndef DVSM_TESTS_SUPPORT_CLOCK_H
#define DVSM_TESTS_SUPPORT_CLOCK_H

#include <time.h>

static inline double clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

#endif
