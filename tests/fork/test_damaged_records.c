/* test_damaged_records.c - a survivor believes the records of a dead process only if they are
 * possible.
 *
 * A child takes one of the heap's locks, writes anything into the records that guide a survivor
 * (the journal, what is pending, in transit, being released, ...), and dies. The survivor reports a
 * fault, stores nothing outside the region, neither crashes nor hangs, and goes on with the rest of
 * the heap.
 *
 *     fork_damaged_records [seed [operations, a few hundred to each mutation]]
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/depot.h"
#include "heap/heap.h"
#include "segment/segment_map.h"
#include "support/child.h"
#include "support/random.h"

enum { KIB = 1 << 10, MIB = 1 << 20, CLASS = 10, SIZE = CLASS * CLASS_STEP - CHUNK_OVERHEAD };

static dvsm_heap *heap;
static word private_words[64]; /* not in the heap */
static size_t faults;
static char last_fault[64];

static void note_fault(const dvsm_fault *fault)
{
    faults++;
    snprintf(last_fault, sizeof last_fault, "%s", fault->what);
}

static bool has_cache(void)
{
    return heap->cache.table->classes > 0;
}

static void make_heap(void)
{
    heap = dvsm_heap_create(&(dvsm_options){.reserve = 64 * MIB});
}

static struct arena_slot *slot(size_t index)
{
    return region_arena(heap->region, index);
}

static struct depot *depot(void)
{
    return depot_of(&heap->cache, CLASS);
}

static struct segment_map *map(void)
{
    return heap->segments.map;
}

static void number_private_words(void)
{
    for (size_t i = 0; i < 64; i++)
        private_words[i] = i;
}

/* Puts the heap to use: there may be two arenas, magazines are in stock, granules are retained. */
enum { BLOCKS = 300 };
static void *block[BLOCKS];

static void use_heap(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        block[i] = dvsm_heap_malloc(heap, i % 3 == 0 ? 1000 + 10 * i : SIZE);
    for (size_t i = 0; i < BLOCKS; i++)
        if (i % 4 != 0) {
            dvsm_free(block[i]);
            block[i] = NULL;
        }
    dvsm_free(dvsm_heap_malloc(heap, 300 * KIB));
}

/* ---- one record, one value that it cannot have ----------------------------------------------- */

enum part { ARENA, MAP, DEPOT, TABLE };

struct damage {
    const char *name;
    enum part part;
    void (*write)(void);
};

static void entry(struct journal *j, const void *address, word old)
{
    j->entry[0] = (struct journal_entry){(word *)(uintptr_t)address, old};
    j->count = 1;
}

static struct journal *arena_journal_of(size_t index)
{
    return &slot(index)->arena.journal;
}

static void arena_names_private(void)
{
    entry(arena_journal_of(0), &private_words[3], 666);
}

static void arena_names_misaligned(void)
{
    entry(arena_journal_of(0), (char *)&slot(0)->arena.top + 1, 666);
}

static void arena_names_null(void)
{
    entry(arena_journal_of(0), NULL, 666);
}

static void arena_names_what_is_behind_the_region(void)
{
    entry(arena_journal_of(0), heap->region->base + heap->region->bytes, 666);
}

static void arena_names_free_granules(void)
{
    entry(arena_journal_of(0), heap->region->base + heap->region->bytes - GRANULE, 666);
}

static void arena_names_the_header(void)
{
    entry(arena_journal_of(0), &heap->region->identity.magic, 666);
}

static void arena_names_a_lock(void)
{
    entry(arena_journal_of(0), &slot(0)->lock, 666);
}

static void arena_names_its_id(void)
{
    entry(arena_journal_of(0), &slot(0)->arena.id, 666);
}

static void arena_counts_too_much(void)
{
    arena_journal_of(0)->count = JOURNAL_CAPACITY + 1;
}

static void arena_counts_far_too_much(void)
{
    arena_journal_of(0)->count = (size_t)1 << 40;
}

static void arena_gets_a_private_top(void)
{
    entry(arena_journal_of(0), &slot(0)->arena.top, (word)private_words);
}

static void arena_gets_a_private_bin(void)
{
    entry(arena_journal_of(0), &slot(0)->arena.bins.small[5].fd, (word)private_words);
}

