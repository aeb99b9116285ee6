/* support/granule_backend.h - a granule map over a backend that only keeps account.
 *
 * The granules lie at addresses where nothing is mapped: the map must never touch them. The map's
 * own pages can be touched only once they are committed. A separate array has a byte for each page
 * that says whether it has memory. A call is a misuse if it commits what has memory, releases what
 * has none (but a whole granule with holes may be released), or leaves the region. Everything here
 * is shared with forked children.
 */
#ifndef DVSM_TESTS_SUPPORT_GRANULE_BACKEND_H
#define DVSM_TESTS_SUPPORT_GRANULE_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"
#include "segment/segment.h"

/* For calls of one kind: the `at`th from now on fails, and with `for_good` all after it, too. 0:
 * none. */
struct granule_plan {
    unsigned long at;
    bool for_good;
    bool kill_before; /* instead of failing, the process kills itself */
    bool kill_after;
};

struct granule_backend {
    dvsm_backend backend;
    dvsm_mapping mapping;
    struct policy policy;
    struct segments segments; /* the argument of the functions under test */
    struct granule_plan commit_plan;
    struct granule_plan release_plan;
    atomic_ulong commits;      /* calls */
    atomic_ulong releases;     /* calls */
    atomic_size_t with_memory; /* pages; see granules_with_memory() */
    size_t map_committed;      /* bytes of the map itself */
    atomic_size_t misuses;
    bool forgiving; /* what a survivor repeats of a dead process's work is no misuse */
    char *map;
    size_t map_bytes;
    size_t granules;
    size_t pages;          /* a granule */
    unsigned char *memory; /* of each page; 1: it has some */
    word holes;            /* how many there are, of all owners together */
    struct run pending[8]; /* in memory that processes share, as segment.h wants them */
};

/* A map of so many granules, without limit. Aborts the test if the system has no room. */
struct granule_backend *granule_backend_new(size_t granules);
void granule_backend_delete(struct granule_backend *b);

/* The address of a granule, by number; and back. */
char *granule_address(const struct granule_backend *b, size_t granule);
size_t granule_number(const struct granule_backend *b, const void *address);

/* The memory there is, counted in granules; whether a granule has all of its memory. */
size_t granules_with_memory(const struct granule_backend *b);
bool granule_has_memory(const struct granule_backend *b, size_t granule);

/* segment_check(), with its report on stderr; also compares the account with the map's words.
 * Returns the number of violations. */
int granule_backend_check(struct granule_backend *b);

#endif
