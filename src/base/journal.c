/* journal.c - rolling back. */
#include "base/journal.h"

#ifndef NDEBUG
size_t journal_most_entries;
#endif
#ifdef DVSM_PLANT
int dvsm_planted;
#endif

void journal_roll_back(struct journal *j)
{
    for (size_t n = j->count; n > 0; n--) {
        if (PLANTED(13))
            j->count = 0;
        const struct journal_entry *entry = &j->entry[PLANTED(2) ? j->count - n : n - 1];

        __atomic_store_n(entry->address, entry->old, __ATOMIC_RELAXED);
        compiler_barrier();
    }
    journal_commit(j);
}