static void pend(void *start, size_t bytes)
{
    slot(0)->arena.pending = (struct run){start, bytes};
}

static void pending_is_private(void)
{
    pend(private_words, GRANULE);
}

static void pending_is_misaligned(void)
{
    pend(heap->region->granules + 4096, GRANULE);
}

static void pending_is_endless(void)
{
    pend(heap->region->granules, SIZE_MAX / 2 + 1);
}

static void pending_is_nobodys(void)
{
    pend(heap->region->base + heap->region->bytes - GRANULE, GRANULE);
}

static void pending_is_in_use(void)
{
    pend(slot(0)->arena.segment.base, GRANULE);
}

static void map_names_private(void)
{
    entry(&map()->journal, &private_words[3], 666);
}

static void map_names_a_chunk(void)
{
    entry(&map()->journal, heap->region->granules, 666);
}

static void map_names_a_lock(void)
{
    entry(&map()->journal, &slot(0)->lock, 666);
}

static void map_counts_too_much(void)
{
    map()->journal.count = SIZE_MAX;
}

static void map_gets_a_free_run_too_long(void)
{
    entry(&map()->journal, &map()->level[0][map()->used],
          granule_word(FREE | FIRST, map()->granules + 5));
}

static void map_gets_a_wrong_maximum(void)
{
    entry(&map()->journal, &map()->level[1][0], 12345);
}

static void map_used_too_much(void)
{
    entry(&map()->journal, &map()->used, map()->granules + 1);
}

static void rewriting_is_outside(void)
{
    map()->rewriting = (struct granule_run){map()->granules - 1, 10};
}

static void rewriting_is_endless(void)
{
    map()->rewriting = (struct granule_run){2, SIZE_MAX};
}

static void releasing_is_outside(void)
{
    map()->releasing = (struct granule_run){SIZE_MAX - 1, 2};
}

static void releasing_is_taken(void)
{
    map()->releasing = (struct granule_run){0, 1};
}

static void depot_names_private(void)
{
    entry(depot_journal(depot()), &private_words[3], 666);
}

static void depot_names_another_depot(void)
{
    entry(depot_journal(depot()), &depot()[1].made, 666);
}

static void depot_counts_too_much(void)
{
    depot()->log.count = 1000;
}

static void transit_is_private(void)
{
    depot()->transit_new = (word)private_words + 2 * WORD + 1;
}

static void transit_is_another_class(void)
{
    unsigned other = CACHE_CLASSES - 1;

    while (other == CLASS || depot_of(&heap->cache, other)->units == 0)
        other--;
    depot()->transit_old = depot_of(&heap->cache, other)->units + WORD + 1;
}

static void transit_was_never_made(void)
{
    struct magazine_granule *g = (struct magazine_granule *)(depot()->units & ~(word)(GRANULE - 1));

    depot()->transit_new = (word)g + (UNITS - 1) * UNIT_BYTES + 2 * WORD + 1;
}

static void transit_is_in_stock(void)
{
    for (size_t i = 0; i < CPU_GROUPS; i++)
        if (depot()->stock[i] != 0)
            depot()->transit_new = depot()->stock[i];
}

static void stock_has_a_private_block(void)
{
    for (size_t i = 0; i < CPU_GROUPS; i++)
        if (depot()->stock[i] != 0)
            *magazine_last(depot()->stock[i]) = (word)private_words;
}

static void depot_names_no_arena(void)
{
    depot()->arena = 4000;
}

static void units_are_private(void)
{
    depot()->units = (word)private_words;
}

static void incoming_is_another_units(void)
{
    depot()->incoming = depot()->units + UNIT_BYTES;
}

static void depot_has_too_many_magazines(void)
{
    depot()->made += 1000;
}

static void pending_granule_is_an_arenas(void)
{
    depot()->pending = (struct run){heap->region->granules, GRANULE};
}

static void table_has_too_many(void)
{
    heap->region->arenas.count = heap->region->arenas.most + 1;
}

static void table_has_more_than_memory(void)
{
    heap->region->arenas.count = heap->region->arenas.committed + 1;
}

static void table_lies_elsewhere(void)
{
    heap->region->arenas.slots = (char *)private_words;
}

#define DAMAGE(part, function)                                                                     \
    {                                                                                              \
#function, part, function                                                                  \
    }

