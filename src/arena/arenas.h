/* arenas.h - the arenas of a region: making them, which one serves whom, locking one.
 *
 * Several arenas let several CPUs work side by side. Each arena stands with its lock in a slot of a
 * table in the region. It is made when first needed and never unmade. Its number in the granule
 * map, arena.id, is 1 + its index.
 *
 * To allocate, a CPU has a preferred arena, and moves on to the others when it finds that one taken
 * (as in ptmalloc2, by Wolfram Gloger). If all are taken, one more is made, up to `wanted`. A CPU
 * without a preference also gets an arena of its own once the existing ones are large enough to
 * make that worth it: then blocks that one CPU's work uses do not share cache lines with another's.
 * To even out load, a CPU whose arena has grown beyond its share prefers the smallest arena from
 * then on. A block goes back to the arena it came from, which the granule map knows.
 *
 * Locks: the table's own lock guards the making of arenas. It is taken while no arena's lock is
 * held; the granule map's lock may be taken inside it. The table needs no journal: each change ends
 * in one store. If the holder of an arena's lock died, the next to take the lock recovers the
 * arena; if that cannot be done now (in a signal handler), `recovering` stays set for the one
 * after. An arena that cannot be recovered, because what the dead holder left was overwritten, is
 * damaged from then on; that is noted (fault.h). `preferred` is a hint.
 *
 * Nobody waits for long. A holder may be stopped (by a debugger, by SIGSTOP). A thread that waited
 * for it in vain sets `stuck`, so that others need not wait, and goes to another arena; one is made
 * if there is none. A block of a stuck arena is freed by way of that arena's remote list
 * (remote.h), which holders work off.
 */
#ifndef DVSM_ARENA_ARENAS_H
#define DVSM_ARENA_ARENAS_H

#include "arena/region_source.h"
#include "engine/arena.h"
#include "sync/lock.h"

enum { ARENAS_PREFERRED = 256 };

/* One arena and its lock, alone on its pages. */
struct arena_slot {
    struct lock lock;
    size_t recoveries; /* times that the lock's holder was found dead */
    size_t uses;       /* times that the arena was left: every so often load is evened out */
    size_t recovering; /* 1: a holder died, and what it left is not repaired yet */
    size_t stuck;      /* 1: a hint: somebody waited in vain since the holder came */
    word remote;       /* remote.h */
    word reaping;
    struct arena arena;
};

/* In the region. */
struct arena_table {
    struct lock lock;
    char *slots;
    size_t stride; /* from one slot to the next: whole pages */
    size_t most;
    size_t wanted;     /* how many are made for speed; more only after damage, or if all are held */
    size_t committed;  /* slots that have memory */
    size_t damaged;    /* 1: some arena was set aside */
    size_t closed;     /* 1: the table was damaged, and no more are made */
    size_t recovering; /* 1: the lock's holder died, and the map is not settled yet */
    size_t count;      /* made so far; grows only, read without the lock */
    struct seal seal;  /* of the heads of all arenas' chunks */
    size_t hardened;   /* 1: all blocks that are freed are filled (arena/canary.h) */
    size_t preferred[ARENAS_PREFERRED]; /* by CPU, modulo the length: 1 + an index; 0: none yet */
};

/* What a process needs to work on them. Private to the process. */
struct arenas {
    struct arena_table *table;
    struct segments *segments;
    struct region_source source;
    /* Where the table is and what it can hold, known since it was made. Repairs after a dead holder
     * go by these. */
    char *slots;
    size_t stride, most;
    struct seal seal;
    bool hardened;
};

/* A table of `most` slots, each of `stride` bytes, at `slots`, where nothing is committed yet.
 * 0 or an errno value. */
int arenas_init(struct arena_table *table, char *slots, size_t stride, size_t most,
                struct seal seal, bool hardened);

/* Sets up a process's access to the table. */
void arenas_open(struct arenas *arenas, struct arena_table *table, struct segments *segments);

/* Makes arena `index`, the next one, unless somebody has just made it. False: no memory, or there
 * are as many as there can be. */
bool arenas_make(struct arenas *arenas, size_t index);

static inline size_t arenas_count(const struct arena_table *table)
{
    return __atomic_load_n(&table->count, __ATOMIC_ACQUIRE);
}

static inline struct arena_slot *arenas_slot(const struct arena_table *table, size_t index)
{
    return (struct arena_slot *)(void *)(table->slots + index * table->stride);
}

/* An arena while the caller has its lock. */
struct arena_hold {
    struct arena_slot *slot; /* locked; NULL: none */
    size_t footprint;        /* when it was locked */
    size_t first;            /* index of the arena with which a series of arenas_move_on() began */
    struct arena_call call;
    struct fault
        found; /* a fault met in blocks that others freed, not the call's own; {0} at first */
};

static inline void arena_hold_none(struct arena_hold *hold)
{
    hold->slot = NULL;
    hold->found.kind = FAULT_NONE;
    hold->call.fault.kind = FAULT_NONE;
}

/* Each locks an arena, repairs it if need be, and makes hold->call ready; false: none is locked.
 *     arenas_enter            an undamaged one to allocate from
 *     arenas_enter_index      the one of that index, unless it is held for longer than a moment
 *     arenas_enter_patiently  the one of that index, however long it takes; false only in a signal
 *                             handler that would have to wait. All that was freed remotely is
 *                             worked off */
bool arenas_enter(struct arenas *arenas, struct arena_hold *hold);
bool arenas_enter_index(struct arenas *arenas, struct arena_hold *hold, size_t index);
bool arenas_enter_patiently(struct arenas *arenas, struct arena_hold *hold, size_t index);
void arenas_leave(struct arenas *arenas, struct arena_hold *hold);

/* Call this when an arena got by arenas_enter() would have to grow for `bytes`. Unlocks it and
 * locks the next one that looks as if it need not grow: no arena grows while another has free
 * memory that will do. Waits a moment for an arena that is taken, unless more arenas exist than are
 * wanted for speed; there are so many because so many were held at once. False: none is left, and
 * none is locked. */
bool arenas_move_on(struct arenas *arenas, struct arena_hold *hold, size_t bytes);

/* Whether the arena has remotely freed blocks left to work off. */
static inline bool arenas_have_remote(const struct arena_slot *slot)
{
    return (word_peek(&slot->remote) | word_peek(&slot->reaping)) != 0;
}

/* Works off all of them, in the arena that is entered. */
void arenas_work_off(const struct arenas *arenas, struct arena_hold *hold);

/* Whether there is an arena of that index, and the table's own fields are plausible. */
bool arenas_has(const struct arenas *arenas, size_t index);

/* Makes sure that no change of a dead process to that arena is half done. A caller needs this
 * before it reads words of its own that the arena's changes may have stored. False: that cannot be
 * known now. The second one waits as long as it takes. */
bool arenas_settle(struct arenas *arenas, size_t index);
bool arenas_settle_patiently(struct arenas *arenas, size_t index);

/* The same for all arenas and for the making of an arena, however long it takes. */
void arenas_settle_all(struct arenas *arenas);

/* Whether somebody has waited in vain for an arena since its present holder took it: a hint. */
bool arenas_are_stuck(const struct arena_table *table);

/* Bytes that all arenas have; each arena is read at its own instant. */
size_t arenas_footprint(const struct arena_table *table);

#endif
