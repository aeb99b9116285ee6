/* arenas.c - making arenas, choosing one, locking it. */
#define _GNU_SOURCE
#include "arena/arenas.h"
#include "sync/report.h"

#include <sched.h>

#include "arena/remote.h"
#include "dvsm/dvsm.h"

/* How long a thread waits for a lock before it tries something else, and how often it waits if
 * there is nothing else to try. */
enum { WAIT_MS = 4, WAITS_MOST = 250 };

enum patience {
    NO_WAIT,
    A_MOMENT,    /* but no wait for a stuck lock */
    IN_ANY_CASE, /* a moment even for a stuck lock */
    AS_LONG_AS_NEEDED
};

/* How many remotely freed blocks are worked off each time an arena is entered or left. */
enum { REMOTE_MOST = 64 };

int arenas_init(struct arena_table *table, char *slots, size_t stride, size_t most,
                struct seal seal, bool hardened)
{
    table->slots = slots;
    table->stride = stride;
    table->most = most;
    table->wanted = 1;
    table->seal = seal;
    table->hardened = hardened;
    return lock_init(&table->lock, LOCK_ARENA_TABLE);
}

void arenas_open(struct arenas *arenas, struct arena_table *table, struct segments *segments)
{
    *arenas = (struct arenas){
        .table = table,
        .segments = segments,
        .slots = table->slots,
        .stride = table->stride,
        .most = table->most,
        .seal = table->seal,
        .hardened = table->hardened,
    };
    region_source_init(&arenas->source, segments);
}

/* ---- making ---------------------------------------------------------------------------------- */

static const struct policy *policy_of(const struct arenas *arenas)
{
    return arenas->segments->policy;
}

/* If the policy's granularity was overwritten, the arena refuses it and keeps the default. */
static void set_parameters(struct arena *arena, const struct policy *policy)
{
    arena_set_parameter(arena, DVSM_M_TRIM_THRESHOLD, word_peek(&policy->trim_threshold));
    arena_set_parameter(arena, DVSM_M_GRANULARITY, word_peek(&policy->granularity));
    arena_set_parameter(arena, DVSM_M_MMAP_THRESHOLD, word_peek(&policy->large_threshold));
    arena->growth_most = policy->growth_most;
}

/* The slot is not in use until `count` includes it, so a thread that dies here leaves nothing to
 * repair. */
static bool make_slot(struct arenas *arenas, size_t index)
{
    struct arena_table *table = arenas->table;
    struct arena_slot *slot = arenas_slot(table, index);

    if (table->committed <= index && !segment_charge(arenas->segments, slot, table->stride,
                                                     (word *)&table->committed, index + 1))
        return false;
    if (lock_init(&slot->lock, LOCK_ARENA) != 0)
        return false;
    slot->recoveries = slot->recovering = slot->stuck = 0;
    slot->remote = slot->reaping = 0;
    arena_init(&slot->arena, index + 1);
    set_parameters(&slot->arena, policy_of(arenas));
    slot->arena.seal = arenas->seal;
    __atomic_store_n(&table->count, index + 1, __ATOMIC_RELEASE);
    return true;
}

/* Whether the table's fields are plausible. `committed`, and the memory that it stands for, may be
 * more than `count`. */
static bool is_whole(const struct arenas *arenas)
{
    const struct arena_table *table = arenas->table;

    return table->slots == arenas->slots && table->stride == arenas->stride &&
           table->most == arenas->most && table->committed <= table->most &&
           arenas_count(table) <= table->committed;
}

/* Repairs the table after its lock's holder died. If what the holder left cannot be right, no more
 * arenas are made, and no more are used than there can be. False: whether it is right cannot be
 * known now, because a store to `committed` may be under way. */
