/* test_wrong_pointers.c - every kind of pointer that is no block, passed to every call that takes
 * one.
 *
 * This holds on each backend, with and without a cache: the call fails with one fault, which has
 * the call's name; errno is EINVAL if the call sets errno at all; the heap is unchanged.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap/heap.h"

enum { KIB = 1 << 10, MIB = 1 << 20, SIZE = 200 };

static dvsm_heap *heap;
static int faults;
static char function[64];

static void remember(const dvsm_fault *fault)
{
    faults++;
    snprintf(function, sizeof function, "%s", fault->function);
}

/* Hides from the compiler what is done to the pointer. */
static void *hidden(const void *pointer)
{
    void *volatile copy = (void *)(uintptr_t)pointer;

    return copy;
}

/* ---- the pointers ---------------------------------------------------------------------------- */

/* A block with neighbours in use. Its content must not look like a header: a word that led to
 * another header would be accepted. */
static char *block_of(size_t size)
{
    dvsm_heap_malloc(heap, size);
    char *p = dvsm_heap_malloc(heap, size);
    dvsm_heap_malloc(heap, size);
    memset(p, 0xa7, size);
    return p;
}

static void *inside(void)
{
    return block_of(SIZE) + 64;
}

static void *one_byte_inside(void)
{
    return block_of(SIZE) + 1;
}

static void *half_a_unit_inside(void)
{
    return block_of(SIZE) + 8;
}

static void *before(void)
{
    return block_of(SIZE) - 16;
}

static void *at_the_end_of_its_bytes(void)
{
    char *p = block_of(SIZE);

    return p + dvsm_malloc_usable_size(p);
}

static void *inside_a_large_one(void)
{
    return block_of(MIB) + 4096;
}

static void *a_granule_inside_a_large_one(void)
{
    return block_of(MIB) + 2 * GRANULE;
}

static void *before_a_large_one(void)
{
    return block_of(MIB) - 16;
}

static void *inside_an_aligned_one(void)
{
    char *p = dvsm_heap_memalign(heap, 4096, 10000);

    return p + 4096;
}

static void *before_an_aligned_one(void)
{
    char *p = dvsm_heap_memalign(heap, 4096, 10000);

    return p - 64;
}

static void *inside_top(void)
{
    char *p = dvsm_heap_malloc(heap, 3000);

    return p + 6000;
}

static void *free_granules(void)
{
    dvsm_free(dvsm_heap_malloc(heap, MIB));
    return heap->region->granules + heap->region->granule_count * GRANULE - GRANULE + 16;
}

static void *the_first_granule(void)
{
    dvsm_heap_malloc(heap, SIZE);
    return heap->region->granules;
}

static void *retained_granules(void)
{
    char *p = dvsm_heap_malloc(heap, 4 * MIB);

    dvsm_free(p);
    return p + MIB;
}

static void *the_stack(void)
{
    static char *place;
    _Alignas(16) char local[64];

    place = hidden(local);
    return place;
}

static void *a_constant(void)
{
    static const _Alignas(16) char text[32] = "text";

    return hidden(text);
}

static void *private_memory(void)
{
    static void *p;

    free(p);
    p = malloc(100);
    return hidden(p);
}

static void *a_function(void)
{
    return (void *)((uintptr_t)a_constant & ~(uintptr_t)15);
}

static void *the_lowest_page(void)
{
    return (void *)(uintptr_t)16;
}

static void *the_highest_address(void)
{
    return (void *)(UINTPTR_MAX & ~(uintptr_t)15);
}

static void *just_before_the_region(void)
{
    return heap->region->base - 16;
}

static void *just_behind_the_region(void)
{
    return heap->region->base + heap->region->bytes;
}

static void *a_destroyed_heap(void)
{
    dvsm_heap *other = dvsm_heap_create(&(dvsm_options){.reserve = 32 * MIB});
    void *p = dvsm_heap_malloc(other, SIZE);

    dvsm_heap_destroy(other);
    return p;
}

