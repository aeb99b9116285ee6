/* survive.c - the survivor's work and the account of every byte.
 *
 * dvsm_check() finds that each byte of each segment is in one chunk, that chunks and map agree, and
 * that each cached block is in one place. The walk tells chunks in use from free and cached ones.
 * What remains is to compare the blocks in use with the ledger.
 */
#define _GNU_SOURCE
#include "crash/survive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crash/harness.h"
#include "crash/ledger.h"

enum {
    BLOCKS_MOST = 8192,
    PATIENCE = 10,    /* seconds: longer is a hang */
    HEADER_LINKS = 64 /* in its first bytes a block that is being freed may have links and a mark */
};

struct found {
    char *block;
    size_t usable;
    bool known;
};

static struct found found[BLOCKS_MOST];
static size_t found_count;
static struct ledger before;

/* ---- the account */

static void note_block(const dvsm_chunk *chunk, void *context)
{
    (void)context;
    if (chunk->state != DVSM_CHUNK_USED && chunk->state != DVSM_CHUNK_LARGE)
        return;
    if (the_heap->hardened && chunk->usable == 0)
        return; /* the process that it was on its way with has died */
    if (found_count < BLOCKS_MOST)
        found[found_count++] = (struct found){chunk->block, chunk->usable, false};
}

static void find_blocks(void)
{
    found_count = 0;
    dvsm_walk(the_heap, note_block, NULL);
    if (found_count == BLOCKS_MOST)
        give_up("too many blocks");
}

static struct found *find(const void *block)
{
    for (size_t i = 0; i < found_count; i++)
        if (found[i].block == block && !found[i].known)
            return &found[i];
    return NULL;
}

static void check_sound(void)
{
    int violations = dvsm_check(the_heap, stderr);

    if (violations != 0)
        violation("dvsm_check: %d violations", violations);
}

static void expect_held(const struct slot *slot)
{
    struct found *there = find(slot->block);
    long number = (long)(slot - ledger->slot);

    if (there == NULL)
        violation("the block of slot %ld, %zu bytes at %p, is lost", number, slot->size,
                  slot->block);
    there->known = true;
    if (there->usable < slot->size)
        violation("the block of slot %ld has %zu bytes, not %zu", number, there->usable,
                  slot->size);
    if (!slot_intact(slot, 0))
        violation("the block of slot %ld, %zu bytes at %p, was overwritten", number, slot->size,
                  slot->block);
}

/* What the dead may have besides their held blocks: how many at most and at least, and whether a
 * call made all of its blocks or none. */
struct allowance {
    size_t most, least;
    size_t calls;
    bool whole;
    size_t of[WORKERS_MOST]; /* of `most`, by worker */
    size_t either;           /* blocks of which either a free or another call may have died */
};

static size_t worker_of(const struct slot *slot)
{
    return (size_t)(slot - ledger->slot) / SLOTS_EACH;
}

static void look_up_held(const struct slot *slot)
{
    if (slot->state == SLOT_HELD)
        expect_held(slot);
}

static void allow(const struct slot *slot, struct allowance *allowed)
{
    if (slot->state != SLOT_ALLOCATING && slot->state != SLOT_RESIZING)
        return;
    size_t most = slot->extra;
    if (the_heap->hardened && slot->whole)
        most++; /* what is to become a batch is listed in a block of its own until it is whole */
    allowed->most += most;
    allowed->of[worker_of(slot)] += most;
    allowed->calls++;
    if (slot->state == SLOT_ALLOCATING)
        allowed->whole = slot->whole && !the_heap->hardened; /* there, one by one */
}

/* If the old block is gone, there must be a new one. */
static void look_up_resizing(const struct slot *slot, struct allowance *allowed)
{
    if (slot->state != SLOT_RESIZING)
        return;

    struct found *there = find(slot->block);
    if (there != NULL)
        there->known = true;
    else
        allowed->least++;
}

/* As long as a block that is being freed is there, it is as it was, except for links in its
 * first bytes. NB: once it is free, another process may get it. Processes that surely hold it were
 * looked up before; a process that died in the call that got it is known by what that call may
 * have. */
