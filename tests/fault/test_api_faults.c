/* test_api_faults.c - a script over the whole API in which the k-th call into the system fails, for
 * every k.
 *
 * Each failure happens once, and then, in another run, for good. After every call the heap is
 * checked; at the end everything is freed, nothing is in use, and what the backend handed out is
 * back.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dvsm/dvsm.h"
#include "support/failing_backend.h"

enum { BLOCKS_MOST = 4096, MANY = 40 };

struct script {
    struct failing_backend *backend;
    dvsm_heap *heap;
    void *block[BLOCKS_MOST];
    size_t count;
    unsigned long refused;
};

static void check(struct script *s)
{
    int violations = dvsm_check(s->heap, stderr);

    assert_int_equal(violations, 0);
}

/* What an allocating call returned: kept, or an honest refusal. */
static void *keep(struct script *s, void *block, size_t bytes)
{
    int error = errno;

    check(s);
    if (block == NULL) {
        assert_int_equal(error, ENOMEM);
        s->refused++;
        return NULL;
    }
    assert_true(dvsm_malloc_usable_size(block) >= bytes);
    memset(block, (int)s->count, bytes);
    assert_true(s->count < BLOCKS_MOST);
    return s->block[s->count++] = block;
}

static void drop_one(struct script *s, size_t index)
{
    dvsm_free(s->block[index]);
    s->block[index] = s->block[--s->count];
    check(s);
}

static void grow_and_shrink(struct script *s, size_t from, size_t to)
{
    void *block = keep(s, dvsm_heap_malloc(s->heap, from), from);

    if (block == NULL)
        return;
    memset(block, 'x', from);
    void *moved = dvsm_realloc(block, to);
    check(s);
    if (moved == NULL) {
        assert_int_equal(errno, ENOMEM);
        s->refused++;
        moved = block;
        to = from;
    }
    s->block[s->count - 1] = moved;
    for (size_t i = 0; i < (from < to ? from : to); i += 997)
        assert_int_equal(((char *)moved)[i], 'x');
    if (dvsm_realloc_in_place(moved, 10) == NULL)
        assert_int_equal(errno, ENOMEM);
    check(s);
}

static void make_independent(struct script *s)
{
    static const size_t sizes[MANY] = {0, 1, 100, 1000, 100000, 24, 40, 7};
    void *array[MANY];

    if (dvsm_heap_independent_calloc(s->heap, MANY, 3000, array) != NULL)
        for (size_t i = 0; i < MANY; i++)
            keep(s, array[i], 3000);
    else
        keep(s, NULL, 0);
    if (dvsm_heap_independent_comalloc(s->heap, MANY, sizes, array) != NULL)
        for (size_t i = 0; i < MANY; i++)
            keep(s, array[i], sizes[i]);
    else
        keep(s, NULL, 0);
}

static void make_aligned(struct script *s)
{
    void *block = s;

    int error = dvsm_heap_posix_memalign(s->heap, &block, 4096, 5000);
    if (error == 0) {
        assert_int_equal((uintptr_t)block % 4096, 0);
        keep(s, block, 5000);
    } else {
        assert_int_equal(error, ENOMEM);
        assert_ptr_equal(block, s);
    }
    block = keep(s, dvsm_heap_aligned_alloc(s->heap, (size_t)1 << 20, 100), 100);
    assert_int_equal((uintptr_t)block % ((size_t)1 << 20), 0);
    block = keep(s, dvsm_heap_memalign(s->heap, 64, 400000), 400000);
    assert_int_equal((uintptr_t)block % 64, 0);
}

static void run_script(struct script *s)
{
    for (size_t size = 1; size < (size_t)8 << 20; size = size * 3 + 1)
        keep(s, dvsm_heap_malloc(s->heap, size), size);
    for (int i = 0; i < MANY; i++)
        keep(s, dvsm_heap_calloc(s->heap, 100, 700), 70000);
    make_aligned(s);
    grow_and_shrink(s, 1000, 90000);
    grow_and_shrink(s, 300000, 900000);
    grow_and_shrink(s, 900000, 300000);
    make_independent(s);
    keep(s, dvsm_heap_strdup(s->heap, "a string"), 9);
    keep(s, dvsm_heap_strndup(s->heap, "a string", 3), 4);
    dvsm_heap_trim(s->heap, 0);
    check(s);
    for (size_t i = 0; i < s->count; i += 3)
        drop_one(s, i);
    dvsm_heap_trim(s->heap, 100000);
    check(s);
    for (int i = 0; i < MANY; i++)
        keep(s, dvsm_heap_malloc(s->heap, 30000), 30000);
    dvsm_heap_set_limit(s->heap, dvsm_heap_footprint(s->heap));
    keep(s, dvsm_heap_malloc(s->heap, (size_t)40 << 20), 0);
    dvsm_heap_set_limit(s->heap, SIZE_MAX);
}