static const struct damage damages[] = {
    DAMAGE(ARENA, arena_names_private),
    DAMAGE(ARENA, arena_names_misaligned),
    DAMAGE(ARENA, arena_names_null),
    DAMAGE(ARENA, arena_names_what_is_behind_the_region),
    DAMAGE(ARENA, arena_names_free_granules),
    DAMAGE(ARENA, arena_names_the_header),
    DAMAGE(ARENA, arena_names_a_lock),
    DAMAGE(ARENA, arena_names_its_id),
    DAMAGE(ARENA, arena_counts_too_much),
    DAMAGE(ARENA, arena_counts_far_too_much),
    DAMAGE(ARENA, arena_gets_a_private_top),
    DAMAGE(ARENA, arena_gets_a_private_bin),
    DAMAGE(ARENA, pending_is_private),
    DAMAGE(ARENA, pending_is_misaligned),
    DAMAGE(ARENA, pending_is_endless),
    DAMAGE(ARENA, pending_is_nobodys),
    DAMAGE(ARENA, pending_is_in_use),
    DAMAGE(MAP, map_names_private),
    DAMAGE(MAP, map_names_a_chunk),
    DAMAGE(MAP, map_names_a_lock),
    DAMAGE(MAP, map_counts_too_much),
    DAMAGE(MAP, map_gets_a_free_run_too_long),
    DAMAGE(MAP, map_gets_a_wrong_maximum),
    DAMAGE(MAP, map_used_too_much),
    DAMAGE(MAP, rewriting_is_outside),
    DAMAGE(MAP, rewriting_is_endless),
    DAMAGE(MAP, releasing_is_outside),
    DAMAGE(MAP, releasing_is_taken),
    DAMAGE(DEPOT, depot_names_private),
    DAMAGE(DEPOT, depot_names_another_depot),
    DAMAGE(DEPOT, depot_counts_too_much),
    DAMAGE(DEPOT, transit_is_private),
    DAMAGE(DEPOT, transit_is_another_class),
    DAMAGE(DEPOT, transit_was_never_made),
    DAMAGE(DEPOT, transit_is_in_stock),
    DAMAGE(DEPOT, stock_has_a_private_block),
    DAMAGE(DEPOT, depot_names_no_arena),
    DAMAGE(DEPOT, units_are_private),
    DAMAGE(DEPOT, incoming_is_another_units),
    DAMAGE(DEPOT, depot_has_too_many_magazines),
    DAMAGE(DEPOT, pending_granule_is_an_arenas),
    DAMAGE(TABLE, table_has_too_many),
    DAMAGE(TABLE, table_has_more_than_memory),
    DAMAGE(TABLE, table_lies_elsewhere),
};

static struct lock *lock_of(enum part part)
{
    switch (part) {
    case ARENA:
        return &slot(0)->lock;
    case MAP:
        return &map()->lock;
    case DEPOT:
        return &depot()->lock;
    default:
        return &heap->region->arenas.lock;
    }
}

static int die_with_damage(void *context)
{
    const struct damage *damage = context;

    CHILD_CHECK(lock_acquire(lock_of(damage->part)) == LOCK_ACQUIRED);
    damage->write();
    kill(getpid(), SIGKILL);
    return 0;
}

static int die_of(const struct damage *damage)
{
    alarm(60);
    make_heap();
    CHILD_CHECK(heap != NULL);
    use_heap();
    if (damage->part == DEPOT && !has_cache())
        return CHILD_SKIP;
    number_private_words();
    CHILD_CHECK(WIFSIGNALED(run_in_child(die_with_damage, (void *)(uintptr_t)damage)));
    return 0;
}

static bool private_words_are_whole(void)
{
    for (size_t i = 0; i < 64; i++)
        if (private_words[i] != i)
            return false;
    return true;
}

static const char *message_for(enum part part)
{
    static const char *const messages[] = {"damaged journal", "damaged journal of the granule map",
                                           "damaged journal of a depot", "damaged table of arenas"};

    return messages[part];
}

