/* test_shm_kernels.c - the backends on kernels that lack calls or refuse them, in processes with
 * limits, and on file systems that are full or missing.
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
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/backend_calls.h"
#include "support/bytes.h"
#include "support/child.h"

enum { RESERVED = 16 * MIB };

/* Bytes of memory that the mapping has: its file's, or its resident pages. (mincore() does not
 * count memory of a file that was allocated and never touched.) */
static size_t allocated(const dvsm_mapping *m)
{
    struct stat file;

    if (m->fd < 0)
        return resident(m, 0, RESERVED);
    assert_int_equal(fstat(m->fd, &file), 0);
    return (size_t)file.st_blocks * 512;
}

/* ---- other kernels */

static int errors_left; /* how often the replaced calls fail before they work; negative: always */
static int error_given;
static int allocations;

static int fail_or(int result)
{
    if (errors_left == 0)
        return result;
    if (errors_left > 0)
        errors_left--;
    errno = error_given;
    return -1;
}

static int populate_fails(void *start, size_t bytes, int advice)
{
    if (advice == MADV_POPULATE_WRITE && fail_or(0) != 0)
        return -1;
    return madvise(start, bytes, advice);
}

static int remove_fails(void *start, size_t bytes, int advice)
{
    if (advice == MADV_REMOVE && fail_or(0) != 0)
        return -1;
    return madvise(start, bytes, advice);
}

static int counted_allocate(int fd, int mode, off_t offset, off_t bytes)
{
    allocations++;
    return fallocate(fd, mode, offset, bytes);
}

static int interrupted_allocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (++allocations % 3 != 0) {
        errno = EINTR;
        return -1;
    }
    return fallocate(fd, mode, offset, bytes);
}

static int full_allocate(int fd, int mode, off_t offset, off_t bytes)
{
    if (mode == FALLOC_FL_KEEP_SIZE && offset + bytes > 2 * MIB) {
        errno = ENOSPC;
        return -1;
    }
    return fallocate(fd, mode, offset, bytes);
}

static int memfd_fails(const char *name, unsigned flags)
{
    return fail_or(0) != 0 ? -1 : memfd_create(name, flags);
}

static int seal_fails(int fd, int seals)
{
    (void)fd;
    (void)seals;
    errno = EPERM;
    return -1;
}

static void fail_times(int times, int error)
{
    errors_left = times;
    error_given = error;
    allocations = 0;
}

static void commits_without_populate(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b, RESERVED);
    const size_t bytes = 5 * MIB; /* more than one call allocates */

    fail_times(-1, EINVAL);
    assert_int_equal(commit(b, &m, PIECE, bytes), 0);
    assert_int_equal(allocations, m.fd < 0 ? 0 : 1 + 3); /* for the length 1, for the pages 3 */
    assert_int_equal(allocated(&m), bytes);
    assert_true(is_all((char *)m.base + PIECE, 0, bytes));
    assert_int_equal(release(b, &m, PIECE, bytes), 0);
    if (m.fd >= 0)
        close(m.fd);
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    assert_int_equal(resident(&m, 0, RESERVED), PIECE);
    assert_true(is_all(m.base, 0, PIECE));
    assert_int_equal(destroy(b, &m), 0);
}

static void test_a_kernel_without_populate_commits_otherwise(void **state)
{
    (void)state;
    shm_kernel.advise = populate_fails;
    shm_kernel.allocate = counted_allocate;
    with_each_backend(commits_without_populate);
}

static void commits_when_told_to_try_again(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b, RESERVED);

    fail_times(3, EINTR);
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    fail_times(3, EAGAIN);
    assert_int_equal(commit(b, &m, PIECE, PIECE), 0);
    fail_times(-1, EAGAIN);
    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), ENOMEM);
    assert_int_equal(resident(&m, 0, RESERVED), 2 * PIECE);
    assert_int_equal(destroy(b, &m), 0);
}

static void test_populate_is_tried_again_but_not_for_ever(void **state)
{
    (void)state;
    shm_kernel.advise = populate_fails;
    with_each_backend(commits_when_told_to_try_again);
}

static void reports_shortage(const dvsm_backend *b)
{
    static const int errors[] = {ENOMEM, EFAULT, EHWPOISON};
    dvsm_mapping m = reserved(b, RESERVED);

    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        bool full = errors[i] == EFAULT && b == &dvsm_backend_shm_open;

        fail_times(1, errors[i]);
        assert_int_equal(commit(b, &m, 0, PIECE), full ? ENOSPC : ENOMEM);
    }
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    assert_int_equal(destroy(b, &m), 0);
}

static void test_a_failed_commit_says_memory_or_space(void **state)
{
    (void)state;
    shm_kernel.advise = populate_fails;
    with_each_backend(reports_shortage);
}

