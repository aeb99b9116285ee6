/* roots.h - the names by which processes find their data in a heap.
 *
 * A table of up to ROOTS_MOST entries, each a name and an address:
 *
 *     entry   | state | value | name, 48 bytes, the rest zeros |
 *
 * An entry is in use while its state is odd. A new one is written whole before its state becomes
 * odd; a value changes by one store; a root that is removed makes its state even again, by one
 * store, and the entry can get another name. So a writer that is killed leaves the table as it was
 * or as it was to be, and there is nothing to repair. Readers take no lock: they read the state,
 * the name and the value, and the state once more, which grows with each change of the name.
 *
 * Writers hold the table's lock. Whoever makes a root that does not exist yet (heap_root_made())
 * holds the makers' lock while the program's own function runs; others that want a root made wait,
 * unless the maker dies.
 *
 * The table's pages are committed as they are needed.
 */
#ifndef DVSM_HEAP_ROOTS_H
#define DVSM_HEAP_ROOTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"
#include "base/compiler.h"
#include "segment/segment.h"
#include "sync/lock.h"

enum { ROOTS_MOST = 1024, ROOT_NAME = 48 };

struct root {
    word state, value;
    word name[ROOT_NAME / WORD];
};

/* In the region. */
struct root_table {
    struct lock lock;
    struct lock makers;
    struct root *roots;
    size_t committed;  /* bytes of them that have memory; the granule map's to change */
    size_t used;       /* entries that were ever in use; grows only, read without the lock */
    size_t recovering; /* 1: the lock's holder died, and the map is not settled yet */
};

/* Bytes of address space for all entries, whole pages. */
size_t roots_most_bytes(void);

/* Makes an empty table; nothing of `roots` is committed yet. 0 or an errno value. */
int roots_init(struct root_table *table, struct root *roots);

/* A name as entries have it. False: it is empty or too long. */
struct root_name {
    word words[ROOT_NAME / WORD];
};
bool roots_read_name(const char *text, struct root_name *name);

/* Whether there is a root of that name, and its value. */
bool roots_find(const struct root_table *table, const struct root_name *name, word *value);

/* Gives the root of that name the value; 0: removes it. *former: what it was, 0 if there was none.
 * Returns 0 or an errno value: ENOSPC, ENOMEM, EDEADLK (the caller is a signal handler that
 * interrupted such a call). */
int roots_exchange(struct root_table *table, struct segments *segments,
                   const struct root_name *name, word value, word *former);

/* The same unless there is a root of that name already: then only *former says what it is. */
int roots_add(struct root_table *table, struct segments *segments, const struct root_name *name,
              word value, word *former);

/* Takes over the locks of holders that died. */
void roots_settle(struct root_table *table, struct segments *segments);

/* Checks every entry. The table is not locked: a change may be under way. */
void roots_check(const struct root_table *table, struct check *check);

#endif