/* The rest of the heap goes on working. */
static int go_on(enum part part)
{
    for (size_t i = 0; i < BLOCKS; i++) /* freed, or dropped if their part is set aside */
        dvsm_free(block[i]);
    for (size_t i = 0; i < BLOCKS; i++) {
        block[i] = dvsm_heap_malloc(heap, SIZE);
        if (part == MAP && block[i] == NULL)
            break; /* no new memory without the map */
        CHILD_CHECK(block[i] != NULL);
        memset(block[i], (int)i, SIZE);
    }
    CHILD_CHECK(block[0] != NULL);
    void *large = dvsm_heap_malloc(heap, 2 * MIB);
    CHILD_CHECK((large == NULL) == (part == MAP));
    dvsm_free(large);
    for (size_t i = 0; i < BLOCKS && block[i] != NULL; i++) {
        unsigned char *p = block[i];

        CHILD_CHECK(p[0] == (unsigned char)i && p[SIZE - 1] == (unsigned char)i);
        dvsm_free(p);
    }
    memset(block, 0, sizeof block);
    return 0;
}

static int survive_with_a_handler(void *context)
{
    const struct damage *damage = context;
    dvsm_stats_t stats;
    int status = die_of(damage);

    if (status != 0)
        return status;
    faults = 0;
    dvsm_set_fault_handler(note_fault);
    CHILD_CHECK(dvsm_reap(heap) >= 1);
    CHILD_CHECK(faults == 1);
    CHILD_CHECK(strcmp(last_fault, message_for(damage->part)) == 0);
    CHILD_CHECK(dvsm_reap(heap) == 0);
    CHILD_CHECK(go_on(damage->part) == 0);
    CHILD_CHECK(faults == 1);
    CHILD_CHECK(dvsm_check(heap, NULL) > 0 || damage->part == TABLE);
    CHILD_CHECK(dvsm_stats(heap, &stats) == 0);
    CHILD_CHECK(stats.arenas_damaged == (damage->part == ARENA));
    dvsm_heap_trim(heap, 0);
    CHILD_CHECK(private_words_are_whole());
    CHILD_CHECK(dvsm_heap_destroy(heap) == 0);
    return 0;
}

/* An ordinary call meets the damage, not dvsm_reap(). NB: not that of the table, which all calls
 * read without its lock. */
static int survive_by_allocating(void *context)
{
    const struct damage *damage = context;
    int status = die_of(damage);

    if (status != 0)
        return status;
    faults = 0;
    dvsm_set_fault_handler(note_fault);
    CHILD_CHECK(go_on(damage->part) == 0);
    CHILD_CHECK(faults <= 1);
    dvsm_reap(heap);
    CHILD_CHECK(faults == 1);
    CHILD_CHECK(private_words_are_whole());
    return 0;
}

/* Dies right after it began to set the part aside: the next survivor does it again. */
static int die_in_recovery(void *context)
{
    enum part part = *(const enum part *)context;
    size_t *damaged = part == ARENA ? &slot(0)->arena.damaged
                      : part == MAP ? &map()->damaged
                                    : &depot()->damaged;

    CHILD_CHECK(lock_acquire(lock_of(part)) == LOCK_OWNER_DIED);
    *damaged = 1;
    kill(getpid(), SIGKILL);
    return 0;
}

static int survive_a_survivor(void *context)
{
    const struct damage *damage = context;
    enum part part = damage->part;
    int status = die_of(damage);

    if (status != 0)
        return status;
    CHILD_CHECK(WIFSIGNALED(run_in_child(die_in_recovery, &part)));
    faults = 0;
    dvsm_set_fault_handler(note_fault);
    CHILD_CHECK(go_on(part) == 0);
    dvsm_reap(heap);
    CHILD_CHECK(go_on(part) == 0);
    CHILD_CHECK(faults <= 1);
    CHILD_CHECK(dvsm_check(heap, NULL) > 0);
    CHILD_CHECK(private_words_are_whole());
    return 0;
}

static int survive_with_the_default_handler(void *context)
{
    int status = die_of(context);

    if (status != 0)
        return status;
    dvsm_reap(heap);
    return 1; /* never reached */
}

static void expect_done(const struct damage *damage, child_work work)
{
    int status = run_in_child(work, (void *)(uintptr_t)damage);

    if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != CHILD_SKIP))
        fail_msg("%s: status %#x", damage->name, (unsigned)status);
}

static void test_a_handler_is_told_and_the_rest_works_on(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++)
        expect_done(&damages[i], survive_with_a_handler);
}

