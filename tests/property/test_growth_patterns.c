/* test_growth_patterns.c - a search for patterns of use under which a heap grows without bound.
 *
 * A pattern says how many blocks live at a time, of which sizes and alignments; how they are
 * allocated, resized and freed, in which order, by how many threads or processes; and how many
 * blocks these pass to each other. All of that is drawn at random. The bytes that live at a time
 * have a bound. So must the footprint, however long the pattern goes on:
 *
 *     at most FACTOR times the most bytes that ever lived (with the cost of alignment), and SLACK,
 *         and what lanes can hold of large classes;
 *     in the second half of the time not noticeably more than in the first.
 *
 *     property_growth_patterns [seed [operations]]
 *
 * The seed of a pattern that fails is printed: given as seed, that pattern comes first. Operations
 * are those of all patterns together; beyond a million, patterns become longer as well as more. For
 * a search of an hour: scripts/growth-search.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "support/child.h"
#include "support/random.h"

enum {
    OPERATIONS = 300000,
    SLOTS_MOST = 2048, /* of one worker */
    WORKERS_MOST = 3,
    MAIL = 16,
    BATCHED_MOST = 20000,
    ROUNDS = 10,
    LIVE_MOST = 24 << 20, /* bytes that all blocks of a pattern have on average, at most */
    SLACK = 3 << 20,      /* caches, an arena's step, the heap itself */
    SLACK_A_WORKER = 1 << 20
};
#define FACTOR(bytes) ((bytes) + (bytes) / 2 + (bytes) / 4)

static struct random_run parameters;

/* ---- patterns */

enum sizes { SAME, NARROW, EVEN, DOUBLINGS, TWO_KINDS, DRIFTING, SIZES };
enum order { AT_RANDOM, RING, STACK, FILL_AND_DROP, EVERY_SECOND, ORDERS };

struct pattern {
    uint64_t seed;
    size_t workers;
    bool processes;
    size_t slots; /* of each worker */
    enum sizes sizes;
    enum order order;
    size_t least, most;     /* bytes */
    size_t alignments;      /* powers of two above 16 that are asked for */
    unsigned aligned_of_16; /* how many of 16 blocks are aligned by request */
    unsigned resize_of_16;
    unsigned zeroed_of_16;
    unsigned batch_of_16;
    unsigned mailed_of_16;
};

/* What workers share, in memory that children share, too. */
struct slot {
    void *block;
    size_t bytes; /* the bytes it is counted as */
    size_t alignment;
};

struct stage {
    struct pattern pattern;
    dvsm_heap *heap;
    size_t round, operations; /* of each worker in a round */
    _Atomic(void *) mail[MAIL];
    atomic_size_t live, live_most;
    atomic_size_t failed;
    struct slot slot[WORKERS_MOST][SLOTS_MOST];
};

static size_t mean_size(const struct pattern *p)
{
    return p->sizes == DOUBLINGS || p->sizes == TWO_KINDS ? p->least + p->most / 6
                                                          : (p->least + p->most) / 2;
}

static struct pattern draw(uint64_t seed)
{
    struct random_source r = {seed};
    struct pattern p = {.seed = seed};

    p.workers = random_once_in(&r, 3) ? 2 + random_below(&r, WORKERS_MOST - 1) : 1;
    p.processes = random_once_in(&r, 2);
    p.sizes = (enum sizes)random_below(&r, SIZES);
    p.order = (enum order)random_below(&r, ORDERS);
    p.least = random_size(&r, random_once_in(&r, 3) ? 40000 : 600);
    p.most = p.least + random_size(&r, random_once_in(&r, 4) ? 1 << 20 : 5000);
    p.alignments = random_below(&r, 17);
    p.aligned_of_16 = random_once_in(&r, 2) ? (unsigned)random_below(&r, 17) : 0;
    p.resize_of_16 = random_once_in(&r, 2) ? (unsigned)random_below(&r, 15) : 0;
    p.zeroed_of_16 = (unsigned)random_below(&r, 5);
    /* A batch is one request for all its elements. A batch of large ones leaves holes that only
     * few other requests fit: hence small ones only. */
    p.batch_of_16 =
        p.most < BATCHED_MOST && random_once_in(&r, 3) ? (unsigned)random_below(&r, 6) : 0;
    p.mailed_of_16 = p.workers > 1 ? (unsigned)random_below(&r, 9) : 0;