static bool recover_table(struct arenas *arenas)
{
    struct arena_table *table = arenas->table;

    if (!segment_settle(arenas->segments))
        return false;
    table->recovering = 0;
    if (is_whole(arenas))
        return true;
    fault_note("damaged table of arenas", table);
    table->closed = 1;
    table->slots = arenas->slots;
    table->stride = arenas->stride;
    table->most = arenas->most;
    if (table->committed > table->most)
        table->committed = 0;
    if (table->count > table->committed)
        __atomic_store_n(&table->count, table->committed, __ATOMIC_RELEASE);
    return true;
}

static int milliseconds_of(enum patience patience)
{
    return patience == NO_WAIT ? 0 : patience == AS_LONG_AS_NEEDED ? LOCK_PATIENT : WAIT_MS;
}

static bool enter_table(struct arenas *arenas, enum patience patience)
{
    struct arena_table *table = arenas->table;

    switch (lock_acquire_within(&table->lock, milliseconds_of(patience))) {
    case LOCK_OWNER_DIED:
        table->recovering = 1;
        compiler_barrier();
        lock_repaired(&table->lock);
        break;
    case LOCK_ACQUIRED:
        break;
    default:
        return false;
    }
    if (likely(!table->recovering) || recover_table(arenas))
        return true;
    lock_release(&table->lock);
    return false;
}

/* A thread that finds the table taken does not wait, because there are other arenas; it does wait
 * for the first one. */
bool arenas_make(struct arenas *arenas, size_t index)
{
    struct arena_table *table = arenas->table;
    bool made = true;

    if (index >= table->most || !enter_table(arenas, index == 0 ? AS_LONG_AS_NEEDED : NO_WAIT))
        return false;
    if (table->closed)
        made = false;
    else if (table->count == index)
        made = make_slot(arenas, index);
    lock_release(&table->lock);
    return made;
}

/* ---- locking --------------------------------------------------------------------------------- */

/* If any step is interrupted, the next survivor does it again. NB: settle the map first: its
 * journal may hold words of this arena. */
static bool recover(struct arenas *arenas, struct arena_slot *slot)
{
    if (!segment_settle(arenas->segments))
        return false;
    if (!arena_recover(&slot->arena, &arenas->source.source)) {
        fault_note("damaged journal", &slot->arena.journal);
        __atomic_store_n(&arenas->table->damaged, 1, __ATOMIC_RELAXED);
    }
    remote_recover(slot, arenas->segments->map);
    slot->recoveries++;
    compiler_barrier();
    slot->recovering = 0;
    return true;
}

/* Repairs the arena, just locked, as far as needed. True: it can be used; no half-done change of a
 * dead holder is left in it, nor a run of granules that it could not give back. */
static NOINLINE bool make_usable(struct arenas *arenas, struct arena_slot *slot,
                                 enum lock_state state)
{
    const struct arena_source *source = &arenas->source.source;

    if (state == LOCK_OWNER_DIED) {
        slot->recovering = 1;
        compiler_barrier();
        lock_repaired(&slot->lock);
    }
    if (slot->recovering && !recover(arenas, slot))
        return false;
    if (slot->arena.pending.bytes != 0 && !PLANTED(PENDING_LEFT))
        source->give(source, &slot->arena, (struct run){0});
    return slot->arena.pending.bytes == 0 || PLANTED(PENDING_LEFT) ||
           segment_is_damaged(arenas->segments->map);
}

static bool begin(struct arenas *arenas, struct arena_hold *hold, struct arena_slot *slot,
                  enum lock_state state)
{
    if (unlikely(state == LOCK_OWNER_DIED || slot->recovering || slot->arena.pending.bytes != 0) &&
        !make_usable(arenas, slot, state)) {
        lock_release(&slot->lock);
        return false;
    }
    hold->slot = slot;
    hold->footprint = slot->arena.footprint;
    arena_call_begin(&hold->call, &slot->arena, &arenas->source.source);
    if (unlikely(arenas_have_remote(slot)) && !arenas->hardened)
        remote_work_off(slot, arenas, REMOTE_MOST, &hold->found);
    return true;
}

static bool enter(struct arenas *arenas, struct arena_hold *hold, size_t index,
                  enum patience patience)
{
    struct arena_slot *slot = arenas_slot(arenas->table, index);

