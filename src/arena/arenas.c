/* arenas.c - making arenas, choosing one, locking it. */
#define _GNU_SOURCE
#include "arena/arenas.h"

#include <sched.h>

/* How far above its share an arena may be before the CPUs that prefer it look for another. */
enum { UNEVEN_LEAST = 64 << 10, LOOK_AFTER_USES = 64 };

/* How large the arenas are, on average, when a CPU that has none of its own gets one. */
enum { OWN_FROM = 64 << 10 };

int arenas_init(struct arena_table *table, char *slots, size_t stride, size_t most)
{
    table->slots = slots;
    table->stride = stride;
    table->most = most;
    table->wanted = 1;
    return lock_init(&table->lock);
}

void arenas_open(struct arenas *arenas, struct arena_table *table, struct segments *segments)
{
    *arenas = (struct arenas){
        .table = table,
        .segments = segments,
        .slots = table->slots,
        .stride = table->stride,
        .most = table->most,
    };
    region_source_init(&arenas->source, segments);
}

/* ---- making ---------------------------------------------------------------------------------- */

/* An arena made later behaves as the first was told to. */
static void copy_parameters(struct arena *arena, const struct arena *first)
{
    arena->trim_threshold = first->trim_threshold;
    arena->trim_check = first->trim_threshold;
    arena->granularity = first->granularity;
    arena->large_threshold = first->large_threshold;
}

/* The slot is nobody's until the count says so: whoever dies here leaves nothing to repair. */
static bool make_slot(struct arenas *arenas, size_t index)
{
    struct arena_table *table = arenas->table;
    struct arena_slot *slot = arenas_slot(table, index);

    if (table->committed <= index && !segment_charge(arenas->segments, slot, table->stride,
                                                     (word *)&table->committed, index + 1))
        return false;
    if (lock_init(&slot->lock) != 0)
        return false;
    slot->recoveries = 0;
    arena_init(&slot->arena, index + 1);
    slot->arena.growth_most = ARENAS_GROWTH_MOST;
    if (index > 0)
        copy_parameters(&slot->arena, &arenas_slot(table, 0)->arena);
    __atomic_store_n(&table->count, index + 1, __ATOMIC_RELEASE);
    return true;
}

/* Whether the table says what it can say; `committed` and what lies behind it may be more than `count`. */
static bool is_whole(const struct arenas *arenas)
{
    const struct arena_table *table = arenas->table;

    return table->slots == arenas->slots && table->stride == arenas->stride &&
           table->most == arenas->most && table->committed <= table->most &&
           arenas_count(table) <= table->committed;
}

/* Where the dead left a table that cannot be theirs, no arena is made any more, and no more are used than
 * there can be. */
static void recover_table(struct arenas *arenas)
{
    struct arena_table *table = arenas->table;

    segment_settle(arenas->segments); /* `committed` may be being stored */
    if (is_whole(arenas))
        return;
    fault_note("damaged table of arenas", table);
    table->closed = 1;
    table->slots = arenas->slots;
    table->stride = arenas->stride;
    table->most = arenas->most;
    if (table->committed > table->most)
        table->committed = 0;
    if (table->count > table->committed)
        __atomic_store_n(&table->count, table->committed, __ATOMIC_RELEASE);
}

static bool enter_table(struct arenas *arenas)
{
    struct arena_table *table = arenas->table;

    switch (lock_acquire(&table->lock)) {
    case LOCK_OWNER_DIED:
        recover_table(arenas);
        lock_repaired(&table->lock);
        return true;
    case LOCK_ACQUIRED:
        return true;
    default:
        return false;
    }
}

bool arenas_make(struct arenas *arenas, size_t index)
{
    struct arena_table *table = arenas->table;
    bool made = true;

    if (index >= table->most || !enter_table(arenas))
        return false;
    if (table->closed)
        made = false;
    else if (table->count == index)
        made = make_slot(arenas, index);
    lock_release(&table->lock);
    return made;
}

/* ---- locking --------------------------------------------------------------------------------- */

static void begin(struct arenas *arenas, struct arena_hold *hold, struct arena_slot *slot,
                  enum lock_state state)
{
    const struct arena_source *source = &arenas->source.source;

    if (unlikely(state == LOCK_OWNER_DIED)) {
        if (!arena_recover(&slot->arena, source)) {
            fault_note("damaged journal", &slot->arena.journal);
            __atomic_store_n(&arenas->table->damaged, 1, __ATOMIC_RELAXED);
        }
        slot->recoveries++;
        lock_repaired(&slot->lock);
    }
    hold->slot = slot;
    hold->footprint = slot->arena.footprint;
    hold->call = (struct arena_call){.arena = &slot->arena, .source = source};
}

static bool enter(struct arenas *arenas, struct arena_hold *hold, size_t index, bool wait)
{
    struct arena_slot *slot = arenas_slot(arenas->table, index);
    enum lock_state state = wait ? lock_acquire(&slot->lock) : lock_try_acquire(&slot->lock);

    hold->slot = NULL;
    if (state == LOCK_TAKEN || state == LOCK_REENTERED)
        return false;
    begin(arenas, hold, slot, state);
    return true;
}

