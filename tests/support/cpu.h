/* support/cpu.h - which CPU the calling thread runs on: it decides which lane and which arena serve
 * it. */
#ifndef DVSM_TESTS_SUPPORT_CPU_H
#define DVSM_TESTS_SUPPORT_CPU_H

#include <stdbool.h>
#include <stddef.h>

/* From now on that one only; false: it is not to be had. */
bool cpu_go_to(size_t cpu);

/* A CMocka set-up: from now on the one that the thread is on. */
int cpu_stay(void **state);

#endif
