/* survive.h - what a survivor does with a heap in which others died, and what must hold then. */
#ifndef DVSM_TESTS_CRASH_SURVIVE_H
#define DVSM_TESTS_CRASH_SURVIVE_H

/* What it does first: which lock of the dead it meets first depends on that. */
enum variant {
    CHECK_FIRST,
    MALLOC_FIRST,
    FREE_FIRST,
    TRIM_FIRST,
    LARGE_FIRST,
    WALK_FIRST,
    VARIANTS
};

/* All of it: the account, allocating, freeing, exchanging magazines, trimming, and in the end
 * freeing all that is left. The ledger is as it was afterwards, the heap is not. */
void survive(enum variant variant);

/* Only the account: every byte is free, cached, the allocator's own, or in a block that the ledger
 * knows. */
void account(void);

/* The first thing of a variant, as a survivor who may die in it. */
void touch_first(enum variant variant);

#endif