/* Everything is freed; then nothing is in use, and all that is committed is metadata or retained or
 * top. */
static void end_script(struct script *s)
{
    dvsm_stats_t stats;

    while (s->count > MANY)
        drop_one(s, s->count / 2);
    assert_int_equal(dvsm_bulk_free(s->block, s->count), 0);
    check(s);
    assert_int_equal(dvsm_stats(s->heap, &stats), 0);
    assert_int_equal(stats.used_bytes, 0);
    assert_int_equal(stats.used_blocks, 0);
}

/* Whether the planned failure happened. */
static bool run_with_failure(struct failing_backend *f, enum failing_call kind, unsigned long k,
                             bool for_good)
{
    struct script *s = calloc(1, sizeof *s);
    const dvsm_options options = {.backend = &f->backend, .reserve = (size_t)512 << 20};

    assert_non_null(s);
    s->backend = f;
    failing_backend_reset(f);
    failing_backend_fail(f, kind, k, ENOMEM, for_good);
    s->heap = dvsm_heap_create(&options);
    if (s->heap == NULL) {
        assert_int_equal(errno, ENOMEM);
    } else {
        run_script(s);
        failing_backend_fail(f, kind, 0, 0, false); /* there is room again */
        f->plan[kind].fail_at = 0;
        unsigned long refused = s->refused;
        for (int i = 0; i < MANY; i++)
            keep(s, dvsm_heap_malloc(s->heap, 100000), 100000);
        assert_int_equal(s->refused, refused);
        end_script(s);
        assert_int_equal(dvsm_heap_destroy(s->heap), 0);
    }
    bool happened = f->plan[kind].failures > 0;
    assert_int_equal(f->mapped, 0);
    assert_int_equal(f->misuses, 0);
    free(s);
    return happened;
}

static void fail_each(enum failing_call kind, bool for_good)
{
    struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
    unsigned long k = 1;

    while (run_with_failure(f, kind, k, for_good))
        k++;
    print_message("failed each of %lu calls\n", k - 1);
    assert_true(k > 1);
    failing_backend_delete(f);
}

static void test_every_reserve_fails_once(void **state)
{
    (void)state;
    fail_each(FAILING_RESERVE, true);
}

static void test_every_commit_fails_once(void **state)
{
    (void)state;
    fail_each(FAILING_COMMIT, false);
}

static void test_every_commit_fails_from_the_kth_on(void **state)
{
    (void)state;
    fail_each(FAILING_COMMIT, true);
}

static void test_every_release_fails_once(void **state)
{
    (void)state;
    fail_each(FAILING_RELEASE, false);
}

static void test_every_release_fails_from_the_kth_on(void **state)
{
    (void)state;
    fail_each(FAILING_RELEASE, true);
}

/* A heap that cannot be unmapped says so, and can be destroyed when it can. */
static void test_unmap_that_fails_is_reported(void **state)
{
    struct failing_backend *f = failing_backend_new(&dvsm_backend_memfd);
    const dvsm_options options = {.backend = &f->backend, .reserve = (size_t)64 << 20};
    dvsm_heap *heap = dvsm_heap_create(&options);

    (void)state;
    assert_non_null(heap);
    failing_backend_fail(f, FAILING_UNMAP, 1, EBUSY, false);
    assert_int_equal(dvsm_heap_destroy(heap), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    assert_int_equal(f->mapped, 0);
    failing_backend_delete(f);
}

static int unmap_and_complain(const dvsm_backend *self, dvsm_mapping *mapping, int destroy)
{
    int error = dvsm_backend_anon.unmap(self, mapping, destroy);

    return error != 0 ? error : EIO;
}

/* Against the contract, but what is not mapped any more must not be offered as a heap. */
static void test_an_error_after_unmapping_leaves_no_heap(void **state)
{
    dvsm_backend complaining = dvsm_backend_anon;

    (void)state;
    complaining.unmap = unmap_and_complain;
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.backend = &complaining});
    void *block = dvsm_heap_malloc(heap, 100);
    assert_non_null(block);
    assert_int_equal(dvsm_heap_destroy(heap), -1);
    assert_int_equal(errno, EIO);
    assert_null(dvsm_heap_of(block));
    assert_int_equal(dvsm_check(heap, stderr), -1);
    assert_int_equal(dvsm_heap_destroy(heap), -1);
    assert_int_equal(errno, EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_reserve_fails_once),
        cmocka_unit_test(test_every_commit_fails_once),
        cmocka_unit_test(test_every_commit_fails_from_the_kth_on),
        cmocka_unit_test(test_every_release_fails_once),
        cmocka_unit_test(test_every_release_fails_from_the_kth_on),
        cmocka_unit_test(test_unmap_that_fails_is_reported),
        cmocka_unit_test(test_an_error_after_unmapping_leaves_no_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
