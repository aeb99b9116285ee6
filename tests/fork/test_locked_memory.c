/* test_locked_memory.c - mlockall() and core files include what was committed, not what is
 * reserved; also if another process made the heap grow. */
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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "support/child.h"

enum { MIB = 1 << 20, BLOCKS = 100 };

static dvsm_heap *heap;

static int grow(void *context)
{
    (void)context;
    for (int i = 0; i < BLOCKS; i++) {
        void *block = dvsm_heap_malloc(heap, MIB);

        CHILD_CHECK(block != NULL);
        memset(block, i, MIB);
    }
    return 0;
}

/* How much memory the heap's file has. */
static size_t in_memory(void)
{
    struct stat file;

    return fstat(heap->mapping.fd, &file) == 0 ? (size_t)file.st_blocks * 512 : SIZE_MAX;
}

static int lock_all(void *context)
{
    (void)context;
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        return CHILD_SKIP; /* the system does not allow it */
    CHILD_CHECK(in_memory() <= 2 * dvsm_heap_footprint(heap) + 64 * MIB);
    CHILD_CHECK(run_in_child(grow, NULL) == 0);
    CHILD_CHECK(grow(NULL) == 0);
    CHILD_CHECK(in_memory() <= 2 * dvsm_heap_footprint(heap) + 64 * MIB);
    CHILD_CHECK(munlockall() == 0 && mlockall(MCL_CURRENT) == 0);
    CHILD_CHECK(in_memory() <= 2 * dvsm_heap_footprint(heap) + 64 * MIB);
    return 0;
}

static void with_heap(const dvsm_backend *b, child_work work)
{
    heap = dvsm_heap_create(&(dvsm_options){.backend = b, .reserve = (size_t)1 << 30});
    assert_non_null(heap);
    int status = run_in_child(work, NULL);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
        skip();
    assert_int_equal(status, 0);
}

static void test_locking_takes_what_is_committed(void **state)
{
    (void)state;
    with_heap(&dvsm_backend_memfd, lock_all);
    with_heap(&dvsm_backend_shm_open, lock_all);
}

/* ---- core files: without a file's end to go by, the kernel dumps the pages that are marked */

/* How many bytes of the heap's mapping a core file of this process would have. */
static size_t dumped(void)
{
    FILE *maps = fopen("/proc/self/smaps", "r");
    const uintptr_t base = (uintptr_t)heap->mapping.base, end = base + heap->mapping.bytes;
    uintptr_t from = 0, to = 0, first, last;
    size_t bytes = 0;
    char line[1000];

    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        if (sscanf(line, "%lx-%lx ", &first, &last) == 2 && strchr(line, '-') < strchr(line, ' ')) {
            from = first;
            to = last;
        }
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " dd") == NULL && from >= base &&
            to <= end)
            bytes += to - from;
    }
    if (maps != NULL)
        fclose(maps);
    return bytes;
}

static int dump_no_more_than_committed(void *context)
{
    CHILD_CHECK(dumped() <= dvsm_heap_footprint(heap) + 64 * MIB);
    CHILD_CHECK(grow(context) == 0);
    CHILD_CHECK(dumped() >= BLOCKS * MIB);
    CHILD_CHECK(dumped() <= 2 * dvsm_heap_footprint(heap) + 64 * MIB);
    return 0;
}

static void test_a_core_file_has_what_is_committed(void **state)
{
    (void)state;
    with_heap(&dvsm_backend_anon, dump_no_more_than_committed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_locking_takes_what_is_committed),
        cmocka_unit_test(test_a_core_file_has_what_is_committed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
