/* exchange.c - blocks that come and go. */
#define _GNU_SOURCE
#include "support/exchange.h"

#include "support/clock.h"

size_t exchange_size(unsigned i)
{
    static const size_t sizes[] = {40, 300, 3000, 40000, 100000, 300000};

    return sizes[i % 6];
}

bool exchange_block(struct exchange *e)
{
    e->random = e->random * 1103515245 + 12345;

    unsigned i = (e->random >> 8) % e->blocks;
    double start = clock_ns(CLOCK_MONOTONIC);

    dvsm_free(e->block[i]);
    e->block[i] = dvsm_heap_malloc(e->heap, exchange_size(e->random >> 16));
    double took = (clock_ns(CLOCK_MONOTONIC) - start) / 1e6;
    e->longest = took > e->longest ? took : e->longest;
    e->slow += took > e->bar_ms;
    e->calls++;
    return e->block[i] != NULL;
}
