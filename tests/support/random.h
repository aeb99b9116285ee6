/* support/random.h - numbers for property tests, and the seed that gives the same ones again.
 *
 *     property_segment_random [seed [operations]]
 *
 * The environment may give them, too: DVSM_TEST_SEED, DVSM_TEST_OPERATIONS. Without either the seed
 * comes from the clock. The seed is always printed.
 */
#ifndef DVSM_TESTS_SUPPORT_RANDOM_H
#define DVSM_TESTS_SUPPORT_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct random_source {
    uint64_t state;
};

struct random_run {
    uint64_t seed;
    unsigned long operations;
};

/* Seed and operations as the command line says, or the environment; else a seed from the clock, and
 * `operations`, which is what suits a build without sanitizers. Prints both on stdout. */
struct random_run random_run_from(int argc, char **argv, unsigned long operations);

uint64_t random_next(struct random_source *random);

/* A number below n, which is not 0. */
size_t random_below(struct random_source *random, size_t n);

/* True once in n times. */
bool random_once_in(struct random_source *random, size_t n);

/* A size from 1 to `most`; each power of two is as likely as the next. */
size_t random_size(struct random_source *random, size_t most);

#endif
