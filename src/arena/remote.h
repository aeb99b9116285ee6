/* remote.h - blocks freed by who could not have their arena's lock.
 *
 * A thread that frees a block whose arena is held for longer than a moment (its holder is stopped,
 * or the thread is a signal handler that interrupted the holder) puts the block on a list of the
 * arena's slot, by one atomic exchange of the list's head; the next holders free what is on the
 * list. Killed before the exchange, the call did not happen; after, it did.
 *
 *     slot->remote  -> block -> block -> ...     pushed by anybody
 *     slot->reaping -> block -> ...              taken off by a holder, who frees them from the
 *                                                front on
 *
 *     block:  | address's lower half + 4 | CHUNK_FREED_MARK | next block | ...
 *
 * A holder first notes the head in `reaping`, then takes the whole list, by an exchange of the head
 * for 0. Each block is freed in the arena's change that also moves `reaping` on to the next. What a
 * holder leaves in `reaping` is the next one's. Where a holder died, `reaping` may name a list that
 * was not taken: then its first block is still to be found from `remote` on.
 *
 * To its arena a block on the list is in use. Its mark says that it may be free already: the fast
 * path leaves such a block alone, and who has the arena's lock works off the list, and knows. The
 * mark may be left by somebody who was killed before the exchange: it is a hint.
 */
#ifndef DVSM_ARENA_REMOTE_H
#define DVSM_ARENA_REMOTE_H

#include "arena/arenas.h"

bool remote_is_marked(const void *block);

/* The block is one in use of the slot's arena; no lock is needed. */
void remote_push(struct arena_slot *slot, void *block);

/* Whether the block is on the list: for who cannot have the lock. Others change the list
 * meanwhile. */
bool remote_has(const struct arena_slot *slot, const struct segment_map *map, const void *block);

/* The rest is for who has the arena's lock.
 *     remote_work_off  frees up to `most` of the blocks. What is wrong with one is raised in
 *                      *fault; where its link cannot be trusted any more, those behind it are given
 *                      up
 *     remote_recover   after a holder died, when the arena's journal is rolled back
 *     remote_check     that there is none, as after all was worked off */
void remote_work_off(struct arena_slot *slot, const struct arena_source *source, size_t most,
                     struct fault *fault);
void remote_recover(struct arena_slot *slot, const struct segment_map *map);

#endif
