/* test_heap_random.c - random calls of the public functions on a small heap.
 *
 * After every call: dvsm_check() finds nothing, no two live blocks overlap, the blocks hold what
 * was written, addresses are aligned, usable_size bytes are usable, and a refused call sets the
 * right errno and changed nothing. Memory that was given back is never touched.
 *
 *     property_heap_random [seed [operations]]
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dvsm/dvsm.h"
#include "support/guarded_backend.h"
#include "support/random.h"

enum {
    LIVE_MOST = 48,
    OPERATIONS = 1000000,
    BATCH_MOST = 12,
    SAMPLED_FROM = 4096, /* larger blocks are checked in places only */
    SAMPLE_STEP = 509
};
#define RESERVE ((size_t)24 << 20)
#define ALIGNMENT_LEAST (2 * sizeof(void *))

struct block {
    unsigned char *at;
    size_t bytes;
    unsigned char fill;
};

struct run {
    dvsm_heap *heap;
    struct random_source random;
    struct block live[LIVE_MOST];
    size_t count;
    size_t refused;
};

static struct random_run parameters;

static size_t step_of(size_t bytes)
{
    return bytes < SAMPLED_FROM ? 1 : SAMPLE_STEP;
}

static void fill(struct block *b)
{
    for (size_t i = 0; i < b->bytes; i += step_of(b->bytes))
        b->at[i] = b->fill;
    if (b->bytes > 0)
        b->at[b->bytes - 1] = b->fill;
}

/* Checks that the first `bytes` are as they were written, at the places that were written. */
static void check_contents(const struct block *b, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += step_of(b->bytes))
        assert_int_equal(b->at[i], b->fill);
}

static void check_apart(const struct run *r, const unsigned char *at, size_t bytes)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct block *b = &r->live[i];

        assert_true(at + bytes <= b->at || b->at + b->bytes <= at);
    }
}

static void add(struct run *r, void *at, size_t wanted, size_t alignment)
{
    size_t usable = dvsm_malloc_usable_size(at);

    assert_non_null(at);
    assert_true(usable >= wanted);
    assert_int_equal((uintptr_t)at % alignment, 0);
    assert_ptr_equal(dvsm_heap_of(at), r->heap);
    check_apart(r, at, usable);
    assert_true(r->count < LIVE_MOST);
    r->live[r->count] = (struct block){at, usable, (unsigned char)random_next(&r->random)};
    fill(&r->live[r->count++]);
}

/* Adds the block that a call returned, or checks that the call was refused properly. */
static void add_or_refused(struct run *r, void *at, size_t wanted, size_t alignment)
{
    if (at != NULL) {
        add(r, at, wanted, alignment);
        return;
    }
    assert_int_equal(errno, ENOMEM);
    r->refused++;
}

static size_t a_size(struct run *r)
{
    if (random_once_in(&r->random, 400))
        return SIZE_MAX - random_below(&r->random, 200);
    if (random_once_in(&r->random, 40))
        return random_size(&r->random, (size_t)3 << 20);
    return random_size(&r->random, (size_t)40 << 10) - 1;
}

static void do_malloc(struct run *r)
{
    size_t size = a_size(r);

    errno = 0;
    add_or_refused(r, dvsm_heap_malloc(r->heap, size), size, ALIGNMENT_LEAST);
}

static void do_calloc(struct run *r)
{
    size_t count = random_size(&r->random, 100), size = a_size(r) / 100;

    errno = 0;
    unsigned char *at = dvsm_heap_calloc(r->heap, count, size);
    for (size_t i = 0; at != NULL && i < count * size; i += step_of(count * size))
        assert_int_equal(at[i], 0);
    add_or_refused(r, at, at != NULL ? count * size : 0, ALIGNMENT_LEAST);
}

static void do_memalign(struct run *r)
{
    size_t alignment = (size_t)1 << random_below(&r->random, 21), size = a_size(r);

    errno = 0;
    add_or_refused(r, dvsm_heap_memalign(r->heap, alignment, size), size, alignment);
}