/* ---- the allocator's own records, each with a word before it that could be a header */

static void *the_header(void)
{
    return heap->region->base + 64;
}

static void *the_regions_start(void)
{
    return heap->region->base;
}

static void *an_arena(void)
{
    dvsm_heap_malloc(heap, SIZE);
    return (char *)region_arena(heap->region, 0) + 256;
}

static void *an_arena_not_made_yet(void)
{
    return (char *)region_arena(heap->region, heap->region->arenas.most - 1) + 64;
}

static void *the_arenas_journal(void)
{
    dvsm_heap_malloc(heap, SIZE);
    return (void *)((uintptr_t)&region_arena(heap->region, 0)->arena.journal.entry[3] &
                    ~(uintptr_t)15);
}

static void *a_lane(void)
{
    return (char *)heap->region->cache.lanes + 128;
}

static void *a_depot(void)
{
    return (char *)&heap->region->cache.depots[13] + 16;
}

static void *the_granule_map(void)
{
    return (char *)heap->region->map + 32;
}

static void *a_granules_word(void)
{
    dvsm_heap_malloc(heap, SIZE);
    return (void *)((uintptr_t)segment_words(heap->region->map) + 16);
}

static void *a_magazine(void)
{
    dvsm_free(dvsm_heap_malloc(heap, SIZE));
    word w = 0;

    for (size_t cpu = 0; cpu < heap->region->cache.cpus && w == 0; cpu++)
        w = heap->region->cache.classes > 0 ? heap->region->cache.lanes[cpu].loaded[13] : 0;
    return w != 0 ? (char *)(w & ~(word)511) + 32 : heap->region->base + 32;
}

/* ---- freed before */

/* Other blocks come and go, none of that class, so that the freed block's memory is not handed
 * out. */
static void pass(size_t count)
{
    static void *other[1000];

    for (size_t i = 0; i < count; i++) {
        dvsm_free(other[i % 1000]);
        other[i % 1000] = dvsm_heap_malloc(heap, 400 + i % 300);
    }
    for (size_t i = 0; i < 1000; i++) {
        dvsm_free(other[i]);
        other[i] = NULL;
    }
}

static void *freed_just_now(void)
{
    void *p = block_of(SIZE);

    dvsm_free(p);
    return p;
}

static void *freed_long_ago(void)
{
    void *p = block_of(SIZE);

    dvsm_free(p);
    pass(5000);
    return p;
}

/* The block's magazine has gone to the depot, and half of it to another magazine. */
static void *freed_with_many(void)
{
    void *p[500];

    for (size_t i = 0; i < 500; i++)
        p[i] = dvsm_heap_malloc(heap, SIZE);
    for (size_t i = 0; i < 500; i++)
        dvsm_free(p[i]);
    return p[100];
}

static void *freed_and_trimmed(void)
{
    void *p = block_of(SIZE);

    dvsm_free(p);
    dvsm_heap_trim(heap, 0);
    return p;
}

static void *freed_and_merged(void)
{
    void *before = dvsm_heap_malloc(heap, SIZE), *p = dvsm_heap_malloc(heap, SIZE);
    void *after = dvsm_heap_malloc(heap, SIZE);

    dvsm_heap_malloc(heap, SIZE);
    dvsm_free(before);
    dvsm_free(after);
    dvsm_free(p);
    dvsm_heap_trim(heap, 0);
    return p;
}

static void *freed_by_bulk(void)
{
    void *p[3] = {block_of(SIZE), block_of(300), block_of(5000)}, *middle = p[1];

    dvsm_bulk_free(p, 3);
    return middle;
}

static void *freed_by_realloc(void)
{
    void *p = block_of(SIZE);

    dvsm_heap_malloc(heap, SIZE);
    return dvsm_heap_realloc(heap, p, 20000) != p ? p : NULL;
}

static void *freed_large(void)
{
    void *p = block_of(MIB);

    dvsm_free(p);
    return p;
}