static void test_whoever_needs_the_lock_finds_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++)
        if (damages[i].part != TABLE)
            expect_done(&damages[i], survive_by_allocating);
}

static void test_a_survivor_killed_in_recovery_has_a_successor(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++)
        if (damages[i].part != TABLE)
            expect_done(&damages[i], survive_a_survivor);
}

static void test_the_default_handler_aborts_with_the_message(void **state)
{
    char text[400];

    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        int status = run_in_child_with_stderr(survive_with_the_default_handler,
                                              (void *)(uintptr_t)&damages[i], text, sizeof text);

        if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
            continue;
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT ||
            strstr(text, message_for(damages[i].part)) == NULL)
            fail_msg("%s: status %#x, \"%s\"", damages[i].name, (unsigned)status, text);
    }
}

/* ---- the map's journal stores to words of a depot -------------------------------------------- */

struct depot_word {
    word *place;
    word value;
    const char *what; /* the fault's text */
};

static int die_with_wrong_word(void *context)
{
    const struct depot_word *wrong = context;

    CHILD_CHECK(lock_acquire(&map()->lock) == LOCK_ACQUIRED);
    entry(&map()->journal, wrong->place, wrong->value);
    kill(getpid(), SIGKILL);
    return 0;
}

/* Nobody died with the depot's lock, so that it is not recovered: its words are checked when
 * they are used. */
static int survive_a_wrong_word(struct depot_word wrong)
{
    number_private_words();
    CHILD_CHECK(WIFSIGNALED(run_in_child(die_with_wrong_word, &wrong)));
    faults = 0;
    dvsm_set_fault_handler(note_fault);
    for (size_t i = 0; i < BLOCKS; i++)
        dvsm_free(block[i]);
    dvsm_heap_trim(heap, 0);
    CHILD_CHECK(faults == 1);
    CHILD_CHECK(strcmp(last_fault, wrong.what) == 0);
    CHILD_CHECK(go_on(DEPOT) == 0);
    CHILD_CHECK(private_words_are_whole());
    return 0;
}

static int survive_a_wrong_pending_run(void *context)
{
    size_t bytes = *(const size_t *)context;

    alarm(60);
    make_heap();
    use_heap();
    struct depot *d = depot();
    d->pending.start = heap->region->granules;
    return survive_a_wrong_word(
        (struct depot_word){&d->pending.bytes, bytes, "damaged record of a granule on its way"});
}

static int survive_wrong_units(void *context)
{
    size_t units = *(const size_t *)context;

    alarm(60);
    make_heap();
    use_heap();
    return survive_a_wrong_word(
        (struct depot_word){&depot()->units, units, "damaged list of a depot's units"});
}

static void test_a_depots_words_are_checked_where_they_are_used(void **state)
{
    size_t bytes[] = {GRANULE, GRANULE + 1, (size_t)1 << 47, SIZE_MAX};
    size_t units[] = {(size_t)private_words, 17, SIZE_MAX, SIZE_MAX & ~(size_t)(UNIT_BYTES - 1)};

    (void)state;
    make_heap();
    bool cached = has_cache();
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    for (size_t i = 0; i < 4 && cached; i++) {
        assert_int_equal(run_in_child(survive_a_wrong_pending_run, &bytes[i]), 0);
        assert_int_equal(run_in_child(survive_wrong_units, &units[i]), 0);
    }
}

/* ---- at random ------------------------------------------------------------------------------- */

static struct random_run arguments;
static struct random_source random_words;

/* Addresses and numbers of all kinds; most of them are wrong. */
static word any_word(void)
{
    struct random_source *r = &random_words;
    const struct region *region = heap->region;
    word granule = (word)region->granules;

    switch (random_below(r, 16)) {
    case 0:
        return 0;
    case 1:
        return random_below(r, 100);
    case 2:
        return random_next(r);
    case 3:
        return (word)&private_words[random_below(r, 64)];
    case 4:
        return (word)region->base - WORD;
    case 5:
        return (word)region->base + region->bytes;
    case 6:
        return (word)region->base + random_below(r, region->bytes);
    case 7:
        return ((word)region->base + random_below(r, region->bytes)) & ~(word)(WORD - 1);
    case 8:
        return granule + random_below(r, 64 * GRANULE) / CHUNK_ALIGN * CHUNK_ALIGN;
    case 9:
        return granule + random_below(r, 64) * GRANULE;
    case 10:
        return (word)slot(0) + random_below(r, sizeof(struct arena_slot)) / WORD * WORD;
    case 11:
        return (word)map() + random_below(r, sizeof(struct segment_map)) / WORD * WORD;
    case 12:
        return (word)&map()->level[random_below(r, map()->levels + 1)][random_below(r, 40)];
    case 13:
        return (word)depot() + random_below(r, sizeof(struct depot)) / WORD * WORD;
    case 14:
        return depot()->units + random_below(r, 3 * UNIT_BYTES / WORD) * WORD + random_below(r, 2);
    default:
        return (word)SIZE_MAX - random_below(r, 3);
    }
}