static void do_independent(struct run *r)
{
    size_t count = 1 + random_below(&r->random, BATCH_MOST), sizes[BATCH_MOST];
    void *blocks[BATCH_MOST];
    bool same = random_once_in(&r->random, 2);

    if (r->count + count > LIVE_MOST)
        return;
    for (size_t i = 0; i < count; i++)
        sizes[i] = random_size(&r->random, 5000) - 1;
    errno = 0;
    void **done = same ? dvsm_heap_independent_calloc(r->heap, count, sizes[0], blocks)
                       : dvsm_heap_independent_comalloc(r->heap, count, sizes, blocks);
    if (done == NULL)
        assert_int_equal(errno, ENOMEM);
    for (size_t i = 0; done != NULL && i < count; i++) {
        for (size_t byte = 0; same && byte < sizes[0]; byte++)
            assert_int_equal(((unsigned char *)blocks[i])[byte], 0);
        add(r, blocks[i], sizes[same ? 0 : i], ALIGNMENT_LEAST);
    }
}

static void forget(struct run *r, size_t index)
{
    r->live[index] = r->live[--r->count];
}

static void do_free(struct run *r)
{
    size_t index = random_below(&r->random, r->count);

    check_contents(&r->live[index], r->live[index].bytes);
    errno = EXDEV;
    dvsm_free(r->live[index].at);
    assert_int_equal(errno, EXDEV);
    forget(r, index);
}

static void do_bulk_free(struct run *r)
{
    void *blocks[BATCH_MOST] = {NULL};
    size_t count = random_below(&r->random, BATCH_MOST);

    for (size_t i = 0; i < count && r->count > 0; i++) {
        size_t index = random_below(&r->random, r->count);

        blocks[i] = r->live[index].at;
        check_contents(&r->live[index], r->live[index].bytes);
        forget(r, index);
    }
    assert_int_equal(dvsm_bulk_free(blocks, count), 0);
    for (size_t i = 0; i < count; i++)
        assert_null(blocks[i]);
}

static void do_realloc(struct run *r)
{
    size_t index = random_below(&r->random, r->count), size = a_size(r);
    struct block *b = &r->live[index], old = *b;

    errno = 0;
    void *at = random_once_in(&r->random, 3) ? dvsm_realloc_in_place(b->at, size)
                                             : dvsm_heap_realloc(r->heap, b->at, size);
    if (at == NULL) {
        assert_int_equal(errno, ENOMEM);
        r->refused++;
        check_contents(&old, old.bytes);
        return;
    }
    old.at = at;
    check_contents(&old, old.bytes < size ? old.bytes : size);
    forget(r, index);
    add(r, at, size, ALIGNMENT_LEAST);
}

static void do_trim(struct run *r)
{
    if (random_once_in(&r->random, 20))
        dvsm_heap_trim(r->heap, random_size(&r->random, (size_t)1 << 20));
}

static void step(struct run *r)
{
    static void (*const making[])(struct run *) = {do_malloc, do_malloc, do_calloc, do_memalign,
                                                   do_independent};
    static void (*const other[])(struct run *) = {do_free,    do_free,    do_free, do_bulk_free,
                                                  do_realloc, do_realloc, do_trim};
    bool make = r->count == 0 || (r->count < LIVE_MOST && random_once_in(&r->random, 2));

    if (make)
        making[random_below(&r->random, sizeof making / sizeof *making)](r);
    else
        other[random_below(&r->random, sizeof other / sizeof *other)](r);
    assert_int_equal(dvsm_check(r->heap, stderr), 0);
}

static void test_random_calls_keep_the_heap_sound(void **state)
{
    const dvsm_options options = {
        .reserve = RESERVE, .name = "random", .backend = &guarded_backend};
    struct run r = {.heap = dvsm_heap_create(&options), .random = {parameters.seed}};
    dvsm_stats_t stats;

    (void)state;
    assert_non_null(r.heap);
    for (unsigned long i = 0; i < parameters.operations; i++)
        step(&r);
    while (r.count > 0)
        do_free(&r);
    assert_int_equal(dvsm_check(r.heap, stderr), 0);
    assert_int_equal(dvsm_stats(r.heap, &stats), 0);
    assert_int_equal(stats.used_blocks, 0);
    assert_int_equal(stats.used_bytes, 0);
    print_message("%zu requests refused\n", r.refused);
    assert_true(parameters.operations < OPERATIONS || r.refused > 0);
    assert_int_equal(dvsm_heap_destroy(r.heap), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_calls_keep_the_heap_sound),
    };

    parameters = random_run_from(argc, argv, OPERATIONS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