    if (patience == A_MOMENT && __atomic_load_n(&slot->stuck, __ATOMIC_RELAXED) != 0)
        patience = NO_WAIT;

    enum lock_state state = lock_acquire_within(&slot->lock, milliseconds_of(patience));
    hold->slot = NULL;
    if (unlikely(state == LOCK_TAKEN) && patience != NO_WAIT && lock_may_wait(LOCK_ARENA))
        __atomic_store_n(&slot->stuck, 1, __ATOMIC_RELAXED);
    if (state == LOCK_TAKEN || state == LOCK_REENTERED)
        return false;
    return begin(arenas, hold, slot, state);
}

bool arenas_enter_index(struct arenas *arenas, struct arena_hold *hold, size_t index)
{
    return enter(arenas, hold, index, A_MOMENT);
}

bool arenas_has(const struct arenas *arenas, size_t index)
{
    const struct arena_table *table = arenas->table;

    return index < arenas_count(table) && index < arenas->most && table->slots == arenas->slots &&
           table->stride == arenas->stride;
}

bool arenas_enter_patiently(struct arenas *arenas, struct arena_hold *hold, size_t index)
{
    if (!enter(arenas, hold, index, AS_LONG_AS_NEEDED))
        return false;
    arenas_work_off(arenas, hold);
    return true;
}

void arenas_work_off(const struct arenas *arenas, struct arena_hold *hold)
{
    remote_work_off(hold->slot, arenas, SIZE_MAX, &hold->found);
}

static bool settle(struct arenas *arenas, size_t index, enum patience patience)
{
    struct arena_hold hold;

    arena_hold_none(&hold);
    if (!arenas_has(arenas, index))
        return true;
    if (!enter(arenas, &hold, index, patience))
        return false;
    arenas_leave(arenas, &hold);
    return true;
}

bool arenas_settle(struct arenas *arenas, size_t index)
{
    return settle(arenas, index, A_MOMENT);
}

bool arenas_settle_patiently(struct arenas *arenas, size_t index)
{
    return settle(arenas, index, AS_LONG_AS_NEEDED);
}

void arenas_settle_all(struct arenas *arenas)
{
    if (enter_table(arenas, AS_LONG_AS_NEEDED))
        lock_release(&arenas->table->lock);
    for (size_t i = 0; i < arenas_count(arenas->table); i++)
        settle(arenas, i, AS_LONG_AS_NEEDED);
}

