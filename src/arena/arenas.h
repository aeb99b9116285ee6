/* arenas.h - the arenas of a region: making them, which one serves whom, locking one.
 *
 * Several arenas let several CPUs work side by side. Each stands with its lock in a slot of a table
 * in the region, made when it is first needed and never unmade; its number in the granule map,
 * arena.id, is 1 + its index.
 *
 * To allocate, a CPU has a preferred arena and moves on to the others when it finds that one taken
 * (as in ptmalloc2, by Wolfram Gloger). All taken: one more is made, up to `wanted`. A CPU without
 * a preference also gets an arena of its own once those that are there have grown to be worth it:
 * blocks that one CPU's work uses then do not share cache lines with another's. So that load ends
 * up even, a CPU whose arena has grown beyond its share prefers the smallest one from then on. A
 * block goes back to the arena it came from: the granule map knows.
 *
 * Locks: the table's own lock guards the making of arenas, taken while no arena's is held; the
 * granule map's may be taken inside. It needs no journal: each change ends in one store. An arena's
 * lock found held by the dead is recovered by whoever takes it next; where that cannot be done now
 * (in a signal handler), `recovering` stays for the next one. An arena that cannot be recovered,
 * since what the dead left was overwritten, is damaged from then on, which is noted (fault.h).
 * `preferred` is a hint.
 *
 * Nobody waits for long. A holder may be stopped (by a debugger, by SIGSTOP): who waited for it in
 * vain says so in `stuck`, so that others need not wait, and goes to another arena, for which one
 * is made if there is none. A block of a stuck arena is freed by way of that arena's remote list
 * (remote.h), which holders work off.
 */
#ifndef DVSM_ARENA_ARENAS_H
#define DVSM_ARENA_ARENAS_H

#include "arena/arena.h"
#include "arena/region_source.h"
#include "base/lock.h"

enum { ARENAS_PREFERRED = 256, ARENAS_GROWTH_MOST = 2 << 20 };

/* One arena and its lock, alone on its pages. */
struct arena_slot {
    struct lock lock;
    size_t recoveries; /* times that the lock was found held by the dead */
    size_t uses;       /* times that it was left: now and then load is evened out */
    size_t recovering; /* 1: it was, and what the dead left is not repaired yet */
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
    size_t wanted; /* how many are made for speed; more only after damage, or where all are held */
    size_t committed;  /* slots that have memory */
    size_t damaged;    /* 1: some arena was set aside */
    size_t closed;     /* 1: the table was damaged, and no more are made */
    size_t recovering; /* 1: the lock's holder died, and the map is not settled yet */
    size_t count;      /* made so far; grows only, read without the lock */
    size_t preferred[ARENAS_PREFERRED]; /* by CPU, modulo the length: 1 + an index; 0: none yet */
};

/* What a process needs to work on them. Private to the process. */
struct arenas {
    struct arena_table *table;
    struct segments *segments;
    struct region_source source;
    /* Where the table is and what it can hold, known since it was made: whoever repairs what the
     * dead left goes by these. */
    char *slots;
    size_t stride, most;
};

/* A table of `most` slots, each of `stride` bytes, at `slots`, where nothing is committed yet.
 * 0 or an errno value. */
int arenas_init(struct arena_table *table, char *slots, size_t stride, size_t most);

/* Makes a process's access to it. */
void arenas_open(struct arenas *arenas, struct arena_table *table, struct segments *segments);

/* Makes arena `index`, the next one, unless somebody just did. False: no memory, or as many as
 * there can be. */
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
        found; /* by working off what others freed: not the call's own; {0} to begin with */
};

static inline void arena_hold_none(struct arena_hold *hold)
{
    hold->slot = NULL;
    hold->found.kind = FAULT_NONE;
    hold->call.fault.kind = FAULT_NONE;
}

/* Each locks an arena, repaired if need be, and makes hold->call ready; false: none.
 *     arenas_enter            one to allocate from, not damaged
 *     arenas_enter_index      the one of that index, unless it is held for longer than a moment
 *     arenas_enter_patiently  the one of that index, however long it takes; false only in a signal
 *                             handler that would have to wait. All that was freed remotely is
 *                             worked off */
bool arenas_enter(struct arenas *arenas, struct arena_hold *hold);
bool arenas_enter_index(struct arenas *arenas, struct arena_hold *hold, size_t index);
bool arenas_enter_patiently(struct arenas *arenas, struct arena_hold *hold, size_t index);
void arenas_leave(struct arenas *arenas, struct arena_hold *hold);

/* Goes on from an arena got by arenas_enter() that would have to grow for so many bytes to the next
 * one that looks as if it need not: before one grows, what is free in all of them is used. Waits a
 * moment for one that is taken, unless there are more than are wanted for speed, since so many were
 * held at once. False: none is left, and none is locked. */
bool arenas_move_on(struct arenas *arenas, struct arena_hold *hold, size_t bytes);

/* Whether anything that was freed remotely is left, in an arena that is entered; and works off the
 * whole of it. */
static inline bool arenas_have_remote(const struct arena_hold *hold)
{
    return (word_peek(&hold->slot->remote) | hold->slot->reaping) != 0;
}
void arenas_work_off(struct arena_hold *hold);

/* Whether there is an arena of that index, and the table says what it can say. */
bool arenas_has(const struct arenas *arenas, size_t index);

/* Sees to it that no change of a dead process to that arena is half done: for whoever looks at
 * words of its own that the arena's changes may have stored. False: that cannot be known now. */
bool arenas_settle(struct arenas *arenas, size_t index);

/* The same for all arenas and for the making of one, however long it takes. */
void arenas_settle_all(struct arenas *arenas);

/* Whether somebody waited for one of them in vain since its holder came: a hint. */
bool arenas_are_stuck(const struct arena_table *table);

/* Bytes that all arenas have; each at its own instant. */
size_t arenas_footprint(const struct arena_table *table);

#endif
