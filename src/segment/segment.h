/* segment.h - the granule map: who has which run of a region's granules.
 *
 * A region is handed out in granules of 64 KiB. The map has one word for each granule, in an array
 * as long as the region could need, committed only as far as granules have ever been used:
 *
 *     free run:    FREE|FIRST|length in the first granule, FREE|length in the last
 *     taken run:   TAKEN|owner in each granule; in those of a large block LARGE too, START in its
 *                  first
 *     CHUNKS       in a taken granule: part of a segment, so addresses in it may be chunks; set and
 *                  cleared together with TAKEN, in just those granules that are not LARGE
 *     COMMITTED    in any word: the granule has memory behind it
 *     UNSETTLED    in a word of a taken run: memory is being put there or taken away just now
 *     holes        in a word of a segment's granule: a bit for each page, set where the page's
 *                  memory was given back although the granule is COMMITTED
 *
 * Inside a free run words have only COMMITTED, if anything.
 *
 * Above it stands an index, a tree of maxima: each node is the longest free run that *begins* below
 * it, 16 children a node. So the lowest run of at least n granules is found, and a change carried
 * up, in at most seven steps in a region of 2^44 bytes. The granules from `used` on have never been
 * needed or were given back: one free run that needs no words. The granule before `used` is never
 * free.
 *
 * Taking reserves (segment_take, under the map's lock), then commits (segment_commit, without it:
 * the run is the taker's). Giving back keeps memory committed up to a retention limit and releases
 * above it. Commit before use: a full file system is an error here, never a SIGBUS later.
 *
 * Locks: every function takes the map's own lock, the innermost one, but segment_commit(),
 * segment_owner(), segment_is_hole() and segment_is_large_block(). Called by a signal handler that
 * interrupted the holder of the lock they fail; segment_give() then leaves the run pending, for a
 * later call.
 *
 * A run on its way is named in `pending`, two words in the region, changed by the same journaled
 * change as the map. NB: a survivor calls segment_give() whether it finds them set or not: only
 * once the map's lock has been taken, and the change of a dead holder undone, are they right. Words
 * inside a run are rewritten before the change that turns it from free to taken or back; the map
 * notes which, so that a survivor restores them. The same holds for memory on its way: what the
 * dead left UNSETTLED is released by whoever gives their run back, and pages that they were making
 * holes by whoever takes the map's lock. Holes are filled before they are counted as filled: who
 * dies in between leaves memory that nobody counts, until the page is filled again or given back.
 *
 * What the dead left is believed only as far as it can be theirs. A journal or a note that cannot
 * sets the map aside, which is noted (fault.h): nothing is taken or given back from then on, and
 * what was handed out stays in use.
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

enum { GRANULE_SHIFT = 16 };
#define GRANULE ((size_t)1 << GRANULE_SHIFT)

/* Bytes of free granules that stay committed, until segment_set_retain() says otherwise: the
 * largest of this, a quarter of the limit where one is set, and half of what is in use. */
#define SEGMENT_RETAIN ((size_t)16 << 20)

/* Who has a granule: numbers the map's user gives out; 0 is nobody. */
typedef unsigned segment_owner_id;
#define SEGMENT_OWNER_MOST 4095u

struct segment_map; /* in the region; fields in segment_map.h, for this folder and its tests */

/* What a process needs to work on a map. Private to the process. */
struct segments {
    struct segment_map *map;
    const struct dvsm_backend *backend;
    const dvsm_mapping *mapping;
    /* Which words outside the map its changes may store (*pending, *mark), for recovery, which
     * believes nothing of the dead; NULL: any. */
    const struct journal_guard *marks;
};

/* Bytes of address space that the map of `granules` granules takes, a multiple of the page size,
 * and how many of them must be committed before segment_init(). */
size_t segment_map_bytes(size_t granules);
size_t segment_map_committed_bytes(void);

/* Makes the map at `place` (page aligned, what is not committed yet will read as zeros) for the
 * granules at `base` (granule aligned); all are free, none committed. `limit`: as in
 * segment_set_limit(). 0 or an errno value: EINVAL for no granules and for more than a word can
 * count. */
int segment_init(void *place, void *base, size_t granules, size_t limit);