static void *freed_aligned(void)
{
    void *p = dvsm_heap_memalign(heap, 1024, SIZE);

    dvsm_heap_malloc(heap, SIZE);
    dvsm_free(p);
    return p;
}

static void *freed_of_a_row(void)
{
    void *row[8];

    dvsm_heap_independent_calloc(heap, 8, SIZE, row);
    dvsm_free(row[4]);
    return row[4];
}

static void *freed_coarse(void)
{
    void *p = block_of(20000);

    dvsm_free(p);
    return p;
}

#define POINTER(make, in_heap)                                                                     \
    {                                                                                              \
#make, make, in_heap                                                                       \
    }

static const struct pointer {
    const char *name;
    void *(*make)(void);
    bool in_heap; /* bulk_free reports it; it leaves other pointers alone */
} pointers[] = {
    POINTER(inside, true),
    POINTER(one_byte_inside, false),
    POINTER(half_a_unit_inside, false),
    POINTER(before, true),
    POINTER(at_the_end_of_its_bytes, false),
    POINTER(inside_a_large_one, true),
    POINTER(a_granule_inside_a_large_one, true),
    POINTER(before_a_large_one, true),
    POINTER(inside_an_aligned_one, true),
    POINTER(before_an_aligned_one, true),
    POINTER(inside_top, true),
    POINTER(free_granules, false),
    POINTER(the_first_granule, false),
    POINTER(retained_granules, false),
    POINTER(the_stack, false),
    POINTER(a_constant, false),
    POINTER(private_memory, false),
    POINTER(a_function, false),
    POINTER(the_lowest_page, false),
    POINTER(the_highest_address, false),
    POINTER(just_before_the_region, false),
    POINTER(just_behind_the_region, false),
    POINTER(a_destroyed_heap, false),
    POINTER(the_header, false),
    POINTER(the_regions_start, false),
    POINTER(an_arena, false),
    POINTER(an_arena_not_made_yet, false),
    POINTER(the_arenas_journal, false),
    POINTER(a_lane, false),
    POINTER(a_depot, false),
    POINTER(the_granule_map, false),
    POINTER(a_granules_word, false),
    POINTER(a_magazine, false),
    POINTER(freed_just_now, true),
    POINTER(freed_long_ago, true),
    POINTER(freed_with_many, true),
    POINTER(freed_and_trimmed, false),
    POINTER(freed_and_merged, false),
    POINTER(freed_by_bulk, true),
    POINTER(freed_by_realloc, true),
    POINTER(freed_large, false),
    POINTER(freed_aligned, true),
    POINTER(freed_of_a_row, true),
    POINTER(freed_coarse, true),
};

/* ---- the calls; each says whether it failed as it should ------------------------------------- */

static bool call_free(void *p)
{
    errno = 5;
    dvsm_free(p);
    return errno == 5;
}

static bool call_free_sized(void *p)
{
    errno = 5;
    dvsm_free_sized(p, SIZE);
    return errno == 5;
}

static bool call_free_aligned_sized(void *p)
{
    errno = 5;
    dvsm_free_aligned_sized(p, 16, SIZE);
    return errno == 5;
}

static bool is_refused(const void *result)
{
    return result == NULL && errno == EINVAL;
}

static bool call_realloc_smaller(void *p)
{
    return is_refused(dvsm_realloc(p, 10));
}

static bool call_realloc_same(void *p)
{
    return is_refused(dvsm_realloc(p, SIZE));
}

static bool call_realloc_larger(void *p)
{
    return is_refused(dvsm_realloc(p, 50000));
}

static bool call_realloc_large(void *p)
{
    return is_refused(dvsm_realloc(p, 3 * MIB));
}

static bool call_reallocarray(void *p)
{
    return is_refused(dvsm_reallocarray(p, 30, 40));
}

static bool call_heap_realloc(void *p)
{
    return is_refused(dvsm_heap_realloc(heap, p, 1000));
}

