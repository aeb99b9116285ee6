/* journal.h - an undo log that makes a change to shared metadata atomic against SIGKILL.
 *
 * Whoever changes what processes share holds a lock and writes every word through the journal that
 * stands beside that lock: first the pair (address, old value), then the count, then the word
 * itself. Killed at any instruction, the process leaves a journal from which the next holder of the
 * lock restores the state before the change, knowing nothing of what was being done:
 *
 *     journal_store(j, &c->head, size);     any number of these, up to JOURNAL_CAPACITY,
 *     journal_commit(j);                    and the change stands; or
 *     journal_roll_back(j);                 and it never was
 *
 * The order of the three stores is all that matters, and only the compiler could break it. Killed
 * between count and store, the roll back writes a value that is there already. Rolling back can be
 * interrupted and repeated. NB: what nothing reads after a roll back (bytes inside a free chunk, or
 * inside one just cut) need not be journaled; everything else must be.
 */
#ifndef DVSM_BASE_JOURNAL_H
#define DVSM_BASE_JOURNAL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"

/* The change that needs most: an arena takes a new segment, the old top goes to a tree, and the new
 * chunk is cut in two (tests/unit/test_arena_growth.c makes it). */
enum { JOURNAL_CAPACITY = 64, JOURNAL_MOST_SEEN = 43 };
_Static_assert(JOURNAL_MOST_SEEN <= JOURNAL_CAPACITY, "every change fits into the journal");

struct journal_entry {
    word *address;
    word old;
};

struct journal {
    volatile size_t count;
    struct journal_entry entry[JOURNAL_CAPACITY];
};

/* Stores `value`, a word or a pointer, in *field, a word-sized object in memory that the lock
 * guards. */
#define journal_store(j, field, value)                                                             \
    do {                                                                                           \
        _Static_assert(sizeof *(field) == WORD, "the journal logs whole words");                   \
        journal_store_word((j), (word *)(field), (word)(value));                                   \
    } while (0)

#ifndef NDEBUG
extern size_t journal_most_entries; /* of this process since its start: for tests */
#endif

static inline void journal_store_word(struct journal *j, word *field, word value)
{
    size_t n = j->count;

    assert(n < JOURNAL_CAPACITY);
    j->entry[n].address = field;
    j->entry[n].old = *field;
    compiler_barrier();
    if (!PLANTED(1))
        j->count = n + 1;
    compiler_barrier();
    __atomic_store_n(field, value, __ATOMIC_RELAXED); /* some words are read without the lock */
    compiler_barrier();
    if (PLANTED(1))
        j->count = n + 1;
#ifndef NDEBUG
    if (n + 1 > __atomic_load_n(&journal_most_entries, __ATOMIC_RELAXED))
        __atomic_store_n(&journal_most_entries, n + 1, __ATOMIC_RELAXED);
#endif
}

static inline void journal_commit(struct journal *j)
{
    compiler_barrier();
    j->count = 0;
    compiler_barrier();
}

static inline bool journal_is_empty(const struct journal *j)
{
    return j->count == 0;
}

/* Puts every logged word back, the last one first. */
void journal_roll_back(struct journal *j);

#endif