/* The lowest free run of `bytes`, a multiple of GRANULE; not yet committed. `pending` is empty
 * before and names the run after. False: no such run, or the limit reached even without what is
 * retained. */
bool segment_take(struct segments *s, segment_owner_id owner, enum run_kind kind, size_t bytes,
                  struct run *pending);

/* The lowest `bytes` of a free run that is long enough for the place whatever its address: at a
 * suitable address, and with room behind them that stays free, for a later segment_take_at(). As
 * much room is left to a large block just before them, if there is one: it may have been put there
 * for that. */
bool segment_take_placed(struct segments *s, segment_owner_id owner, enum run_kind kind,
                         size_t bytes, struct run_place place, struct run *pending);

/* Just the `bytes` that begin at `start`, where a taken run ends. False also where that is not
 * free. */
bool segment_take_at(struct segments *s, segment_owner_id owner, enum run_kind kind, void *start,
                     size_t bytes, struct run *pending);

/* Puts memory behind every granule of the caller's pending run; for RUN_LARGE its first granule
 * becomes the block's START. False where memory is short: then the run is still the caller's, to be
 * given back. */
bool segment_commit(struct segments *s, enum run_kind kind, struct run pending);

/* Bytes at the end of the pending run that have no memory yet: committed, they will read as
 * zeros. */
size_t segment_fresh(const struct segments *s, struct run pending);

/* Gives back the pending run, all but `keep`, a part of it that stays pending (0 bytes: nothing
 * stays). Does nothing where nothing is pending. What the backend fails to release stays retained.
 */
void segment_give(struct segments *s, struct run *pending, struct run keep);

/* The same for a survivor, who believes nothing: all of it, if it is a run of that owner's. False,
 * and nothing done: it is not. `holes`: as in segment_give_holed(); NULL: it can have none. */
bool segment_recover(struct segments *s, segment_owner_id owner, struct run *pending, word *holes);

/* Whether the address is in a granule of the owner's that has memory. Takes no lock. */
bool segment_has_memory_of(const struct segment_map *map, segment_owner_id owner,
                           const void *address);

/* Whether all of it lies among the map's granules. */
bool segment_holds(const struct segment_map *map, const void *start, size_t bytes);
/* ---- holes: pages of a segment's granules whose memory was given back, while their owner, who
 * holds its lock, has no use for them. Whoever wants to touch one fills it first. `holes` is the
 * owner's own count of them, in pages, changed in the map's journaled changes. */

/* Makes the whole pages inside [start, end) holes. Returns the bytes given back: less than there
 * are where the backend fails, and none on machines where a granule's word has no bits for it. */
size_t segment_punch(struct segments *s, char *start, char *end, word *holes);

/* Puts memory behind every hole that [start, end) touches. False where memory is short or the limit
 * reached; some holes may be filled then. */
bool segment_fill(struct segments *s, char *start, char *end, word *holes);

/* Whether [start, end), the caller's, touches a hole. */
bool segment_has_holes(const struct segment_map *map, const char *start, const char *end);

/* As segment_give(), of a run that may have holes: they end with it, in *holes, too. */
void segment_give_holed(struct segments *s, struct run *pending, struct run keep, word *holes);

/* Bytes of a page. */
size_t segment_page(const struct segment_map *map);

/* Whether the page of that address is a hole; O(1), takes no lock. */
bool segment_is_hole(const struct segment_map *map, const void *address);

/* How many holes an owner's granules have by their words; for checks. */
size_t segment_count_holes(struct segments *s, segment_owner_id owner);

/* Releases memory of free granules, from the highest on, until at most `keep` bytes of them are
 * committed; bytes released. Stops where the backend fails. */
size_t segment_release(struct segments *s, size_t keep);

/* The owner of the granule at `address`, 0 for nobody and outside the region; `kind` (may be NULL)
 * says RUN_SEGMENT (for nobody, too), RUN_LARGE (a block's first granule) or RUN_LARGE_TAIL. O(1),
 * takes no lock: right for an address in a block that stays allocated meanwhile. */
segment_owner_id segment_owner(const struct segment_map *map, const void *address,
                               enum run_kind *kind);

/* A word of the map is one granule's; this bit says that it is part of a segment, so that an
 * address in it may be a chunk's. For looks without the lock at words below segment_ready(). */