static bool enter_sound(struct arenas *arenas, struct arena_hold *hold, size_t index,
                        enum patience patience)
{
    if (!enter(arenas, hold, index, patience))
        return false;
    if (likely(!hold->slot->arena.damaged))
        return true;
    arenas_leave(arenas, hold);
    return false;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static size_t *preference(struct arena_table *table)
{
    int cpu = sched_getcpu();

    return &table->preferred[cpu < 0 ? 0 : (size_t)cpu % ARENAS_PREFERRED];
}

static void prefer(size_t *preferred, size_t index)
{
    __atomic_store_n(preferred, index + 1, __ATOMIC_RELAXED);
}

/* A thread that found its CPU's arena taken stays for a while with the arena that it got instead.
 * If many more processes than CPUs are at work, holders are interrupted while they hold the lock.
 * With a detour, each process then has an arena which few others use, and whose pages it has mapped
 * already. */
static __thread struct {
    const struct arena_table *table;
    size_t index, left;
} detour __attribute__((tls_model("initial-exec")));

static size_t footprint_of(const struct arena_slot *slot)
{
    return __atomic_load_n(&slot->arena.footprint, __ATOMIC_RELAXED);
}

size_t arenas_footprint(const struct arena_table *table)
{
    size_t sum = 0;

    for (size_t i = 0; i < arenas_count(table); i++)
        sum += footprint_of(arenas_slot(table, i));
    return sum;
}

bool arenas_are_stuck(const struct arena_table *table)
{
    for (size_t i = 0; i < arenas_count(table); i++)
        if (__atomic_load_n(&arenas_slot(table, i)->stuck, __ATOMIC_RELAXED) != 0)
            return true;
    return false;
}

static size_t smallest(const struct arena_table *table)
{
    size_t least = 0;

    for (size_t i = 1; i < arenas_count(table); i++)
        if (footprint_of(arenas_slot(table, i)) < footprint_of(arenas_slot(table, least)))
            least = i;
    return least;
}

/* Locks one of the first `count` arenas, tried from `first` on, without waiting. */
static bool enter_any(struct arenas *arenas, struct arena_hold *hold, size_t first, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (enter_sound(arenas, hold, (first + i) % count, NO_WAIT))
            return true;
    return false;
}

/* Whether there is no arena to wait for. */
static bool all_damaged(const struct arena_table *table)
{
    for (size_t i = 0; i < arenas_count(table); i++)
        if (!arenas_slot(table, i)->arena.damaged)
            return false;
    return true;
}

/* Makes one more arena for this CPU and locks it. */
static bool enter_new(struct arenas *arenas, struct arena_hold *hold, size_t *preferred,
                      size_t count)
{
    if (!arenas_make(arenas, count))
        return false;
    prefer(preferred, count);
    return enter_sound(arenas, hold, count, A_MOMENT);
}

/* The arena that a CPU without a preference tries first. */
static size_t choose_first(struct arena_table *table, size_t *preferred, size_t count)
{
    if (count < table->wanted)
        return 0;
    size_t index = smallest(table);
    prefer(preferred, index);
    return index;
}

/* The arena to wait for: from `first` on, the first one for which nobody has waited in vain, if
 * any. */
static size_t choose_to_wait_for(const struct arena_table *table, size_t first, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct arena_slot *slot = arenas_slot(table, (first + i) % count);

        if (word_peek(&slot->stuck) == 0 && !slot->arena.damaged)
            return (first + i) % count;
    }
    return first % count;
}

/* No arena can be locked at once. Waits a moment for up to three of them, then makes another one.
 * If none can be made, because memory is short or there are as many as there can be, waits longer:
 * a held arena is no lack of memory. A handler that interrupted a holder never waits. */
static NOINLINE bool enter_held(struct arenas *arenas, struct arena_hold *hold, size_t *preferred,
                                size_t first)
{
    bool waits = lock_may_wait(LOCK_ARENA);

    for (int n = 0; n < WAITS_MOST; n++) {
        size_t count = arenas_count(arenas->table);
        bool none = all_damaged(arenas->table);

        if (!none && waits &&
            enter_sound(arenas, hold, choose_to_wait_for(arenas->table, first + (size_t)n, count),
                        IN_ANY_CASE))
            return true;
        if (!none && enter_any(arenas, hold, first % count, count))
            return true;
        if ((none || !waits || n > 1) && enter_new(arenas, hold, preferred, count))
            return true;
        if (!waits || none)
            return false;
    }
    return false;
}

/* The preferred arena (index `first`, if it exists) cannot be locked: locks another one. */
static NOINLINE bool enter_other(struct arenas *arenas, struct arena_hold *hold, size_t *preferred,
                                 size_t first)
{
    struct arena_table *table = arenas->table;
    size_t count = arenas_count(table);

    if (first >= count) {
        if (count < table->wanted &&
            arenas_footprint(table) >= count * policy_of(arenas)->own_from &&
            enter_new(arenas, hold, preferred, count))
            return true;
        first = count > 0 ? choose_first(table, preferred, count) : 0;
    }
    if (count > 0 && enter_any(arenas, hold, first, count))
        return true;
    if (count < table->wanted && enter_new(arenas, hold, preferred, count))
        return true;
    return enter_held(arenas, hold, preferred, first);
}

static size_t index_of(const struct arena_hold *hold)
{
    return hold->slot->arena.id - 1;
}

