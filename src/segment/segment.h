/* segment.h - the granule map: who has which run of a region's granules.
 *
 * A region is handed out in granules of 64 KiB. The map has one word for each granule, in an array
 * that is as long as the region could need and committed only as far as granules have ever been
 * used:
 *
 *     free run:   first granule FREE|FIRST|length ... last granule FREE|length; words between:
 * COMMITTED bit only taken run:  TAKEN|owner in every granule (an arena's segments), or in the
 * first, with the length, and in the last (a large block). What stands between is never read.
 *     COMMITTED   in any word: the granule has memory behind it
 *
 * Above it stands an index, a tree of maxima: each node is the longest free run that *begins* below
 * it, 16 children a node, so the lowest run of at least n granules is found, and a change is
 * carried up, in at most seven steps, in a region of up to 2^44 bytes and more. Granules from
 * `used` on have never been needed or were given back: they are one free run that needs no words.
 * The granule before `used` is never free.
 *
 * Taking reserves (segment_take, under the map's lock), then commits (segment_commit, without it:
 * the run is the taker's). Giving back keeps the memory committed up to `retain` granules in all,
 * and releases above that. Commit before use: a full file system is an error here, never a SIGBUS
 * later.
 *
 * Locks: every function takes the map's own lock, the innermost one, but segment_owner(), which
 * reads one word. The caller's run is named in `pending`, words in the region, changed by the same
 * journaled change as the map: a survivor that finds it set calls segment_give().
 */
#ifndef DVSM_SEGMENT_SEGMENT_H
#define DVSM_SEGMENT_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"
#include "base/journal.h"
#include "base/lock.h"
#include "base/run.h"
#include "dvsm/backend.h"

enum { GRANULE_SHIFT = 16, SEGMENT_LEVELS_MOST = 9 };
#define GRANULE ((size_t)1 << GRANULE_SHIFT)

/* Who has a granule: numbers the map's user gives out; 0 is nobody. */
typedef unsigned segment_owner_id;
#define SEGMENT_OWNER_MOST 4095u

/* How a run is marked: see above. */
enum segment_kind { SEGMENT_WHOLE, SEGMENT_LARGE };

struct segment_map; /* in the region; fields in segment_map.h, for this folder and its tests */

/* What a process needs to work on a map. Private to the process. */
struct segments {
    struct segment_map *map;
    const struct dvsm_backend *backend;
    const dvsm_mapping *mapping;
};

/* Bytes of address space that the map of `granules` granules takes, a multiple of the page size,
 * and how many of them must be committed before segment_init(). */
size_t segment_map_bytes(size_t granules);
size_t segment_map_committed_bytes(void);

/* Makes the map at `place` (page aligned) for the granules at `base` (granule aligned); all are
 * free, none committed. `limit`: bytes that may be committed. 0 or an errno value. */
int segment_init(void *place, void *base, size_t granules, size_t limit);

/* The lowest free run of `bytes`, a multiple of GRANULE; not yet committed. `pending` is empty
 * before, set after. */
bool segment_take(struct segments *s, segment_owner_id owner, enum segment_kind kind,
                  size_t granules, struct run *pending);

/* Just the granules from `first` on. */
bool segment_take_at(struct segments *s, segment_owner_id owner, enum segment_kind kind,
                     size_t first, size_t granules, struct run *pending);

/* Puts memory behind every granule of the caller's run and, for SEGMENT_WHOLE, the owner's mark.
 * False where memory is short: then the run is still the caller's, to be given back. */
bool segment_commit(struct segments *s, segment_owner_id owner, enum segment_kind kind,
                    struct run run);

/* For a large block that is now `run`, after growing or before shrinking in place: marks it as one.
 */
void segment_mark_large(struct segments *s, segment_owner_id owner, struct run run);

/* Gives back the pending run, all but `keep`, a part of it that stays pending (count 0: nothing).
 */
void segment_give(struct segments *s, struct run *pending, struct run keep);

/* Releases memory of free granules until at most `keep` bytes of them are committed; bytes
 * released. */
size_t segment_release(struct segments *s, size_t keep);

/* The owner of the granule at `address`, 0 for nobody; `kind` may be NULL. O(1), takes no lock:
 * right for an address in a block that stays allocated during the call. For SEGMENT_LARGE only the
 * first granule has an owner; `run` (may be NULL) gets it. */
segment_owner_id segment_owner(const struct segment_map *map, const void *address,
                               enum segment_kind *kind, struct run *run);

struct segment_usage {
    size_t committed; /* bytes: taken or retained */
    size_t committed_most;
    size_t retained; /* bytes: free but committed */
    size_t used;     /* bytes: up to the end of the last run taken */
    size_t limit;
};
void segment_usage(struct segments *s, struct segment_usage *usage);
size_t segment_set_limit(struct segments *s, size_t bytes);
void segment_set_retain(struct segments *s, size_t bytes);

void *segment_address(const struct segment_map *map, size_t granule);
size_t segment_granule(const struct segment_map *map, const void *address);

/* Each run from the lowest on, free ones included (owner 0), while the lock is held; adjacent
 * granules of one owner, SEGMENT_WHOLE, are one run. */
typedef void (*segment_visit)(void *context, struct run run, segment_owner_id owner,
                              enum segment_kind kind);
void segment_walk(struct segments *s, segment_visit visit, void *context);

/* Every invariant above; takes the lock. */
void segment_check(struct segments *s, struct check *check);

#endif