static void mutate_journal(struct journal *j)
{
    struct random_source *r = &random_words;
    size_t count = random_below(r, 6);

    for (size_t i = 0; i < count; i++)
        j->entry[i] = (struct journal_entry){(word *)any_word(), any_word()};
    j->count = random_once_in(r, 10) ? any_word() : count;
}

static void mutate(enum part part)
{
    struct random_source *r = &random_words;
    struct depot *d = depot();

    if (part != TABLE && random_once_in(r, 2))
        mutate_journal(part == ARENA ? arena_journal_of(0)
                       : part == MAP ? &map()->journal
                                     : depot_journal(d));
    switch (random_once_in(r, 3) && part != TABLE ? 4 : part) {
    case ARENA:
        pend((void *)any_word(), any_word());
        break;
    case MAP:
        if (random_once_in(r, 2))
            map()->rewriting = (struct granule_run){any_word(), any_word()};
        else
            map()->releasing = (struct granule_run){any_word(), any_word()};
        break;
    case DEPOT: {
        size_t *fields[] = {&d->transit_new, &d->transit_old, &d->arena,
                            &d->units,       &d->incoming,    &d->made};

        for (size_t i = 1 + random_below(r, 2); i > 0; i--)
            *fields[random_below(r, 5)] = any_word();
        break;
    }
    case TABLE:
        heap->region->arenas.committed = any_word();
        break;
    default:
        break;
    }
}

static int die_mutated(void *context)
{
    enum part part = *(const enum part *)context;

    CHILD_CHECK(lock_acquire(lock_of(part)) == LOCK_ACQUIRED);
    mutate(part);
    kill(getpid(), SIGKILL);
    return 0;
}

/* Makes all calls that could use a wrong record. They may fail or succeed. */
static void do_all(void)
{
    dvsm_stats_t stats;

    for (size_t i = 0; i < BLOCKS; i++) {
        block[i] = dvsm_heap_realloc(heap, block[i], i % 5 == 0 ? 3000 + i : SIZE);
        if (i % 3 == 0) {
            dvsm_free(block[i]);
            block[i] = NULL;
        }
    }
    void *large = dvsm_heap_malloc(heap, MIB), *huge = dvsm_heap_malloc(heap, 5 * MIB);
    dvsm_free(large);
    dvsm_free(huge);
    dvsm_reap(heap);
    dvsm_check(heap, NULL);
    dvsm_stats(heap, &stats);
    for (size_t i = 0; i < BLOCKS; i++)
        dvsm_free(block[i]);
    dvsm_heap_trim(heap, 0);
    dvsm_check(heap, NULL);
    for (size_t i = 0; i < 100; i++)
        block[i] = dvsm_heap_malloc(heap, 16 * i);
    for (size_t i = 0; i < 100; i++)
        dvsm_free(block[i]);
}

enum { MUTATIONS_A_CHILD = 20, OPERATIONS_A_MUTATION = 500 };

static int survive_mutations(void *context)
{
    uint64_t seed = *(const uint64_t *)context;

    signal(SIGSEGV, SIG_DFL); /* without the test runner's handler */
    signal(SIGBUS, SIG_DFL);
    signal(SIGABRT, SIG_DFL);
    dvsm_set_fault_handler(note_fault);
    for (unsigned i = 0; i < MUTATIONS_A_CHILD; i++) {
        alarm(60);
        random_words.state = seed + i;
        make_heap();
        CHILD_CHECK(heap != NULL);
        use_heap();
        number_private_words();
        enum part part = (enum part)random_below(&random_words, 4);
        if (part == DEPOT && !has_cache())
            part = MAP;
        CHILD_CHECK(WIFSIGNALED(run_in_child(die_mutated, &part)));
        do_all();
        if (!private_words_are_whole()) {
            fprintf(stderr, "mutation with seed %llu stored to private memory\n",
                    (unsigned long long)(seed + i));
            return 1;
        }
        CHILD_CHECK(dvsm_heap_destroy(heap) == 0);
    }
    return 0;
}