static void goes_on_when_interrupted(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b, RESERVED);

    fail_times(-1, EINVAL);
    assert_int_equal(commit(b, &m, 0, 5 * MIB), 0);
    assert_int_equal(allocated(&m), 5 * MIB);
    assert_int_equal(destroy(b, &m), 0);
}

static void test_signals_during_allocation_do_no_harm(void **state)
{
    (void)state;
    shm_kernel.advise = populate_fails;
    shm_kernel.allocate = interrupted_allocate;
    with_each_backend(goes_on_when_interrupted);
}

static void test_allocation_is_all_or_nothing(void **state)
{
    (void)state;
    dvsm_mapping m = reserved(&dvsm_backend_memfd, RESERVED);

    shm_kernel.advise = populate_fails;
    shm_kernel.allocate = full_allocate;
    fail_times(-1, EINVAL);
    assert_int_equal(commit(&dvsm_backend_memfd, &m, 0, 5 * MIB), ENOSPC);
    assert_int_equal(allocated(&m), 0);
    assert_int_equal(commit(&dvsm_backend_memfd, &m, 0, 2 * MIB), 0);
    assert_int_equal(allocated(&m), 2 * MIB);
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
}

static void releases_without_remove(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b, RESERVED);

    assert_int_equal(commit(b, &m, 0, 2 * PIECE), 0);
    fail_times(-1, EINVAL);
    assert_int_equal(release(b, &m, 0, PIECE), m.fd < 0 ? EINVAL : 0);
    assert_int_equal(resident(&m, 0, PIECE), m.fd < 0 ? PIECE : 0);
    if (m.fd >= 0)
        close(m.fd);
    assert_int_equal(release(b, &m, PIECE, PIECE), EINVAL);
    assert_int_equal(destroy(b, &m), 0);
}

static void test_a_hole_is_punched_where_remove_fails(void **state)
{
    (void)state;
    shm_kernel.advise = remove_fails;
    with_each_backend(releases_without_remove);
}

static void test_locked_memory_can_be_released(void **state)
{
    (void)state;
    dvsm_mapping m = reserved(&dvsm_backend_memfd, RESERVED);

    assert_int_equal(commit(&dvsm_backend_memfd, &m, 0, PIECE), 0);
    if (mlock(m.base, 4096) == 0) {
        memset(m.base, 'x', PIECE);
        assert_int_equal(release(&dvsm_backend_memfd, &m, 0, PIECE), 0);
        assert_true(is_all(m.base, 0, PIECE));
    }
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
}

static void test_memfd_works_on_kernels_that_know_fewer_flags(void **state)
{
    (void)state;
    shm_kernel.memfd = memfd_fails;
    fail_times(1, EINVAL);
    dvsm_mapping m = reserved(&dvsm_backend_memfd, RESERVED);
    assert_int_equal(errors_left, 0);
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
    fail_times(-1, ENOSYS);
    assert_int_equal(reserve(&dvsm_backend_memfd, &m), ENOSYS);
}

static void test_a_memfd_that_cannot_be_sealed_is_not_used(void **state)
{
    (void)state;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};
    int fds = open_fds();

    shm_kernel.seal = seal_fails;
    assert_int_equal(reserve(&dvsm_backend_memfd, &m), EPERM);
    assert_int_equal(open_fds(), fds);
}

/* ---- limits of the process, in children that set them */

static child_work limited;

static void run_limited(const dvsm_backend *b)
{
    assert_int_equal(run_in_child(limited, (void *)(uintptr_t)b), 0);
}

static void with_each_backend_in_a_child(child_work work)
{
    limited = work;
    with_each_backend(run_limited);
}

static int reserve_without_free_fd(void *context)
{
    const dvsm_backend *b = context;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};
    const struct rlimit none = {0, 0};

    CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    if (b == &dvsm_backend_anon)
        CHILD_CHECK(reserve(b, &m) == 0);
    else
        CHILD_CHECK(reserve(b, &m) == EMFILE);
    return 0;
}

static void test_no_free_fd_is_an_error(void **state)
{
    (void)state;
    with_each_backend_in_a_child(reserve_without_free_fd);
}

