/* cpu.c - binding a thread. */
#define _GNU_SOURCE
#include "support/cpu.h"

#include <sched.h>

bool cpu_go_to(size_t cpu)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
}

int cpu_stay(void **state)
{
    int cpu = sched_getcpu();

    (void)state;
    return cpu >= 0 && cpu_go_to((size_t)cpu) ? 0 : -1;
}