static void test_random_mutations_of_what_the_dead_left(void **state)
{
    (void)state;
    size_t mutations = arguments.operations / OPERATIONS_A_MUTATION;

    for (size_t done = 0; done < mutations; done += MUTATIONS_A_CHILD) {
        uint64_t seed = arguments.seed + done;
        int status = run_in_child(survive_mutations, &seed);

        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("mutations from seed %llu on: status %#x", (unsigned long long)seed,
                     (unsigned)status);
    }
}

/* ---- the policy ------------------------------------------------------------------------------ */

/* The policy has no lock and no journal: any process may have overwritten any of its numbers, at
 * any time. The heap then keeps more or less than it should, but stays sound. */

enum { NUMBERS = sizeof(struct policy) / sizeof(size_t), POLICIES_A_CHILD = 40 };

static void set_number(size_t which, size_t value)
{
    ((size_t *)(void *)&heap->region->policy)[which] = value;
}

static int go_by_the_policy(void)
{
    dvsm_heap_set_limit(heap, 48 * MIB);
    use_heap();
    do_all();
    CHILD_CHECK(arenas_make(&heap->arenas, arenas_count(&heap->region->arenas)));
    CHILD_CHECK(dvsm_heap_malloc(heap, 100 * MIB) == NULL); /* memory is short from here on */
    use_heap();
    do_all();
    CHILD_CHECK(dvsm_check(heap, stderr) == 0);
    CHILD_CHECK(faults == 0);
    CHILD_CHECK(private_words_are_whole());
    return 0;
}

static int survive_each_number(void *context)
{
    static const size_t values[] = {0, 1, 3, SIZE_MAX / 2 + 1, SIZE_MAX};

    (void)context;
    dvsm_set_fault_handler(note_fault);
    for (size_t i = 0; i < NUMBERS * sizeof values / sizeof *values; i++) {
        alarm(60);
        faults = 0;
        make_heap();
        number_private_words();
        if (i % 2 == 0)
            use_heap(); /* else the first arena begins with the number */
        set_number(i % NUMBERS, values[i / NUMBERS]);
        if (go_by_the_policy() != 0) {
            fprintf(stderr, "number %zu is %zu\n", i % NUMBERS, values[i / NUMBERS]);
            return 1;
        }
        CHILD_CHECK(dvsm_heap_destroy(heap) == 0);
    }
    return 0;
}

static int survive_random_numbers(void *context)
{
    (void)context;
    dvsm_set_fault_handler(note_fault);
    for (unsigned i = 0; i < POLICIES_A_CHILD; i++) {
        alarm(60);
        faults = 0;
        random_words.state = arguments.seed + i;
        make_heap();
        number_private_words();
        for (size_t which = 0; which < NUMBERS; which++)
            if (random_once_in(&random_words, 2))
                set_number(which, any_word());
        if (go_by_the_policy() != 0) {
            fprintf(stderr, "policy of seed %llu\n", (unsigned long long)(arguments.seed + i));
            return 1;
        }
        CHILD_CHECK(dvsm_heap_destroy(heap) == 0);
    }
    return 0;
}

static void test_any_number_in_the_policy_is_survived(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(survive_each_number, NULL), 0);
    assert_int_equal(run_in_child(survive_random_numbers, NULL), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_handler_is_told_and_the_rest_works_on),
        cmocka_unit_test(test_whoever_needs_the_lock_finds_it),
        cmocka_unit_test(test_a_survivor_killed_in_recovery_has_a_successor),
        cmocka_unit_test(test_the_default_handler_aborts_with_the_message),
        cmocka_unit_test(test_a_depots_words_are_checked_where_they_are_used),
        cmocka_unit_test(test_random_mutations_of_what_the_dead_left),
        cmocka_unit_test(test_any_number_in_the_policy_is_survived),
    };

    arguments = random_run_from(argc, argv, 200000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
