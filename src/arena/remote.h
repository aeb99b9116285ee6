/* remote.h - blocks freed by threads that could not get the arena's lock.
 *
 * A thread that frees a block whose arena is held for longer than a moment (its holder is stopped,
 * or the thread is a signal handler that interrupted the holder) puts the block on a list of the
 * arena's slot, by one atomic exchange of the list's head. The next holders free what is on the
 * list. If the thread is killed before the exchange, the call did not happen; after it, the call
 * did.
 *
 *     slot->remote  -> block -> block -> ...     pushed by anybody
 *     slot->reaping -> block -> ...              taken off by a holder, who frees them from the
 *                                                front on
 *
 *     block:  | address's lower half + 4 | CHUNK_FREED_MARK | next block | ...
 *
 * In a hardened heap the rest of the block is filled (arena/canary.h), and looked at before the
 * block is freed. There the list is also the quarantine of blocks that the cache does not take: it
 * is worked off when the next such block is freed, and when memory is short.
 *
 * A holder first notes the head in `reaping`, then takes the whole list, by an exchange of the head
 * for 0. Each block is freed in the arena's change that also moves `reaping` on to the next. Blocks
 * that a holder leaves in `reaping` are left to the next holder. If a holder died, `reaping` may
 * name a list that was not taken: then that list's first block can still be reached from `remote`.
 *
 * To its arena, a block on the list is in use. Its mark says that it may be free already. The fast
 * path leaves a marked block alone; a thread with the arena's lock works off the list, and then
 * knows. The mark is only a hint: a thread killed before the exchange leaves it behind.
 */
#ifndef DVSM_ARENA_REMOTE_H
#define DVSM_ARENA_REMOTE_H

#include "arena/arenas.h"

bool remote_is_marked(const void *block);

/* Puts the block, one in use of the slot's arena, on the list; needs no lock. */
void remote_push(struct arena_slot *slot, void *block);

/* Whether the block is on the list, for a caller that cannot get the lock. Others may change the
 * list meanwhile. */
bool remote_has(const struct arena_slot *slot, const struct segment_map *map, const void *block);

/* The rest needs the arena's lock.
 *     remote_work_off  frees up to `most` of the blocks. If something is wrong with one, *fault
 *                      says so; if its link cannot be trusted either, the blocks behind it are
 *                      given up
 *     remote_recover   after a holder died, once the arena's journal is rolled back */
void remote_work_off(struct arena_slot *slot, const struct arenas *arenas, size_t most,
                     struct fault *fault);
void remote_recover(struct arena_slot *slot, const struct segment_map *map);

#endif
