/* support/exchange.h - blocks of a heap that come and go at random, each exchange timed. */
#ifndef DVSM_TESTS_SUPPORT_EXCHANGE_H
#define DVSM_TESTS_SUPPORT_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>

#include "dvsm/dvsm.h"

struct exchange {
    dvsm_heap *heap;
    void **block; /* that many, each NULL or a block of the heap */
    unsigned blocks;
    unsigned random; /* the state of a generator */
    double bar_ms;   /* an exchange that takes longer is slow */
    double longest;  /* ms */
    unsigned calls, slow;
};

/* A size from 40 to 300,000 bytes. */
size_t exchange_size(unsigned i);

/* Frees one of the blocks and allocates another in its place; false: there is no memory. */
bool exchange_block(struct exchange *e);

#endif