static bool call_realloc_in_place(void *p)
{
    return is_refused(dvsm_realloc_in_place(p, 100));
}

static bool call_usable_size(void *p)
{
    return dvsm_malloc_usable_size(p) == 0;
}

/* The pointer stands between two blocks that are right. */
static bool call_bulk_free(void *p)
{
    void *blocks[3] = {dvsm_heap_malloc(heap, 777), p, dvsm_heap_malloc(heap, 888)};
    size_t left = dvsm_bulk_free(blocks, 3);

    if (left == 2 && blocks[2] != NULL) /* the fault ended the call */
        dvsm_free(blocks[2]);
    return blocks[0] == NULL && blocks[1] == p && left >= 1;
}

static const struct call {
    const char *name;
    bool (*make)(void *p);
} calls[] = {
    {"dvsm_free", call_free},
    {"dvsm_free_sized", call_free_sized},
    {"dvsm_free_aligned_sized", call_free_aligned_sized},
    {"dvsm_realloc", call_realloc_smaller},
    {"dvsm_realloc", call_realloc_same},
    {"dvsm_realloc", call_realloc_larger},
    {"dvsm_realloc", call_realloc_large},
    {"dvsm_reallocarray", call_reallocarray},
    {"dvsm_heap_realloc", call_heap_realloc},
    {"dvsm_realloc_in_place", call_realloc_in_place},
    {"dvsm_malloc_usable_size", call_usable_size},
    {"dvsm_bulk_free", call_bulk_free},
};

static void try_calls(const struct pointer *pointer, const char *where)
{
    void *kept = dvsm_heap_malloc(heap, SIZE);
    char *p = pointer->make();

    memset(kept, 9, SIZE);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        bool bulk = strcmp(calls[i].name, "dvsm_bulk_free") == 0;

        faults = 0;
        errno = 0;
        bool failed = calls[i].make(hidden(p));
        if (!failed || faults > 1 || (faults == 0 && (!bulk || pointer->in_heap)) ||
            (faults == 1 && strcmp(function, calls[i].name) != 0))
            fail_msg("%s of %s (%p), %s: %d faults, %s, the call %s", calls[i].name, pointer->name,
                     (void *)p, where, faults, faults > 0 ? function : "-",
                     failed ? "failed" : "did not fail");
    }
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(((char *)kept)[i], 9);
    dvsm_free(kept);
    if (dvsm_check(heap, stderr) != 0)
        fail_msg("after %s, %s", pointer->name, where);
}

static void test_every_wrong_pointer_to_every_call(void **state)
{
    const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_anon,
                                            &dvsm_backend_shm_open};

    (void)state;
    dvsm_set_fault_handler(remember);
    for (size_t b = 0; b < sizeof backends / sizeof backends[0]; b++)
        for (int cached = 0; cached < 2; cached++)
            for (size_t i = 0; i < sizeof pointers / sizeof pointers[0]; i++) {
                char where[80];

                snprintf(where, sizeof where, "%s, %s", backends[b]->name,
                         cached ? "cache" : "no cache");
                heap = dvsm_heap_create(&(dvsm_options){.backend = backends[b],
                                                        .reserve = 64 * MIB,
                                                        .cache_bytes = cached ? 0 : SIZE_MAX});
                assert_non_null(heap);
                try_calls(&pointers[i], where);
                assert_int_equal(dvsm_heap_destroy(heap), 0);
            }
    dvsm_set_fault_handler(NULL);
}

/* The calls without a heap argument have a path of their own. */
static void test_every_wrong_pointer_in_the_default_heap(void **state)
{
    (void)state;
    dvsm_set_fault_handler(remember);
    heap = dvsm_heap_default();
    for (size_t i = 0; i < sizeof pointers / sizeof pointers[0]; i++)
        try_calls(&pointers[i], "default heap");
    dvsm_set_fault_handler(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_wrong_pointer_to_every_call),
        cmocka_unit_test(test_every_wrong_pointer_in_the_default_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
