/* random.c - splitmix64 (Sebastiano Vigna, public domain), and where seeds come from. */
#define _GNU_SOURCE
#include "support/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_seed(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000003 + (uint64_t)now.tv_nsec + (uint64_t)getpid();
}

static const char *given(int argc, char **argv, int index, const char *variable)
{
    return argc > index ? argv[index] : getenv(variable);
}

struct random_run random_run_from(int argc, char **argv, unsigned long operations)
{
    const char *seed = given(argc, argv, 1, "DVSM_TEST_SEED");
    const char *count = given(argc, argv, 2, "DVSM_TEST_OPERATIONS");
    struct random_run run = {
        .seed = seed != NULL ? strtoull(seed, NULL, 0) : clock_seed(),
        .operations = count != NULL ? strtoul(count, NULL, 0) : operations,
    };

    printf("seed %" PRIu64 ", %lu operations\n", run.seed, run.operations);
    fflush(stdout);
    return run;
}

uint64_t random_next(struct random_source *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

size_t random_below(struct random_source *random, size_t n)
{
    return (size_t)(random_next(random) % n);
}

bool random_once_in(struct random_source *random, size_t n)
{
    return random_below(random, n) == 0;
}

size_t random_size(struct random_source *random, size_t most)
{
    size_t doublings = 0;

    while (most >> doublings > 1)
        doublings++;

    size_t bound = (size_t)1 << random_below(random, doublings + 1);
    size_t size = bound + random_below(random, bound);

    return size < most ? size : most;
}
