/* run.h - a piece of address space on its way from one owner to another. */
#ifndef DVSM_BASE_RUN_H
#define DVSM_BASE_RUN_H

#include <stddef.h>

struct run {
    char *start;
    size_t bytes; /* 0: none */
};

/* What the owner wants it for. */
enum run_kind {
    RUN_SEGMENT,   /* part of an arena: any address in it may lie in a block */
    RUN_LARGE,     /* one large block, whose header lies in the run's first granule */
    RUN_LARGE_TAIL /* more of the large block that ends where this run begins */
};

/* Where a run must lie, if not just at the lowest place. Both are multiples of the unit; 0: does
 * not matter. */
struct run_place {
    size_t alignment; /* a power of two: one unit behind the run's start is a multiple of it */
    size_t room;      /* bytes behind the run that stay free, unless somebody takes them */
};

#endif