static size_t address_space_used(void)
{
    FILE *statm = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;

    if (statm == NULL || fscanf(statm, "%lu", &pages) != 1)
        pages = 0;
    if (statm != NULL)
        fclose(statm);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static int reserve_within_address_space(void *context)
{
    const dvsm_backend *b = context;
    dvsm_mapping m = {.bytes = 256 * MIB, .fd = -1};
    const size_t most = address_space_used() + 100 * MIB;
    const struct rlimit limit = {most, most};

    CHILD_CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHILD_CHECK(reserve(b, &m) == ENOMEM);
    CHILD_CHECK(shm_reserve_fitting(b, &m, 128 * MIB) == ENOMEM);
    CHILD_CHECK(m.bytes == 256 * MIB);
    CHILD_CHECK(shm_reserve_fitting(b, &m, MIB) == 0);
    CHILD_CHECK(m.bytes == 64 * MIB);
    CHILD_CHECK(commit(b, &m, 63 * MIB, MIB) == 0);
    CHILD_CHECK(destroy(b, &m) == 0);
    return 0;
}

static void test_a_limit_of_address_space_is_met_by_halving(void **state)
{
    (void)state;
    with_each_backend_in_a_child(reserve_within_address_space);
}

static volatile sig_atomic_t file_size_signals;

static void count_signal(int number)
{
    (void)number;
    file_size_signals++;
}

static int reserve_within_file_size(void *context)
{
    const dvsm_backend *b = context;
    dvsm_mapping m = {.bytes = 64 * MIB, .fd = -1};
    const struct rlimit limit = {20 * MIB, 20 * MIB};
    const bool has_file = b != &dvsm_backend_anon;

    CHILD_CHECK(signal(SIGXFSZ, count_signal) != SIG_ERR);
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    if (has_file)
        CHILD_CHECK(reserve(b, &m) == EFBIG);
    CHILD_CHECK(shm_reserve_fitting(b, &m, MIB) == 0);
    CHILD_CHECK(m.bytes == (has_file ? 16 * MIB : 64 * MIB));
    CHILD_CHECK(commit(b, &m, 0, m.bytes) == 0);
    CHILD_CHECK(destroy(b, &m) == 0);
    CHILD_CHECK(file_size_signals == 0);
    return 0;
}

static void test_a_limit_of_file_size_is_met_without_a_signal(void **state)
{
    (void)state;
    with_each_backend_in_a_child(reserve_within_file_size);
}

/* The limit may be set after the heap was made, so that the file cannot become longer. */
static int commit_beyond_file_size(void *context)
{
    const dvsm_backend *b = context;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};
    const struct rlimit limit = {MIB, MIB};
    const int beyond = b == &dvsm_backend_anon ? 0 : ENOMEM;

    CHILD_CHECK(signal(SIGXFSZ, count_signal) != SIG_ERR);
    CHILD_CHECK(reserve(b, &m) == 0);
    CHILD_CHECK(commit(b, &m, 8 * MIB - PIECE, PIECE) == 0);
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHILD_CHECK(commit(b, &m, 0, 4 * MIB) == 0);
    CHILD_CHECK(commit(b, &m, 8 * MIB, PIECE) == beyond);
    shm_kernel.advise = populate_fails;
    fail_times(-1, EINVAL);
    CHILD_CHECK(commit(b, &m, 4 * MIB, 4 * MIB) == 0);
    CHILD_CHECK(commit(b, &m, 8 * MIB, PIECE) == beyond);
    memset(m.base, 'x', 8 * MIB);
    CHILD_CHECK(release(b, &m, 0, 8 * MIB) == 0);
    CHILD_CHECK(destroy(b, &m) == 0);
    CHILD_CHECK(file_size_signals == 0);
    return 0;
}

static void test_a_limit_set_later_does_not_touch_what_is_reserved(void **state)
{
    (void)state;
    with_each_backend_in_a_child(commit_beyond_file_size);
}

/* ---- file systems: a small /dev/shm, and none, in a child's own mount namespace */

static bool enter_own_mounts(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static bool mount_small_shm(void)
{
    return enter_own_mounts() && mount("small", "/dev/shm", "tmpfs", 0, "size=1m") == 0;
}

static size_t free_in_shm(void)
{
    struct statfs fs;

    return statfs("/dev/shm", &fs) == 0 ? (size_t)fs.f_bfree * (size_t)fs.f_bsize : 0;
}

static int fill_small_shm(void *context)
{
    const dvsm_backend *b = &dvsm_backend_shm_open;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};

    (void)context;
    if (!mount_small_shm())
        return CHILD_SKIP;
    CHILD_CHECK(reserve(b, &m) == 0);
    CHILD_CHECK(commit(b, &m, 0, 512 * KIB) == 0);
    memset(m.base, 'x', 512 * KIB);
    CHILD_CHECK(commit(b, &m, MIB, MIB) == ENOSPC);
    CHILD_CHECK(free_in_shm() == 512 * KIB);
    CHILD_CHECK(is_all(m.base, 'x', 512 * KIB));
    CHILD_CHECK(commit(b, &m, MIB, 512 * KIB) == 0);
    CHILD_CHECK(commit(b, &m, 2 * MIB, PIECE) == ENOSPC);
    CHILD_CHECK(release(b, &m, 0, PIECE) == 0);
    CHILD_CHECK(commit(b, &m, 2 * MIB, PIECE) == 0);
    memset((char *)m.base + 2 * MIB, 'y', PIECE);
    CHILD_CHECK(destroy(b, &m) == 0);
    CHILD_CHECK(free_in_shm() == MIB);
    return 0;
}

