/* segment.h - the granule map: who has which run of a region's granules.
 *
 * A region is handed out in granules of 64 KiB. The map has one word for each granule, in an array
 * as long as the region could need, committed only as far as granules have ever been used:
 *
 *     free run:    FREE|FIRST|length in the first granule, FREE|length in the last
 *     taken run:   TAKEN|owner in each granule; in those of a large block LARGE too, START in its
 *                  first
 *     CHUNKS       in a taken granule: it is part of a segment, so addresses in it may be chunks;
 *                  set and cleared together with TAKEN, in just those granules that are not LARGE
 *     COMMITTED    in any word: the granule has memory behind it
 *     UNSETTLED    in a word of a taken run: memory is being put there or taken away just now
 *     holes        in a word of a segment's granule: a bit for each page, set where the page's
 *                  memory was given back although the granule is COMMITTED
 *
 * Words inside a free run have at most COMMITTED set.
 *
 * Above the words stands an index, a tree of maxima with 16 children a node: each node is the
 * length of the longest free run that *begins* below it. So in a region of 2^44 bytes it takes at
 * most seven steps to find the lowest run of at least n granules, or to carry a change up. The
 * granules from `used` on have never been needed or were given back: they are one free run that
 * needs no words. The granule before `used` is never free.
 *
 * Taking a run first reserves it (segment_take, under the map's lock), then commits its memory
 * (segment_commit, without the lock, because the run is the taker's). Giving back keeps memory
 * committed up to a retention limit and releases what is above. Memory is committed before it is
 * used, so a full file system is an error here, never a SIGBUS later.
 *
 * Locks: the functions of a struct segments take the map's own lock, the innermost one, except
 * segment_commit(), segment_fresh() and segment_count_overhead(). Those of a struct segment_map
 * take no lock. The functions that take the lock fail in a signal handler that interrupted its
 * holder; segment_give() then leaves the run pending, for a later call.
 *
 * A run on its way is named in `pending`, two words in the region; one journaled change stores
 * these and the map's words. NB: a survivor calls segment_give() whether it finds these two words
 * set or not: they are right only once the survivor has taken the map's lock, and so undone the
 * change of a dead holder. Words inside a run are rewritten before the change that turns the run
 * from free to taken or back; the map notes which run, so that a survivor restores its words. The
 * same holds for memory on its way: the thread that gives back a dead owner's run releases what is
 * UNSETTLED in it, and the next thread that takes the map's lock releases pages that the dead were
 * making holes. Holes are filled before they are counted as filled: a thread that dies in between
 * leaves memory that nobody counts, until the page is filled again or given back.
 *
 * A survivor believes what the dead left only as far as it can be theirs. If a journal or a note
 * cannot be, the map is set aside, which is noted (fault.h): from then on nothing is taken or given
 * back, and what was handed out stays in use.
 */
#ifndef DVSM_SEGMENT_SEGMENT_H
#define DVSM_SEGMENT_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"
#include "base/journal.h"
#include "base/policy.h"
#include "base/run.h"
#include "dvsm/backend.h"
#include "sync/lock.h"

enum { GRANULE_SHIFT = 16 };
#define GRANULE ((size_t)1 << GRANULE_SHIFT)

/* Who has a granule: numbers that the map's user gives out; 0 is nobody. */
typedef unsigned segment_owner_id;
#define SEGMENT_OWNER_MOST 4095u

struct segment_map; /* in the region; fields in segment_map.h, for this folder and its tests */

/* What a process needs to work on a map. Private to the process. */
struct segments {
    struct segment_map *map;
    const struct dvsm_backend *backend;
    const dvsm_mapping *mapping;
    struct policy *policy; /* shared: how many free granules stay committed */
    /* Which words outside the map its changes may store (*pending, *mark). Recovery asks, because
     * it believes nothing of the dead; NULL: any word. */
    const struct journal_guard *marks;
};

/* Bytes of address space that the map of `granules` granules takes, a multiple of the page size,
 * and how many of them must be committed before segment_init(). */
size_t segment_map_bytes(size_t granules);
size_t segment_map_committed_bytes(void);

/* Makes the map at `place` (page aligned; what is not committed yet will read as zeros) for the
 * granules at `base` (granule aligned); all are free, none is committed. `limit`: as in
 * segment_set_limit(). Returns 0 or an errno value: EINVAL for no granules and for more than a word
 * can count. */
int segment_init(void *place, void *base, size_t granules, size_t limit);

/* Whether a map that somebody else made is where and what it must be, of which nothing is believed
 * yet; the file behind it ends at `end`. *memory_end: where the file must end at least; if that is
 * beyond `end`, no more than the map's struct was looked at. */
