/* support/cpu.h - which CPU the calling thread runs on: it decides which lane and which arena serve
 * it. */
#ifndef DVSM_TESTS_SUPPORT_CPU_H
#define DVSM_TESTS_SUPPORT_CPU_H

#include <stdbool.h>
#include <stddef.h>

/* Binds the thread to that CPU; false: it cannot run there. */
bool cpu_go_to(size_t cpu);

/* A CMocka set-up: binds the thread to the CPU that it is on. */
int cpu_stay(void **state);

#endif
