/* test_shm_available.c - a request for more memory than there is, as /proc and the cgroups tell, is
 * refused before any is taken. The test's own files stand in for theirs.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "shm/shm.h"
#include "shm/shm_internal.h"

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

static struct shm_kernel real_kernel;

/* ---- the files */

static struct {
    const char *path, *text;
} files[16];
static int looks; /* how often the available memory was read */

static void clear(void)
{
    memset(files, 0, sizeof files);
    looks = 0;
}

static void put(const char *path, const char *text)
{
    size_t i = 0;

    while (files[i].path != NULL && strcmp(files[i].path, path) != 0)
        i++;
    files[i].path = path;
    files[i].text = text;
}

static int open_stand_in(const char *path, int flags, unsigned mode)
{
    (void)flags, (void)mode;
    looks += strcmp(path, "/proc/meminfo") == 0;
    for (size_t i = 0; files[i].path != NULL; i++)
        if (strcmp(files[i].path, path) == 0) {
            int fd = memfd_create("file", MFD_CLOEXEC);
            size_t bytes = strlen(files[i].text);

            assert_int_equal(write(fd, files[i].text, bytes), bytes);
            lseek(fd, 0, SEEK_SET);
            return fd;
        }
    errno = ENOENT;
    return -1;
}

static void put_a_machine(void)
{
    put("/proc/meminfo", "MemTotal:       24683620 kB\nMemFree:        1024 kB\n"
                         "MemAvailable:   4194304 kB\nBuffers: 6432 kB\nSwapTotal: 0 kB\n"
                         "SwapFree:              0 kB\n");
}

static int set_up(void **state)
{
    (void)state;
    real_kernel = shm_kernel;
    clear();
    put_a_machine();
    shm_kernel.open = open_stand_in;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    shm_kernel = real_kernel;
    return 0;
}

static void test_the_machine_has_what_it_says_and_swap(void **state)
{
    (void)state;
    assert_int_equal(shm_available(), 4 * GIB);
    put("/proc/meminfo", "MemTotal: 1 kB\nMemAvailable: 1048576 kB\nSwapFree: 2097152 kB\n");
    assert_int_equal(shm_available(), 3 * GIB);
}

static void test_what_cannot_be_read_is_no_limit(void **state)
{
    (void)state;
    clear();
    assert_int_equal(shm_available(), SIZE_MAX);
    put("/proc/meminfo", "MemTotal: 24683620 kB\n");
    put("/proc/self/cgroup", "nonsense\n1:\n:::\n0::/\n");
    assert_int_equal(shm_available(), SIZE_MAX);
    put("/sys/fs/cgroup/memory.max", "max\n");
    assert_int_equal(shm_available(), SIZE_MAX);
}

static void test_the_least_of_the_cgroups_counts(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "0::/outer/inner\n");
    put("/sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put("/sys/fs/cgroup/outer/memory.max", "1073741824\n");
    put("/sys/fs/cgroup/outer/memory.current", "805306368\n");
    put("/sys/fs/cgroup/outer/memory.stat",
        "anon 1\nfile 2\nshmem 3\ninactive_anon 5\nactive_anon 6\ninactive_file 104857600\n"
        "active_file 4194304\nunevictable 0\n");
    assert_int_equal(shm_available(), 256 * MIB + 100 * MIB + 4 * MIB);
    put("/sys/fs/cgroup/outer/inner/memory.max", "104857600\n");
    put("/sys/fs/cgroup/outer/inner/memory.current", "104857600\n");
    assert_int_equal(shm_available(), 0);
    put("/sys/fs/cgroup/outer/inner/memory.current", "209715200\n"); /* it was made less */
    assert_int_equal(shm_available(), 0);
}

static void test_cgroups_of_the_first_version_count_too(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "9:name=systemd:/\n8:pids:/a\n4:cpu,memory:/job\n0::/\n");
    put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "536870912\n");
    put("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "268435456\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(shm_available(), 256 * MIB);
    put("/sys/fs/cgroup/memory/job/memory.stat",
        "cache 1\ninactive_file 5\ntotal_inactive_file 1048576\ntotal_active_file 1048576\n");
    assert_int_equal(shm_available(), 258 * MIB);
}

/* In a container without a cgroup namespace the path is the host's, and does not exist; the
 * limit is in the root. */