static void look_up_freeing(const struct slot *slot, struct allowance *allowed)
{
    struct found *there = slot->state == SLOT_FREEING ? find(slot->block) : NULL;

    if (there == NULL)
        return;

    bool same = there->usable >= slot->size && slot_intact(slot, HEADER_LINKS);
    bool others = allowed->most > allowed->of[worker_of(slot)];
    if (!same && !others)
        violation("the block at %p, not freed after all, was overwritten", slot->block);
    there->known = same;
    allowed->either += same && others;
}

static void list_unknown(void)
{
    for (size_t i = 0; i < found_count; i++)
        if (!found[i].known)
            fprintf(stderr, "  unknown: %zu bytes at %p\n", found[i].usable,
                    (void *)found[i].block);
    for (size_t i = 0; i < SLOTS; i++)
        if (ledger->slot[i].state > SLOT_EMPTY && ledger->slot[i].state != SLOT_HELD)
            fprintf(stderr, "  slot %zu: state %d, %zu bytes at %p\n", i,
                    (int)ledger->slot[i].state, ledger->slot[i].size, ledger->slot[i].block);
}

/* Held blocks come first: they may be blocks that another process was freeing or moving. */
static struct allowance look_up_all(void)
{
    struct allowance allowed = {0};

    for (size_t i = 0; i < SLOTS; i++)
        look_up_held(&ledger->slot[i]);
    for (size_t i = 0; i < SLOTS; i++)
        allow(&ledger->slot[i], &allowed);
    for (size_t i = 0; i < SLOTS; i++)
        look_up_resizing(&ledger->slot[i], &allowed);
    for (size_t i = 0; i < SLOTS; i++)
        look_up_freeing(&ledger->slot[i], &allowed);
    return allowed;
}

static size_t count_unknown(void)
{
    size_t unknown = 0;

    for (size_t i = 0; i < found_count; i++)
        unknown += !found[i].known;
    return unknown;
}

void account(void)
{
    check_sound();
    find_blocks();

    struct allowance allowed = look_up_all();
    size_t unknown = count_unknown(), most = unknown + allowed.either;

    if (unknown > allowed.most || most < allowed.least)
        list_unknown();
    if (unknown > allowed.most)
        violation("%zu blocks that nobody has, where the dead can have had %zu", unknown,
                  allowed.most);
    if (most < allowed.least)
        violation("a block that was being resized is gone");
    if (allowed.calls == 1 && allowed.whole && unknown != 0 && most < allowed.most)
        violation("%zu blocks of a call that was to make %zu", unknown, allowed.most);
}

/* ---- the survivor's work */

static void *get(size_t size)
{
    void *block = dvsm_malloc(size);

    if (block != NULL)
        memset(block, 0xee, size < 1024 ? size : 1024);
    return block;
}

/* Allocates and frees enough to make a lane exchange magazines, in both directions. */
static void exchange_magazines(size_t size)
{
    enum { MANY = 70 };
    void *blocks[MANY];

    for (int i = 0; i < MANY; i++)
        blocks[i] = get(size);
    for (int i = 0; i < MANY; i++)
        dvsm_free(blocks[i]);
}

static void work_a_little(void)
{
    static const size_t sizes[] = {24, 40, 120, 700, 3000, 40000, 100000, 300};
    enum { KINDS = sizeof sizes / sizeof *sizes };
    void *blocks[KINDS];

    for (size_t i = 0; i < KINDS; i++)
        blocks[i] = get(sizes[i]);
    for (size_t i = 0; i < KINDS; i += 2)
        dvsm_free(blocks[i]);
    for (size_t i = 1; i < KINDS; i += 2) {
        void *larger = dvsm_realloc(blocks[i], sizes[i] * 2);

        blocks[i] = larger != NULL ? larger : blocks[i];
    }
    for (size_t i = 1; i < KINDS; i += 2)
        dvsm_free(blocks[i]);
    exchange_magazines(40);
    exchange_magazines(1500);
}

/* The size of a block that the dead were working on. */
static size_t size_at_work(void)
{
    for (size_t i = 0; i < SLOTS; i++)
        if (ledger->slot[i].state > SLOT_EMPTY && ledger->slot[i].state != SLOT_HELD)
            return ledger->slot[i].size;
    return 40;
}