static int fill_small_shm_by_fallocate(void *context)
{
    shm_kernel.advise = populate_fails;
    fail_times(-1, EINVAL);
    return fill_small_shm(context);
}

/* Without MADV_POPULATE_WRITE and without a descriptor the kernel's own stores find the file
 * system full. */
static int fill_small_shm_by_touching(void *context)
{
    const dvsm_backend *b = &dvsm_backend_shm_open;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};

    (void)context;
    if (!mount_small_shm())
        return CHILD_SKIP;
    CHILD_CHECK(reserve(b, &m) == 0);
    close(m.fd);
    shm_kernel.advise = populate_fails;
    fail_times(-1, EINVAL);
    CHILD_CHECK(commit(b, &m, 0, 2 * MIB) == ENOSPC);
    CHILD_CHECK(free_in_shm() == MIB);
    CHILD_CHECK(commit(b, &m, 0, MIB) == 0);
    CHILD_CHECK(destroy(b, &m) == 0);
    return 0;
}

static int reserve_without_shm(void *context)
{
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};
    dvsm_mapping named = {.bytes = RESERVED, .fd = -1, .name = "/dvsm-test"};

    (void)context;
    if (!enter_own_mounts() || mount("none", "/dev", "tmpfs", 0, "size=1m") != 0)
        return CHILD_SKIP;
    CHILD_CHECK(reserve(&dvsm_backend_shm_open, &m) == 0); /* a memory file takes its place */
    CHILD_CHECK(commit(&dvsm_backend_shm_open, &m, 0, PIECE) == 0);
    CHILD_CHECK(destroy(&dvsm_backend_shm_open, &m) == 0);
    CHILD_CHECK(shm_reserve_fitting(&dvsm_backend_shm_open, &named, PIECE) == ENOENT);
    CHILD_CHECK(reserve(&dvsm_backend_memfd, &m) == 0);
    CHILD_CHECK(destroy(&dvsm_backend_memfd, &m) == 0);
    return 0;
}

/* Only root may mount; others skip. */
static void run_with_own_mounts(child_work work)
{
    int status = run_in_child(work, NULL);

    if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
        skip();
    assert_int_equal(status, 0);
}

static void test_a_full_file_system_is_an_error_and_works_again(void **state)
{
    (void)state;
    run_with_own_mounts(fill_small_shm);
}

static void test_a_full_file_system_is_an_error_for_fallocate_too(void **state)
{
    (void)state;
    run_with_own_mounts(fill_small_shm_by_fallocate);
}

static void test_a_full_file_system_is_an_error_without_fd_too(void **state)
{
    (void)state;
    run_with_own_mounts(fill_small_shm_by_touching);
}

static void test_a_missing_dev_shm_is_an_error(void **state)
{
    (void)state;
    run_with_own_mounts(reserve_without_shm);
}

#define kernel_test(test) cmocka_unit_test_teardown(test, restore_kernel)

int main(void)
{
    const struct CMUnitTest tests[] = {
        kernel_test(test_a_kernel_without_populate_commits_otherwise),
        kernel_test(test_populate_is_tried_again_but_not_for_ever),
        kernel_test(test_a_failed_commit_says_memory_or_space),
        kernel_test(test_signals_during_allocation_do_no_harm),
        kernel_test(test_allocation_is_all_or_nothing),
        kernel_test(test_a_hole_is_punched_where_remove_fails),
        cmocka_unit_test(test_locked_memory_can_be_released),
        kernel_test(test_memfd_works_on_kernels_that_know_fewer_flags),
        kernel_test(test_a_memfd_that_cannot_be_sealed_is_not_used),
        cmocka_unit_test(test_no_free_fd_is_an_error),
        cmocka_unit_test(test_a_limit_of_address_space_is_met_by_halving),
        cmocka_unit_test(test_a_limit_of_file_size_is_met_without_a_signal),
        cmocka_unit_test(test_a_limit_set_later_does_not_touch_what_is_reserved),
        cmocka_unit_test(test_a_full_file_system_is_an_error_and_works_again),
        cmocka_unit_test(test_a_full_file_system_is_an_error_for_fallocate_too),
        cmocka_unit_test(test_a_full_file_system_is_an_error_without_fd_too),
        cmocka_unit_test(test_a_missing_dev_shm_is_an_error),
    };

    real_kernel = shm_kernel;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