static void test_a_path_that_is_not_there_leads_to_the_root(void **state)
{
    (void)state;
    static char line[3000];

    put("/proc/self/cgroup", "0::/kubepods/pod1/abc\n");
    put("/sys/fs/cgroup/memory.max", "1073741824\n");
    put("/sys/fs/cgroup/memory.current", "1048576\n");
    assert_int_equal(shm_available(), GIB - MIB);
    memset(line, 'x', sizeof line - 2);
    memcpy(line, "0::/", 4);
    line[sizeof line - 2] = '\n';
    put("/proc/self/cgroup", line); /* longer than the buffer */
    assert_int_equal(shm_available(), GIB - MIB);
}

/* ---- when the available memory is read */

static void with_each_backend(void (*test)(const dvsm_backend *b, dvsm_mapping *m))
{
    static const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open,
                                                   &dvsm_backend_anon};

    for (size_t i = 0; i < 3; i++) {
        dvsm_mapping m = {.bytes = 16 * GIB, .fd = -1};

        assert_int_equal(backends[i]->reserve(backends[i], &m), 0);
        looks = 0;
        test(backends[i], &m);
        assert_int_equal(backends[i]->unmap(backends[i], &m, 1), 0);
    }
}

static void refuses_too_much(const dvsm_backend *b, dvsm_mapping *m)
{
    char *base = m->base;

    assert_int_equal(b->commit(b, m, base, 8 * GIB), ENOMEM);
    assert_int_equal(looks, 1);
    assert_int_equal(b->commit(b, m, base, MIB), 0);
    base[MIB - 1] = 'x';
    assert_int_equal(b->commit(b, m, base + MIB, 8 * GIB), ENOMEM);
    assert_int_equal(base[MIB - 1], 'x');
    assert_false(shm_may_commit(b, 8 * GIB));
    assert_true(shm_may_commit(b, GIB));
}

static void test_what_is_more_than_there_is_is_refused_untouched(void **state)
{
    (void)state;
    with_each_backend(refuses_too_much);
}

static int madvise_stand_in(void *start, size_t bytes, int advice)
{
    (void)start, (void)bytes, (void)advice;
    return 0;
}

static void looks_now_and_then(const dvsm_backend *b, dvsm_mapping *m)
{
    char *base = m->base;
    size_t piece = 0;

    for (; piece < 4096; piece++)
        assert_int_equal(b->commit(b, m, base + piece * MIB, MIB), 0);
    assert_in_range(looks, 4096 / 128 - 2, 4096 / 64);
    put("/proc/meminfo", "MemAvailable: 512 kB\n");
    while (piece < 16384 && b->commit(b, m, base + piece * MIB, MIB) == 0)
        piece++;
    assert_in_range(piece, 4096, 4096 + 128); /* at most what was free when it last looked */
    put_a_machine();
}

static void test_growth_is_looked_at_now_and_then(void **state)
{
    (void)state;
    shm_kernel.advise = madvise_stand_in;
    with_each_backend(looks_now_and_then);
}

/* From the offset a process sees that others made the heap larger. */
static void sees_others(const dvsm_backend *b, dvsm_mapping *m)
{
    assert_int_equal(b->commit(b, m, m->base, MIB), 0);
    assert_int_equal(looks, 0);
    assert_int_equal(b->commit(b, m, (char *)m->base + GIB, MIB), 0);
    assert_int_equal(looks, 1);
}

static void test_growth_by_others_counts(void **state)
{
    (void)state;
    with_each_backend(sees_others);
}

static void test_a_heap_says_no_in_time(void **state)
{
    (void)state;
    const dvsm_options options = {.reserve = 16 * GIB};
    dvsm_heap *heap = dvsm_heap_create(&options);

    assert_non_null(heap);
    errno = 0;
    assert_null(dvsm_heap_malloc(heap, 8 * GIB));
    assert_int_equal(errno, ENOMEM);
    void *block = dvsm_heap_malloc(heap, 100 * MIB);
    assert_non_null(block);
    dvsm_free(block);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_machine_has_what_it_says_and_swap, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_no_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_least_of_the_cgroups_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cgroups_of_the_first_version_count_too, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_path_that_is_not_there_leads_to_the_root, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_more_than_there_is_is_refused_untouched,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_growth_is_looked_at_now_and_then, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_growth_by_others_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_heap_says_no_in_time, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