    size_t padded = mean_size(&p) + p.aligned_of_16 * (((size_t)16 << p.alignments) / 16);
    size_t fit = LIVE_MOST / p.workers / padded;

    p.slots = 1 + random_below(&r, random_once_in(&r, 3) ? 30 : SLOTS_MOST);
    if (p.slots > fit)
        p.slots = fit > 0 ? fit : 1;
    return p;
}

static void describe(const struct pattern *p)
{
    static const char *const sizes[] = {"same",      "narrow",    "even",
                                        "doublings", "two kinds", "drifting"};
    static const char *const orders[] = {"at random", "ring", "stack", "fill and drop",
                                         "every second"};

    printf("pattern %llu: %zu %s, %zu blocks each of %zu to %zu bytes (%s), %s; of 16: %u aligned "
           "up to %zu, "
           "%u resized, %u zeroed, %u in batches, %u mailed\n",
           (unsigned long long)p->seed, p->workers, p->processes ? "processes" : "threads",
           p->slots, p->least, p->most, sizes[p->sizes], orders[p->order], p->aligned_of_16,
           (size_t)16 << p->alignments, p->resize_of_16, p->zeroed_of_16, p->batch_of_16,
           p->mailed_of_16);
}

/* ---- a worker */

struct worker {
    struct stage *stage;
    struct random_source random;
    struct slot *slot;
    size_t at; /* the place, in orders that have one */
    bool dropping;
};

static bool of_16(struct worker *w, unsigned n)
{
    return random_below(&w->random, 16) < n;
}

static size_t draw_size(struct worker *w)
{
    const struct pattern *p = &w->stage->pattern;
    size_t span = p->most - p->least + 1;

    switch (p->sizes) {
    case SAME:
        return p->most;
    case NARROW:
        return p->most - random_below(&w->random, span < 64 ? span : 64);
    case DOUBLINGS:
        return p->least + random_size(&w->random, span);
    case TWO_KINDS:
        return random_once_in(&w->random, 10) ? p->most : p->least;
    case DRIFTING: /* to and fro, a little further each round */
        return p->least +
               (w->stage->round * span / 7 + random_below(&w->random, span / 4 + 1)) % span;
    default:
        return p->least + random_below(&w->random, span);
    }
}

static void count(struct stage *s, size_t more, size_t less)
{
    size_t live = atomic_fetch_add(&s->live, more - less) + more - less;
    size_t most = atomic_load(&s->live_most);

    while (live > most && !atomic_compare_exchange_weak(&s->live_most, &most, live))
        ;
}

/* A block is counted as its chunk; if it is aligned, as the distance to the next such place. */
static size_t weight(const void *block, size_t alignment)
{
    size_t bytes = dvsm_malloc_usable_size((void *)(uintptr_t)block) + CHUNK_HEADER;

    if (alignment <= 16)
        return bytes;
    size_t granules = (bytes + 65535) / 65536 * 65536 + 65536;
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    return alignment >= 4 * 65536 && granules < rounded ? granules : rounded;
}

static void drop(struct worker *w, struct slot *slot)
{
    if (slot->block == NULL)
        return;
    if (of_16(w, 2))
        dvsm_bulk_free(&slot->block, 1);
    else
        dvsm_free(slot->block);
    count(w->stage, 0, slot->bytes);
    *slot = (struct slot){NULL, 0, 1};
}

static void put(struct worker *w, struct slot *slot, void *block, size_t alignment)
{
    if (block == NULL) {
        atomic_fetch_add(&w->stage->failed, 1);
        return;
    }
    *slot = (struct slot){block, weight(block, alignment), alignment};
    memset(block, 1, 1);
    count(w->stage, slot->bytes, 0);
}

static void fill_batch(struct worker *w, struct slot *slot, size_t size)
{
    void *blocks[4];
    size_t room = (size_t)(w->slot + w->stage->pattern.slots - slot), n = room < 4 ? room : 4;

    for (size_t i = 0; i < n; i++)
        drop(w, slot + i);
    if (dvsm_heap_independent_calloc(w->stage->heap, n, size, blocks) == NULL) {
        atomic_fetch_add(&w->stage->failed, 1);
        return;
    }
    for (size_t i = 0; i < n; i++)
        put(w, slot + i, blocks[i], 1);
}

