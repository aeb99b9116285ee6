/* journal.c - rolling back. */
#include "base/journal.h"

#include <stdio.h>
#include <stdlib.h>

#ifndef NDEBUG
size_t journal_most_entries;
#endif
#ifdef DVSM_PLANT
enum planted dvsm_planted;
#endif

NOINLINE void journal_overflow(void)
{
    fputs("dvsm: a change needs more entries than its journal has\n", stderr);
    abort();
}

static bool may_store(const struct journal_guard *guard, const word *address)
{
    return (uintptr_t)address % WORD == 0 && address != NULL &&
           (guard == NULL || guard->guards(guard, address));
}

/* Reads the address once, so that the address checked is the address used, even if somebody still
 * writes here. */
static word *address_of(const struct journal_entry *entry)
{
    return __atomic_load_n(&entry->address, __ATOMIC_RELAXED);
}

/* False: an entry changed since it was checked. The count stays. */
static bool put_back(struct journal *j, size_t count, const struct journal_guard *guard)
{
    for (size_t n = count; n > 0; n--) {
        if (PLANTED(JOURNAL_EMPTIED_FIRST))
            j->count = 0;
        const struct journal_entry *entry =
            &j->entry[PLANTED(ROLL_BACK_FORWARDS) ? count - n : n - 1];
        word *address = address_of(entry);

        if (!may_store(guard, address))
            return false;
        __atomic_store_n(address, entry->old, __ATOMIC_RELAXED);
        compiler_barrier();
    }
    return true;
}

void journal_roll_back(struct journal *j)
{
    put_back(j, j->count, NULL);
    journal_commit(j);
}

static bool all_sound(const struct journal *j, size_t count, const struct journal_guard *guard)
{
    for (size_t i = 0; i < count; i++)
        if (!guard->is_sound(guard, address_of(&j->entry[i])))
            return false;
    return true;
}

bool journal_recover(struct journal *j, const struct journal_guard *guard)
{
    size_t capacity = guard != NULL && guard->capacity != 0 ? guard->capacity : JOURNAL_CAPACITY;
    size_t count = j->count;

    if (count > capacity)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!may_store(guard, address_of(&j->entry[i])))
            return false;
    if (!put_back(j, count, guard) ||
        (guard != NULL && guard->is_sound != NULL && !all_sound(j, count, guard)))
        return false;
    journal_commit(j);
    return true;
}