/* NB: a handler may change `detour` between any two instructions. */
static bool enter_detour(struct arenas *arenas, struct arena_hold *hold, size_t count)
{
    size_t left = detour.left, index = detour.index;

    if (likely(left == 0) || detour.table != arenas->table)
        return false;
    detour.left = left - 1;
    return index < count && enter_sound(arenas, hold, index, NO_WAIT);
}

static void set_detour(const struct arenas *arenas, size_t index)
{
    detour.table = arenas->table;
    detour.index = index;
    detour.left = policy_of(arenas)->detour_uses;
}

static bool enter_one(struct arenas *arenas, struct arena_hold *hold)
{
    size_t *preferred = preference(arenas->table);
    size_t first = __atomic_load_n(preferred, __ATOMIC_RELAXED) - 1;
    size_t count = arenas_count(arenas->table);

    hold->slot = NULL;
    if (enter_detour(arenas, hold, count))
        return true;
    if (likely(first < count) && likely(enter_sound(arenas, hold, first, NO_WAIT)))
        return true;

    bool in_handler = !lock_may_wait(LOCK_ARENA); /* perhaps it interrupted the arena's holder */
    if (!enter_other(arenas, hold, preferred, first))
        return false;
    if (first < count && !in_handler &&
        index_of(hold) + 1 != __atomic_load_n(preferred, __ATOMIC_RELAXED))
        set_detour(arenas, index_of(hold));
    else
        detour.left = 0;
    return true;
}

bool arenas_enter(struct arenas *arenas, struct arena_hold *hold)
{
    if (!enter_one(arenas, hold))
        return false;
    hold->first = index_of(hold);
    return true;
}

/* Whether it may be worth while to lock that arena for `bytes`, judged without its lock. */
static bool is_promising(const struct arenas *arenas, size_t index, size_t bytes)
{
    const struct arena_slot *slot = arenas_slot(arenas->table, index);

    return arena_may_serve(&slot->arena, bytes) || arenas_have_remote(slot);
}

bool arenas_move_on(struct arenas *arenas, struct arena_hold *hold, size_t bytes)
{
    size_t count = arenas_count(arenas->table), first = hold->first;
    size_t next = (index_of(hold) + 1) % count;
    enum patience patience = count <= arenas->table->wanted ? A_MOMENT : NO_WAIT;

    arenas_leave(arenas, hold);
    for (; next != first; next = (next + 1) % count)
        if (is_promising(arenas, next, bytes) && enter_sound(arenas, hold, next, patience)) {
            hold->first = first;
            return true;
        }
    return false;
}

/* If this CPU's arena has more than its share, the CPU prefers the smallest arena from now on. */
static NOINLINE void even_out(const struct arenas *arenas, const struct arena_slot *slot)
{
    struct arena_table *table = arenas->table;
    const struct policy *policy = policy_of(arenas);
    size_t mean = arenas_footprint(table) / arenas_count(table);

    if (footprint_of(slot) <= mean + policy_part(mean, policy->uneven_part) + policy->uneven_least)
        return;
    prefer(preference(table), smallest(table));
    detour.left = 0;
}

void arenas_leave(struct arenas *arenas, struct arena_hold *hold)
{
    struct arena_slot *slot = hold->slot;

    if (slot == NULL)
        return;
    bool look = slot->arena.footprint > hold->footprint || ++slot->uses % POLICY_UNEVEN_USES == 0;
    if (unlikely(slot->arena.damaged))
        __atomic_store_n(&arenas->table->damaged, 1, __ATOMIC_RELAXED);
    if (unlikely(arenas_have_remote(slot)) && !arenas->hardened)
        remote_work_off(slot, arenas, REMOTE_MOST, &hold->found);
    if (unlikely(word_peek(&slot->stuck) != 0))
        __atomic_store_n(&slot->stuck, 0, __ATOMIC_RELAXED);
    lock_release(&slot->lock);
    hold->slot = NULL;
    if (unlikely(look) && arenas_count(arenas->table) > 1)
        even_out(arenas, slot);
}