/* Exchanges the slot's block for one that another worker left, or for none. Both go on being
 * counted. */
static void mail(struct worker *w, struct slot *slot)
{
    size_t at = random_below(&w->random, MAIL);
    void *other = atomic_exchange(&w->stage->mail[at], slot->block);

    *slot = (struct slot){NULL, 0, 1};
    if (other != NULL) {
        slot->block = other;
        slot->bytes = weight(other, 1);
    }
}

static void allocate(struct worker *w, struct slot *slot)
{
    const struct pattern *p = &w->stage->pattern;
    dvsm_heap *heap = w->stage->heap;
    size_t size = draw_size(w);

    drop(w, slot);
    if (of_16(w, p->aligned_of_16)) {
        size_t alignment = (size_t)16 << random_below(&w->random, p->alignments + 1);

        put(w, slot, dvsm_heap_aligned_alloc(heap, alignment, size), alignment);
    } else if (of_16(w, p->batch_of_16)) {
        fill_batch(w, slot, size);
    } else if (of_16(w, p->zeroed_of_16)) {
        put(w, slot, dvsm_heap_calloc(heap, 1, size), 1);
    } else {
        put(w, slot, dvsm_heap_malloc(heap, size), 1);
    }
}

static void resize(struct worker *w, struct slot *slot)
{
    size_t size = draw_size(w);
    void *block = dvsm_heap_realloc(w->stage->heap, slot->block, size);

    if (block == NULL) {
        atomic_fetch_add(&w->stage->failed, 1);
        return;
    }
    count(w->stage, 0, slot->bytes);
    put(w, slot, block, block == slot->block ? slot->alignment : 1);
}

/* The next slot, and whether its block is to be freed only. */
static struct slot *next_slot(struct worker *w, bool *empty)
{
    size_t slots = w->stage->pattern.slots, at;

    *empty = false;
    switch (w->stage->pattern.order) {
    case AT_RANDOM:
        *empty = random_once_in(&w->random, 5);
        return &w->slot[random_below(&w->random, slots)];
    case STACK:
        if (w->dropping ? w->at == 0 : w->at == slots)
            w->dropping = !w->dropping;
        *empty = w->dropping;
        return &w->slot[w->dropping ? --w->at : w->at++];
    case FILL_AND_DROP:
    case EVERY_SECOND:
        if (w->at >= slots) {
            w->at = 0;
            w->dropping = !w->dropping;
        }
        at = w->at;
        *empty = w->dropping;
        w->at += w->dropping && w->stage->pattern.order == EVERY_SECOND ? 2 : 1;
        return &w->slot[at];
    default:
        return &w->slot[w->at++ % slots];
    }
}

static void work(struct worker *w)
{
    const struct pattern *p = &w->stage->pattern;

    for (size_t i = 0; i < w->stage->operations; i++) {
        bool empty;
        struct slot *slot = next_slot(w, &empty);

        if (empty)
            drop(w, slot);
        else if (slot->block != NULL && of_16(w, p->resize_of_16))
            resize(w, slot);
        else
            allocate(w, slot);
        if (slot->block != NULL && p->aligned_of_16 == 0 && of_16(w, p->mailed_of_16))
            mail(w, slot);
    }
}

static void begin(struct worker *w, struct stage *stage, size_t number)
{
    *w = (struct worker){.stage = stage,
                         .random = {stage->pattern.seed * 31 + stage->round * 7 + number},
                         .slot = stage->slot[number]};
}

static int work_in_child(void *context)
{
    work(context);
    return 0;
}

static void *work_in_thread(void *context)
{
    work(context);
    return NULL;
}

static void run_round(struct stage *stage)
{
    size_t workers = stage->pattern.workers;
    struct worker worker[WORKERS_MOST];
    pthread_t thread[WORKERS_MOST];
    pid_t child[WORKERS_MOST];

    for (size_t i = 0; i < workers; i++) {
        begin(&worker[i], stage, i);
        if (workers == 1)
            work(&worker[i]);
        else if (stage->pattern.processes)
            child[i] = start_child(work_in_child, &worker[i]);
        else
            assert_int_equal(pthread_create(&thread[i], NULL, work_in_thread, &worker[i]), 0);
    }
    for (size_t i = 0; i < workers && workers > 1; i++)
        if (stage->pattern.processes)
            assert_int_equal(wait_for_child(child[i]), 0);
        else
            pthread_join(thread[i], NULL);
}

