/* journal.h - an undo log that makes a change to shared metadata atomic against SIGKILL.
 *
 * A thread that changes what processes share holds a lock and writes every word through the journal
 * beside that lock: first the pair (address, old value), then the count, then the word itself. If
 * the process is killed, at any instruction, the next holder of the lock restores the state before
 * the change from the journal. It need not know what was being done:
 *
 *     journal_store(j, &c->head, size);     any number of these, up to JOURNAL_CAPACITY,
 *     journal_commit(j);                    and the change stands; or
 *     journal_roll_back(j);                 and it never was
 *
 * Only the order of the three stores matters, and only the compiler could break it. If the process
 * is killed between count and store, the roll back writes a value that is there already. Rolling
 * back can be interrupted and repeated. NB: what nothing reads after a roll back (bytes inside a
 * free chunk, or inside one just cut) need not be journaled; everything else must be.
 *
 * A journal that a dead process left may have been overwritten, by accident or not.
 * journal_recover() stores nothing unless each word that the journal names is one that the lock's
 * holder could have changed.
 */
#ifndef DVSM_BASE_JOURNAL_H
#define DVSM_BASE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"
#include "base/plant.h"

/* The change that needs the most entries: an arena takes a new segment, the old top goes to a tree,
 * and the new chunk is cut in two (tests/unit/test_arena_growth.c makes it). */
enum { JOURNAL_CAPACITY = 64, JOURNAL_MOST_SEEN = 43 };

/* A lock of which there are many has a shorter journal, and only changes that fit into it: see
 * struct short_journal. */
enum { JOURNAL_SHORT_CAPACITY = 20, JOURNAL_SHORT_MOST_SEEN = 16 };
_Static_assert(JOURNAL_MOST_SEEN <= JOURNAL_CAPACITY, "every change fits into the journal");

struct journal_entry {
    word *address;
    word old;
};

struct journal {
    volatile size_t count;
    struct journal_entry entry[JOURNAL_CAPACITY];
};

/* Room for a journal of fewer entries; worked on as a struct journal. */
struct short_journal {
    volatile size_t count;
    struct journal_entry entry[JOURNAL_SHORT_CAPACITY];
};
_Static_assert(JOURNAL_SHORT_MOST_SEEN <= JOURNAL_SHORT_CAPACITY, "every change of a depot fits");

/* Stores `value`, a word or a pointer, in *field, a word-sized object in memory that the lock
 * guards. */
#define journal_store(j, field, value) journal_store_within(j, JOURNAL_CAPACITY, field, value)

/* The same for a journal of `capacity` entries. */
#define journal_store_within(j, capacity, field, value)                                            \
    do {                                                                                           \
        _Static_assert(sizeof *(field) == WORD, "the journal logs whole words");                   \
        journal_store_word((j), (capacity), (word *)(field), (word)(value));                       \
    } while (0)

/* A change that does not fit ends the process before it overwrites what lies behind the journal,
 * with a message. Whoever comes next undoes what was done so far. */
_Noreturn void journal_overflow(void);

#ifndef NDEBUG
extern size_t journal_most_entries; /* of this process since its start: for tests */
#endif

static inline void journal_store_word(struct journal *j, size_t capacity, word *field, word value)
{
    size_t n = j->count;

    if (unlikely(n >= capacity))
        journal_overflow();
    j->entry[n].address = field;
    j->entry[n].old = *field;
    compiler_barrier();
    if (!PLANTED(COUNT_AFTER_STORE))
        __atomic_store_n(&j->count, n + 1, __ATOMIC_RELAXED); /* some look without the lock */
    compiler_barrier();
    __atomic_store_n(field, value, __ATOMIC_RELAXED); /* some words are read without the lock */
    compiler_barrier();
    if (PLANTED(COUNT_AFTER_STORE))
        j->count = n + 1;
#ifndef NDEBUG
    if (n + 1 > __atomic_load_n(&journal_most_entries, __ATOMIC_RELAXED))
        __atomic_store_n(&journal_most_entries, n + 1, __ATOMIC_RELAXED);
#endif
}

static inline void journal_commit(struct journal *j)
{
    compiler_barrier();
    __atomic_store_n(&j->count, 0, __ATOMIC_RELAXED);
    compiler_barrier();
}

static inline bool journal_is_empty(const struct journal *j)
{
    return j->count == 0;
}

/* Undoes a change that the caller itself made: puts every logged word back, the last one first. */
void journal_roll_back(struct journal *j);

/* What a lock guards: journal_recover() asks this instead of trusting a dead process. */
struct journal_guard {
    /* Whether a change may store to that word: the lock guards the word, and the word lies in
     * memory that is there. The answer is the same before, during and after the roll back. */
    bool (*guards)(const struct journal_guard *guard, const word *address);
    /* Whether that word, after the roll back, has a value that it may have; NULL: nobody can
     * tell. */
    bool (*is_sound)(const struct journal_guard *guard, const word *address);
    size_t capacity; /* of its journal, in entries; 0: JOURNAL_CAPACITY */
};

/* Undoes a change that a dead process left. False: the journal is damaged, and is left as it was.
 * If it counts more entries than it can hold, or names a word that the lock does not guard, nothing
 * was stored. Otherwise what the lock guards has values that it cannot have, and must not be used.
 * `guard` NULL: everything in the journal is trusted. */
bool journal_recover(struct journal *j, const struct journal_guard *guard);

#endif