#define SEGMENT_CHUNKS ((word)128)
const word *segment_words(const struct segment_map *map);

/* How many granules the map has words for by now; only ever more. */
size_t segment_ready(const struct segment_map *map);

/* Whether the address is in such a granule. */
bool segment_has_chunks(const struct segment_map *map, const void *address);

/* Whether just the granules from that of `start` up to `end` are one large block of the owner's,
 * who changes none of its runs meanwhile. */
bool segment_is_large_block(const struct segment_map *map, segment_owner_id owner,
                            const void *start, const void *end);

/* From now on what is committed outside the granules counts against the limit, too: `bytes` of the
 * caller's so far, and the map's own pages. Called once, before anybody else knows of the map. */
void segment_count_overhead(struct segments *s, size_t bytes);

/* Commits memory of the caller's outside the granules, and counts it in the same journaled change
 * that stores `value` in *mark, by which the caller knows; nothing where *mark is as much already.
 * False where memory is short or the limit reached. */
bool segment_charge(struct segments *s, void *place, size_t bytes, word *mark, word value);

/* Sees to it that no change of a dead process is half done: for whoever looks at words of its own
 * that the map's changes may have stored. False: that cannot be known now. */
bool segment_settle(struct segments *s);

/* Whether the map was set aside: then no lock of it is to be had any more. */
bool segment_is_damaged(const struct segment_map *map);

/* Calls `change` with the map's lock held and its journal empty: what it stores through the
 * journal, words of the caller's that this lock guards, is one change, committed when it returns.
 * False: the lock is not to be had, and nothing was called. */
bool segment_change(struct segments *s, void (*change)(struct journal *j, void *context),
                    void *context);

struct segment_usage {
    size_t committed;      /* bytes: taken or retained, without the holes */
    size_t committed_most; /* bytes: holes count as if they had memory */
    size_t holes;          /* bytes */
    size_t retained;       /* bytes: free but committed */
    size_t used;           /* bytes: up to the end of the last run taken */
    size_t overhead;       /* bytes: committed outside the granules, so far as they count */
    size_t footprint, footprint_most; /* committed and overhead together */
    size_t limit;
};
void segment_usage(struct segments *s, struct segment_usage *usage);

/* Bytes that may be committed; rounded up to granules and returned; SIZE_MAX: no limit. Below what
 * is committed now it only keeps more from being taken. */
size_t segment_set_limit(struct segments *s, size_t bytes);

/* From now on large blocks get their pages when these are first touched: committing one puts memory
 * behind the ends of it only, and giving one back releases it at once, since nobody knows where it
 * has any. Its granules count as committed all the same. Called once, before anybody else knows of
 * the map. */
void segment_set_lazy(struct segment_map *map);

/* Whether a run of so many bytes could be had if nothing were taken: neither limit nor region
 * forbids it. */
bool segment_might_take(const struct segment_map *map, size_t bytes);

/* Whether the limit or the end of the address space keeps `bytes` more from being had in a run; as
 * it looks just now, without the lock. */
bool segment_is_full(const struct segment_map *map, size_t bytes);

/* Bytes of free granules that stay committed when they are given back, in place of SEGMENT_RETAIN's
 * rule. What is retained above it now stays. */
void segment_set_retain(struct segments *s, size_t bytes);

/* Each run from the lowest up to the last one taken, free ones included (owner 0; kind is then
 * RUN_SEGMENT), with the lock held. Adjacent granules of one owner that belong together (segments,
 * or one large block) are one run; RUN_LARGE_TAIL is a large block on its way. The visitor must not
 * call back. */
typedef void (*segment_visit)(void *context, struct run run, segment_owner_id owner,
                              enum run_kind kind);
void segment_walk(struct segments *s, segment_visit visit, void *context);

/* Every invariant above; takes the lock. */
void segment_check(struct segments *s, struct check *check);

/* That all overhead is accounted for: `charged` adds up, with the lock held, what the map's user
 * has committed outside the granules, by its marks. */
typedef size_t (*segment_charged)(const void *context);
void segment_check_overhead(struct segments *s, segment_charged charged, const void *context,
                            struct check *check);

#endif