/* ---- the search */

static double worst; /* the largest footprint so far, divided by its bound */

static void free_all(struct stage *stage)
{
    for (size_t i = 0; i < stage->pattern.workers; i++)
        for (size_t k = 0; k < stage->pattern.slots; k++)
            dvsm_free(stage->slot[i][k].block);
    for (size_t i = 0; i < MAIL; i++)
        dvsm_free(atomic_load(&stage->mail[i]));
}

/* What the lanes of the CPUs that the workers run on can hold of wide classes that the pattern may
 * use: a few MiB, where all that lives may be a few blocks. */
static size_t wide_bytes(const struct stage *stage)
{
    size_t lanes = word_peek(&stage->heap->region->cache.lanes_used), bytes = 0;

    for (unsigned cls = CLASS_COARSE_LAST + 1; cls < CACHE_CLASSES; cls++)
        if (class_size(cls) <= stage->pattern.most * 5 / 4)
            bytes += magazine_capacity(cls) * class_size(cls);
    return bytes * lanes;
}

static void expect_bounded(struct stage *stage, size_t first_half, size_t second_half)
{
    size_t live = atomic_load(&stage->live_most);
    size_t slack = SLACK + wide_bytes(stage);
    size_t bound = FACTOR(live) + slack + stage->pattern.workers * SLACK_A_WORKER;
    double part = (double)second_half / (double)bound;

    if (part > worst || getenv("DVSM_TEST_VERBOSE") != NULL) {
        describe(&stage->pattern);
        printf("    lived at most %zu KiB, footprint after half of it at most %zu, in the end %zu "
               "KiB: %.2f "
               "times what lived, %.2f of the bound\n",
               live >> 10, first_half >> 10, second_half >> 10, (double)second_half / (double)live,
               part);
    }
    if (part > worst)
        worst = part;
    /* Fewer bytes may have been alive in the first half than in the second: hence the comparison
     * with `live`. */
    bool grows =
        second_half > first_half + first_half / 4 + slack / 2 && second_half > live + live / 4;
    if (atomic_load(&stage->failed) != 0 || second_half > bound || grows)
        fail_msg("pattern %llu: %zu bytes lived, footprint %zu, then %zu, bound %zu; %zu failures",
                 (unsigned long long)stage->pattern.seed, live, first_half, second_half, bound,
                 atomic_load(&stage->failed));
}

static void try_pattern(struct stage *stage, uint64_t seed, size_t operations)
{
    size_t first_half = 0;

    memset(stage, 0, sizeof *stage);
    stage->pattern = draw(seed);
    stage->operations = operations / ROUNDS / stage->pattern.workers;
    stage->heap = dvsm_heap_create(&(dvsm_options){.reserve = (size_t)1 << 30});
    assert_non_null(stage->heap);
    segment_set_retain(&stage->heap->segments, 0); /* retained memory has a bound of its own */
    for (; stage->round < ROUNDS; stage->round++) {
        run_round(stage);
        if (stage->round == ROUNDS / 2)
            first_half = dvsm_heap_max_footprint(stage->heap);
    }
    expect_bounded(stage, first_half, dvsm_heap_max_footprint(stage->heap));
    assert_int_equal(dvsm_check(stage->heap, stderr), 0);
    free_all(stage);
    assert_int_equal(dvsm_check(stage->heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(stage->heap), 0);
}

static void test_no_pattern_grows(void **state)
{
    struct stage *stage =
        mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    size_t each = 3000 + parameters.operations / 300, done = 0;
    uint64_t seed = parameters.seed;

    (void)state;
    assert_ptr_not_equal(stage, MAP_FAILED);
    for (; done < parameters.operations; done += each, seed++)
        try_pattern(stage, seed, each);
    printf("%zu patterns of %zu operations; the worst has %.2f of its bound\n",
           (size_t)(seed - parameters.seed), each, worst);
    munmap(stage, sizeof *stage);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_pattern_grows),
    };

    parameters = random_run_from(argc, argv, OPERATIONS);
    return cmocka_run_group_tests_name("growth_patterns", tests, NULL, NULL);
}