bool segment_may_open(const struct segment_map *map, const void *base, size_t granules,
                      const char *end, const char **memory_end);

/* Takes the lowest free run of `bytes`, a multiple of GRANULE; it is not yet committed. `pending`
 * is empty before and names the run after. False: there is no such run, or the limit would be
 * exceeded even if nothing were retained. */
bool segment_take(struct segments *s, segment_owner_id owner, enum run_kind kind, size_t bytes,
                  struct run *pending);

/* Takes `bytes` of a free run that is long enough for the place whatever the run's address. They
 * lie at the lowest suitable address in that run, with room behind them that stays free, for a
 * later segment_take_at(). If a large block lies just before them, as much room is left to that
 * block: it may have been put there for that. */
bool segment_take_placed(struct segments *s, segment_owner_id owner, enum run_kind kind,
                         size_t bytes, struct run_place place, struct run *pending);

/* Takes just the `bytes` that begin at `start`, where a taken run ends. False also if they are not
 * free. */
bool segment_take_at(struct segments *s, segment_owner_id owner, enum run_kind kind, void *start,
                     size_t bytes, struct run *pending);

/* Puts memory behind every granule of the caller's pending run; for RUN_LARGE the run's first
 * granule becomes the block's START. False if memory is short: then the run is still the caller's,
 * to be given back. */
bool segment_commit(struct segments *s, enum run_kind kind, struct run pending);

/* Bytes at the end of the pending run that have no memory yet: once committed, they will read as
 * zeros. */
size_t segment_fresh(const struct segments *s, struct run pending);

/* Gives back the pending run except `keep`, a part of it that stays pending (0 bytes: nothing
 * stays). Does nothing if nothing is pending. What the backend fails to release stays retained. */
void segment_give(struct segments *s, struct run *pending, struct run keep);

/* The same for a survivor, who believes nothing: gives back the whole pending run, if it is a run
 * of that owner's. False: it is not, and nothing was done. `holes`: as in segment_give_holed();
 * NULL: the run can have none. */
bool segment_recover(struct segments *s, segment_owner_id owner, struct run *pending, word *holes);

/* Whether the address is in a granule of the owner's that has memory. Takes no lock. */
bool segment_has_memory_of(const struct segment_map *map, segment_owner_id owner,
                           const void *address);

/* Whether all of [start, start + bytes) lies among the map's granules. */
bool segment_holds(const struct segment_map *map, const void *start, size_t bytes);

/* ---- holes: pages of a segment's granules whose memory was given back while their owner has no
 * use for them. The owner holds its lock. Whoever wants to touch a hole fills it first. `holes` is
 * the owner's own count of its holes, in pages, changed in the map's journaled changes. */

/* Makes the whole pages inside [start, end) holes. Returns the bytes given back: fewer where the
 * backend fails, and none on machines where a granule's word has no bits for holes. */
size_t segment_punch(struct segments *s, char *start, char *end, word *holes);

/* Puts memory behind every hole that [start, end) touches. False if memory is short or the limit
 * reached; some of the holes may be filled then. */
bool segment_fill(struct segments *s, char *start, char *end, word *holes);

/* Whether [start, end), which is the caller's, touches a hole. */
bool segment_has_holes(const struct segment_map *map, const char *start, const char *end);

/* As segment_give(), for a run that may have holes: its holes end with it, and *holes no longer
 * counts them. */
void segment_give_holed(struct segments *s, struct run *pending, struct run keep, word *holes);

/* Bytes of a page. */
size_t segment_page(const struct segment_map *map);

/* Whether the page of that address is a hole. O(1), takes no lock. */
bool segment_is_hole(const struct segment_map *map, const void *address);

/* How many holes an owner's granules have, counted from their words; for checks. */
size_t segment_count_holes(struct segments *s, segment_owner_id owner);

/* Releases memory of free granules, from the highest on, until at most `keep` bytes of them are
 * committed. Stops where the backend fails. Returns the bytes released. */
size_t segment_release(struct segments *s, size_t keep);

/* The owner of the granule at `address`, 0 for nobody and outside the region. `kind` (may be NULL)
 * says RUN_SEGMENT (for nobody, too), RUN_LARGE (a block's first granule) or RUN_LARGE_TAIL. O(1),
 * takes no lock: right for an address in a block that stays allocated during the call. */
segment_owner_id segment_owner(const struct segment_map *map, const void *address,
                               enum run_kind *kind);

/* The map has a word for each granule; this bit says that the granule is part of a segment, so that
 * an address in it may be a chunk's. For readers without the lock, of words below
 * segment_ready(). */
