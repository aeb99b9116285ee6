/* survive.h - what a survivor does with a heap in which others died, and what must hold then. */
#ifndef DVSM_TESTS_CRASH_SURVIVE_H
#define DVSM_TESTS_CRASH_SURVIVE_H

/* What the survivor does first, which decides which lock of the dead it meets first. */
enum variant {
    CHECK_FIRST,
    MALLOC_FIRST,
    FREE_FIRST,
    TRIM_FIRST,
    LARGE_FIRST,
    WALK_FIRST,
    VARIANTS
};

/* All of the survivor's work: the account, allocating, freeing, exchanging magazines, trimming,
 * and in the end freeing all that is left. Afterwards the ledger is as before, the heap is not. */
void survive(enum variant variant);

/* Only the account: every byte is free, cached, the allocator's own, or in a block that the ledger
 * knows. */
void account(void);

/* The first thing that the variant says, for a survivor that may die in it. */
void touch_first(enum variant variant);

#endif