static void free_one(void)
{
    size_t wanted = size_at_work();
    struct slot *last = NULL;

    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *slot = &ledger->slot[i];

        if (slot->state == SLOT_HELD && (last == NULL || slot->size == wanted))
            last = slot;
    }
    if (last != NULL)
        call_free(last);
}

static bool is_block(const void *root)
{
    size_t i = 0;

    while (i < SLOTS && (root == NULL || ledger->slot[i].block != root))
        i++;
    return root == NULL || i < SLOTS;
}

/* Where the dead used roots: each is what it was or what it was to be, and others work. */
static void use_roots(void)
{
    static int mine;

    if (the_heap->region->roots.committed == 0)
        return;
    if (!is_block(dvsm_root_get(the_heap, "first")) ||
        !is_block(dvsm_root_get(the_heap, "second")) || !is_block(dvsm_root_get(the_heap, "third")))
        violation("a root has a value that nobody gave it");
    if (dvsm_root_set(the_heap, "mine", &mine) != 0 || dvsm_root_get(the_heap, "mine") != &mine ||
        dvsm_root_set(the_heap, "mine", NULL) != 0 || dvsm_root_get(the_heap, "mine") != NULL)
        violation("a root cannot be set, found or removed");
}

void touch_first(enum variant variant)
{
    switch (variant) {
    case MALLOC_FIRST:
        dvsm_free(get(size_at_work()));
        break;
    case FREE_FIRST:
        free_one();
        break;
    case TRIM_FIRST:
        dvsm_malloc_trim(0);
        break;
    case LARGE_FIRST:
        dvsm_free(get(200000));
        break;
    case WALK_FIRST:
        use_roots();
        dvsm_mallinfo();
        break;
    default:
        break;
    }
}

/* A thread can empty the lanes of its own CPU and of those that it may go to. The harness stays
 * on one CPU; but the stand-in decides which one the library sees. */
static void trim_on_each_cpu(void)
{
    const struct cache_table *table = &the_heap->region->cache;
    uint32_t cpu = standin.cpu_id;

    for (uint32_t i = 0; i < cache_lanes(table); i++)
        if (i % table->cpus != cpu && table->lanes[i].filled != 0) {
            standin.cpu_id = i % (uint32_t)table->cpus;
            dvsm_malloc_trim(0);
        }
    standin.cpu_id = cpu;
    dvsm_malloc_trim(0);
}

/* How many blocks may be lost with the dead. Only hardened heaps lose any: those that were on their
 * way, half filled. */
static size_t lost_at_most(void)
{
    size_t blocks = 0;

    for (size_t i = 0; i < SLOTS && the_heap->hardened; i++) {
        const struct slot *slot = &before.slot[i];

        if (slot->state == SLOT_ALLOCATING || slot->state == SLOT_RESIZING)
            blocks += slot->extra;
        blocks += slot->state == SLOT_FREEING || slot->state == SLOT_RESIZING;
    }
    return blocks;
}

/* Frees all blocks: only what the heap itself needs may be left. */
static void free_all(void)
{
    dvsm_stats_t stats;

    find_blocks();
    for (size_t i = 0; i < found_count; i++)
        dvsm_free(found[i].block);
    trim_on_each_cpu();
    check_sound();
    dvsm_stats(the_heap, &stats);
    if (stats.used_blocks > lost_at_most())
        violation("%zu blocks in use after all were freed", stats.used_blocks);
    if (stats.retained_bytes != 0 && the_heap->backend == &dvsm_backend_memfd)
        violation("%zu bytes retained after a trim", stats.retained_bytes);
    if (stats.cached_blocks != 0)
        violation("%zu blocks cached after a trim", stats.cached_blocks);
}

void survive(enum variant variant)
{
    memcpy(&before, ledger, sizeof before);
    place.variant = variant;
    alarms = 0;
    alarm(PATIENCE);
    touch_first(variant);
    account();
    use_roots();
    work_a_little();
    account();
    free_all();
    alarm(0);
    memcpy(ledger, &before, sizeof before);
}