#define SEGMENT_CHUNKS ((word)128)
const word *segment_words(const struct segment_map *map);

/* How many granules the map has words for by now; this number only grows. */
size_t segment_ready(const struct segment_map *map);

/* Whether the address is in a granule with SEGMENT_CHUNKS. */
bool segment_has_chunks(const struct segment_map *map, const void *address);

/* Whether the granules from that of `start` up to `end`, and no more, are one large block of the
 * owner's. The owner must change none of its runs during the call. */
bool segment_is_large_block(const struct segment_map *map, segment_owner_id owner,
                            const void *start, const void *end);

/* From now on memory committed outside the granules counts against the limit, too: the caller's
 * `bytes` so far, and the map's own pages. Called once, before anybody else knows of the map. */
void segment_count_overhead(struct segments *s, size_t bytes);

/* Commits the caller's memory at `place`, outside the granules, and counts it. The same journaled
 * change stores `value` in *mark, which tells the caller that it is done. Does nothing if *mark is
 * at least `value` already. False if memory is short or the limit reached. */
bool segment_charge(struct segments *s, void *place, size_t bytes, word *mark, word value);

/* Undoes what a dead process left half done: called before a look at the caller's own words that
 * the map's changes may have stored. False: the map's lock is not to be had now. */
bool segment_settle(struct segments *s);

/* Whether the map was set aside: then its lock is not to be had any more. */
bool segment_is_damaged(const struct segment_map *map);

/* Calls `change` with the map's lock held and the map's journal empty. `change` stores, through the
 * journal, words of the caller's that this lock guards. These stores are one change, committed when
 * it returns. False: the lock is not to be had, and nothing was called. */
bool segment_change(struct segments *s, void (*change)(struct journal *j, void *context),
                    void *context);

struct segment_usage {
    size_t committed;      /* bytes: taken or retained, without the holes */
    size_t committed_most; /* bytes: holes count as if they had memory */
    size_t holes;          /* bytes */
    size_t retained;       /* bytes: free but committed */
    size_t used;           /* bytes: up to the end of the last run taken */
    size_t overhead;       /* bytes: committed outside the granules, as far as they count */
    size_t footprint, footprint_most; /* committed and overhead together */
    size_t limit;
};
void segment_usage(struct segments *s, struct segment_usage *usage);

/* Sets how many bytes may be committed; SIZE_MAX: no limit. Returns the number, rounded up to
 * granules. A limit below what is committed now only keeps more from being taken. */
size_t segment_set_limit(struct segments *s, size_t bytes);

/* From now on large blocks get their pages when the pages are first touched. Committing a block
 * puts memory behind its ends only, and giving it back releases it at once, since nobody knows
 * where it has memory. Its granules count as committed all the same. Called once, before anybody
 * else knows of the map. */
void segment_set_lazy(struct segment_map *map);

/* Whether a run of so many bytes could be had if nothing were taken: neither limit nor region
 * forbids it. */
bool segment_might_take(const struct segment_map *map, size_t bytes);

/* Whether the limit or the end of the address space forbids a run of `bytes` more. A look at the
 * present state, without the lock. */
bool segment_is_full(const struct segment_map *map, size_t bytes);

/* Sets how many bytes of free granules stay committed when granules are given back, in place of
 * POLICY_BY_USE. Memory that is retained above this number now stays retained. */
void segment_set_retain(struct segments *s, size_t bytes);

/* Visits each run from the lowest up to the last one taken, free ones included (owner 0; kind is
 * then RUN_SEGMENT), with the lock held. Adjacent granules of one owner that belong together
 * (segments, or one large block) are one run; RUN_LARGE_TAIL is a large block on its way. The
 * visitor must not call back. */
/* Calls `visit` for each range of granules that has memory, by address, as long as each is; holes
 * are no part of them. */
typedef void (*segment_range)(void *context, void *start, size_t bytes);
void segment_ranges(struct segments *s, segment_range visit, void *context);

typedef void (*segment_visit)(void *context, struct run run, segment_owner_id owner,
                              enum run_kind kind);
void segment_walk(struct segments *s, segment_visit visit, void *context);

/* Checks every invariant above; takes the lock. */
void segment_check(struct segments *s, struct check *check);

/* Checks that all overhead is accounted for. `charged`, called with the lock held, adds up by its
 * marks what the map's user has committed outside the granules. */
typedef size_t (*segment_charged)(const void *context);
void segment_check_overhead(struct segments *s, segment_charged charged, const void *context,
                            struct check *check);

#endif