bool arenas_enter_index(struct arenas *arenas, struct arena_hold *hold, size_t index)
{
    return enter(arenas, hold, index, true);
}

bool arenas_settle(struct arenas *arenas, size_t index)
{
    const struct arena_table *table = arenas->table;
    struct arena_hold hold;

    if (index >= arenas_count(table) || index >= arenas->most || table->slots != arenas->slots ||
        table->stride != arenas->stride)
        return false;
    if (enter(arenas, &hold, index, true))
        arenas_leave(arenas, &hold);
    return true;
}

void arenas_settle_all(struct arenas *arenas)
{
    if (enter_table(arenas))
        lock_release(&arenas->table->lock);
    for (size_t i = 0; i < arenas_count(arenas->table); i++)
        arenas_settle(arenas, i);
}

static bool enter_sound(struct arenas *arenas, struct arena_hold *hold, size_t index, bool wait)
{
    if (!enter(arenas, hold, index, wait))
        return false;
    if (likely(!hold->slot->arena.damaged))
        return true;
    lock_release(&hold->slot->lock);
    hold->slot = NULL;
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

static size_t smallest(const struct arena_table *table)
{
    size_t least = 0;

    for (size_t i = 1; i < arenas_count(table); i++)
        if (footprint_of(arenas_slot(table, i)) < footprint_of(arenas_slot(table, least)))
            least = i;
    return least;
}

/* One of the first `count`, from `first` on. */
static bool enter_any(struct arenas *arenas, struct arena_hold *hold, size_t first, size_t count,
                      bool wait)
{
    for (size_t i = 0; i < count; i++)
        if (enter_sound(arenas, hold, (first + i) % count, wait))
            return true;
    return false;
}

/* Makes one more arena for this CPU and locks it. */
static bool enter_new(struct arenas *arenas, struct arena_hold *hold, size_t *preferred,
                      size_t count)
{
    if (!arenas_make(arenas, count))
        return false;
    prefer(preferred, count);
    return enter_sound(arenas, hold, count, true);
}

/* The first to be tried by a CPU that has no preference yet. */
static size_t choose_first(struct arena_table *table, size_t *preferred, size_t count)
{
    if (count < table->wanted)
        return 0;
    size_t index = smallest(table);
    prefer(preferred, index);
    return index;
}

static bool enter_one(struct arenas *arenas, struct arena_hold *hold)
{
    struct arena_table *table = arenas->table;
    size_t count = arenas_count(table);
    size_t *preferred = preference(table);
    size_t first = __atomic_load_n(preferred, __ATOMIC_RELAXED) - 1;

    hold->slot = NULL;
    if (likely(first < count) && likely(enter_sound(arenas, hold, first, false)))
        return true;
    if (first >= count) {
        if (count < table->wanted && arenas_footprint(table) >= count * OWN_FROM &&
            enter_new(arenas, hold, preferred, count))
            return true;
        first = count > 0 ? choose_first(table, preferred, count) : 0;
    }
    if (count > 0 && enter_any(arenas, hold, first, count, false))
        return true;
    if (count < table->wanted && enter_new(arenas, hold, preferred, count))
        return true;
    if (count > 0 && enter_any(arenas, hold, first, count, true))
        return true;
    /* None is left: all are damaged, or held by the very thread that calls. */
    return enter_new(arenas, hold, preferred, count);
}

static size_t index_of(const struct arena_hold *hold)
{
    return hold->slot->arena.id - 1;
}

bool arenas_enter(struct arenas *arenas, struct arena_hold *hold)
{
    if (!enter_one(arenas, hold))
        return false;
    hold->first = index_of(hold);
    return true;
}

bool arenas_move_on(struct arenas *arenas, struct arena_hold *hold)
{
    size_t count = arenas_count(arenas->table), first = hold->first;
    size_t next = (index_of(hold) + 1) % count;

    arenas_leave(arenas, hold);
    for (; next != first; next = (next + 1) % count)
        if (enter_sound(arenas, hold, next, true)) {
            hold->first = first;
            return true;
        }
    return false;
}

/* Where an arena has more than its share, this CPU goes on with the smallest. */
static NOINLINE void even_out(struct arena_table *table, const struct arena_slot *slot)
{
    size_t mean = arenas_footprint(table) / arenas_count(table);

    if (footprint_of(slot) > mean + mean / 8 + UNEVEN_LEAST)
        prefer(preference(table), smallest(table));
}

void arenas_leave(struct arenas *arenas, struct arena_hold *hold)
{
    struct arena_slot *slot = hold->slot;

    if (slot == NULL)
        return;
    bool look = slot->arena.footprint > hold->footprint || ++slot->uses % LOOK_AFTER_USES == 0;
    if (unlikely(slot->arena.damaged))
        __atomic_store_n(&arenas->table->damaged, 1, __ATOMIC_RELAXED);
    lock_release(&slot->lock);
    hold->slot = NULL;
    if (unlikely(look) && arenas_count(arenas->table) > 1)
        even_out(arenas->table, slot);
}
