/* test_shm.c - the backends: sharing, committing, releasing, and a system that has no more. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "shm/shm.h"
#include "shm/shm_internal.h"
#include "support/child.h"
#include "support/failing_backend.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { KIB = 1 << 10, MIB = 1 << 20, RESERVED = 16 * MIB, PIECE = 64 * KIB };

static struct shm_kernel real_kernel;

static int reserve(const dvsm_backend *b, dvsm_mapping *m)
{
    return b->reserve(b, m);
}

static int commit(const dvsm_backend *b, const dvsm_mapping *m, size_t offset, size_t bytes)
{
    return b->commit(b, m, (char *)m->base + offset, bytes);
}

static int release(const dvsm_backend *b, const dvsm_mapping *m, size_t offset, size_t bytes)
{
    return b->release(b, m, (char *)m->base + offset, bytes);
}

static int destroy(const dvsm_backend *b, dvsm_mapping *m)
{
    return b->unmap(b, m, 1);
}

static dvsm_mapping reserved(const dvsm_backend *b)
{
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};

    assert_int_equal(reserve(b, &m), 0);
    return m;
}

static bool is_all(const char *start, size_t bytes, char value)
{
    for (size_t i = 0; i < bytes; i++)
        if (start[i] != value)
            return false;
    return true;
}

/* Pages of the range that have memory behind them. */
static size_t resident(const dvsm_mapping *m, size_t offset, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char in_core[RESERVED / 4096];
    size_t pages = 0;

    assert_int_equal(mincore((char *)m->base + offset, bytes, in_core), 0);
    for (size_t i = 0; i < bytes / page; i++)
        pages += in_core[i] & 1;
    return pages * page;
}

/* Bytes of memory that the mapping's file has, or its pages: mincore() does not count what was
 * allocated and never touched. */
static size_t allocated(const dvsm_mapping *m)
{
    struct stat file;

    if (m->fd < 0)
        return resident(m, 0, RESERVED);
    assert_int_equal(fstat(m->fd, &file), 0);
    return (size_t)file.st_blocks * 512;
}

static int open_fds(void)
{
    int fds = 0;

    for (int fd = 0; fd < 256; fd++)
        fds += fcntl(fd, F_GETFD) >= 0;
    return fds;
}

/* ---- each backend */

typedef void (*backend_test)(const dvsm_backend *b);

static void with_each_backend(backend_test test)
{
    static const char *const names[] = {"memfd", "shm_open", "anon"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int fds = open_fds();
        const dvsm_backend *b = shm_backend_named(names[i]);

        assert_non_null(b);
        print_message("with %s\n", b->name);
        test(b);
        assert_int_equal(open_fds(), fds);
    }
}

static void test_backends_have_names(void **state)
{
    (void)state;
    assert_ptr_equal(shm_backend_named("memfd"), &dvsm_backend_memfd);
    assert_ptr_equal(shm_backend_named("shm_open"), &dvsm_backend_shm_open);
    assert_ptr_equal(shm_backend_named("anon"), &dvsm_backend_anon);
    assert_null(shm_backend_named("memf"));
    assert_null(shm_backend_named(""));
    assert_int_equal(dvsm_backend_memfd.size, sizeof(dvsm_backend));
}

static void reserves_aligned(const dvsm_backend *b)
{
    for (int i = 0; i < 20; i++) {
        void *space =
            mmap(NULL, (size_t)(i + 1) * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        dvsm_mapping m = reserved(b);

        assert_int_equal((uintptr_t)m.base % SHM_ALIGN, 0);
        assert_int_equal(m.bytes, RESERVED);
        assert_int_equal(resident(&m, 0, RESERVED), 0);
        assert_int_equal(destroy(b, &m), 0);
        munmap(space, (size_t)(i + 1) * 4096);
    }
}

static void test_a_reserved_range_is_aligned_and_empty(void **state)
{
    (void)state;
    with_each_backend(reserves_aligned);
}

static void commits_and_releases(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b);
    char *piece = (char *)m.base + 2 * PIECE;

    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    assert_int_equal(resident(&m, 2 * PIECE, PIECE), PIECE);
    assert_int_equal(resident(&m, 0, RESERVED), PIECE);
    assert_true(is_all(piece, PIECE, 0));
    memset(piece, 'x', PIECE);
    assert_int_equal(release(b, &m, 2 * PIECE, PIECE), 0);
    assert_int_equal(resident(&m, 0, RESERVED), 0);
    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    assert_true(is_all(piece, PIECE, 0));
    assert_int_equal(destroy(b, &m), 0);
    assert_null(m.base);
    assert_int_equal(m.fd, -1);
}

static void test_what_is_released_reads_as_zeros_when_committed_again(void **state)
{
    (void)state;
    with_each_backend(commits_and_releases);
}

static void commits_over_committed(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b);

    assert_int_equal(commit(b, &m, PIECE, PIECE), 0);
    memset((char *)m.base + PIECE, 'x', PIECE);
    assert_int_equal(commit(b, &m, 0, 3 * PIECE), 0);
    assert_true(is_all((char *)m.base + PIECE, PIECE, 'x'));
    assert_int_equal(resident(&m, 0, RESERVED), 3 * PIECE);
    assert_int_equal(destroy(b, &m), 0);
}

static void test_a_range_may_be_partly_committed_already(void **state)
{
    (void)state;
    with_each_backend(commits_over_committed);
}

struct shared_scene {
    const dvsm_backend *backend;
    dvsm_mapping *mapping;
};

static int change_in_child(void *context)
{
    struct shared_scene *s = context;
    char *base = s->mapping->base;

    CHILD_CHECK(strcmp(base, "from the parent") == 0);
    strcpy(base, "from the child");
    CHILD_CHECK(commit(s->backend, s->mapping, PIECE, PIECE) == 0);
    strcpy(base + PIECE, "committed by the child");
    CHILD_CHECK(release(s->backend, s->mapping, 2 * PIECE, PIECE) == 0);
    return 0;
}

static int unmap_in_child(void *context)
{
    struct shared_scene *s = context;

    CHILD_CHECK(s->backend->unmap(s->backend, s->mapping, 0) == 0);
    return 0;
}

static void shares_with_children(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b);
    struct shared_scene scene = {b, &m};
    char *base = m.base;

    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    strcpy(base, "from the parent");
    base[2 * PIECE] = 'x';
    assert_int_equal(run_in_child(change_in_child, &scene), 0);
    assert_string_equal(base, "from the child");
    assert_string_equal(base + PIECE, "committed by the child");
    assert_int_equal(resident(&m, 2 * PIECE, PIECE), 0);
    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    assert_int_equal(base[2 * PIECE], 0);
    assert_int_equal(run_in_child(unmap_in_child, &scene), 0);
    assert_string_equal(base, "from the child");
    assert_int_equal(destroy(b, &m), 0);
}

static void test_parent_and_child_see_one_memory(void **state)
{
    (void)state;
    with_each_backend(shares_with_children);
}

static void closes_on_exec(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b);

    if (b == &dvsm_backend_anon)
        assert_int_equal(m.fd, -1);
    else
        assert_int_equal(fcntl(m.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(destroy(b, &m), 0);
}

static void test_the_fd_is_closed_on_exec(void **state)
{
    (void)state;
    with_each_backend(closes_on_exec);
}

static void takes_huge_page_wish(const dvsm_backend *b)
{
    for (int i = 0; i < 20; i++) {
        void *space =
            mmap(NULL, (size_t)(i + 1) * SHM_ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        dvsm_mapping m = {.bytes = RESERVED, .fd = -1, .flags = DVSM_HUGE_PAGES};

        assert_int_equal(reserve(b, &m), 0);
        assert_int_equal((uintptr_t)m.base % (2 * MIB), 0); /* or there could be none */
        assert_int_equal(commit(b, &m, 0, 4 * MIB), 0);
        memset(m.base, 'x', 4 * MIB);
        assert_int_equal(destroy(b, &m), 0);
        munmap(space, (size_t)(i + 1) * SHM_ALIGN);
    }
}

static void test_huge_pages_are_a_wish_only(void **state)
{
    (void)state;
    with_each_backend(takes_huge_page_wish);
}

static void test_memfd_cannot_be_made_shorter(void **state)
{
    (void)state;
    dvsm_mapping m = reserved(&dvsm_backend_memfd);

    assert_int_equal(commit(&dvsm_backend_memfd, &m, 0, PIECE), 0);
    assert_int_equal(ftruncate(m.fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(m.fd, PIECE - 4096), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(fcntl(m.fd, F_ADD_SEALS, F_SEAL_GROW), -1);
    assert_int_equal(fcntl(m.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
}

static void test_memfd_takes_any_label(void **state)
{
    (void)state;
    char label[1000];

    memset(label, 'l', sizeof label);
    label[sizeof label - 1] = '\0';
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1, .name = label};
    assert_int_equal(reserve(&dvsm_backend_memfd, &m), 0);
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
}

/* ---- names */

static const char *own_name(void)
{
    static char name[64];

    snprintf(name, sizeof name, "/dvsm-test-%ld", (long)getpid());
    return name;
}

static bool name_exists(const char *name)
{
    int fd = shm_open(name, O_RDONLY, 0);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static int reserve_named(dvsm_mapping *m, const char *name, unsigned mode)
{
    *m = (dvsm_mapping){.bytes = RESERVED, .fd = -1, .name = name, .mode = mode};
    return reserve(&dvsm_backend_shm_open, m);
}

static int files_of_this_process(void)
{
    char prefix[64];
    DIR *directory = opendir("/dev/shm");
    int files = 0;

    assert_non_null(directory);
    snprintf(prefix, sizeof prefix, "dvsm-%ld-", (long)getpid());
    for (struct dirent *e; (e = readdir(directory)) != NULL;)
        files += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    closedir(directory);
    return files;
}

static void test_nameless_files_are_unlinked_at_once(void **state)
{
    (void)state;
    dvsm_mapping a = reserved(&dvsm_backend_shm_open);
    dvsm_mapping b = reserved(&dvsm_backend_shm_open);

    assert_int_equal(files_of_this_process(), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &a), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &b), 0);
}

static void test_a_name_lives_until_destroy(void **state)
{
    (void)state;
    dvsm_mapping m, again;

    assert_int_equal(reserve_named(&m, own_name(), 0), 0);
    assert_int_equal(reserve_named(&again, own_name(), 0), EEXIST);
    assert_int_equal(dvsm_backend_shm_open.unmap(&dvsm_backend_shm_open, &m, 0), 0);
    assert_true(name_exists(own_name()));
    assert_int_equal(shm_unlink(own_name()), 0);
    assert_int_equal(reserve_named(&m, own_name(), 0), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
    assert_false(name_exists(own_name()));
}

static void test_a_name_gets_its_mode_whatever_the_umask(void **state)
{
    (void)state;
    static const unsigned modes[] = {0, 0600, 0660, 0666, 0644};

    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        dvsm_mapping m;
        struct stat file;
        mode_t mask = umask(0777);
        int error = reserve_named(&m, own_name(), modes[i]);

        umask(mask);
        assert_int_equal(error, 0);
        assert_int_equal(fstat(m.fd, &file), 0);
        assert_int_equal(file.st_mode & 0777, modes[i] != 0 ? modes[i] : 0600);
        assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
    }
}

static void test_names_that_cannot_be_are_refused(void **state)
{
    (void)state;
    dvsm_mapping m;

    assert_int_equal(reserve_named(&m, "no-slash", 0), EINVAL);
    assert_int_equal(reserve_named(&m, "", 0), EINVAL);
    assert_int_not_equal(reserve_named(&m, "/", 0), 0);
    assert_int_not_equal(reserve_named(&m, "/a/b", 0), 0);
}

static void test_a_name_given_to_another_file_is_left_alone(void **state)
{
    (void)state;
    dvsm_mapping first, second;

    assert_int_equal(reserve_named(&first, own_name(), 0), 0);
    assert_int_equal(shm_unlink(own_name()), 0);
    assert_int_equal(reserve_named(&second, own_name(), 0), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &first), 0);
    assert_true(name_exists(own_name()));
    assert_int_equal(destroy(&dvsm_backend_shm_open, &second), 0);
    assert_false(name_exists(own_name()));
}

static void test_a_name_removed_by_others_is_no_error(void **state)
{
    (void)state;
    dvsm_mapping m;

    assert_int_equal(reserve_named(&m, own_name(), 0), 0);
    assert_int_equal(shm_unlink(own_name()), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
}

/* In a directory that is sticky, as /dev/shm is, a name is its owner's to remove. */
static int destroy_as_nobody(void *context)
{
    dvsm_mapping *m = context;
    char *base = m->base;
    int fd = m->fd;

    CHILD_CHECK(setuid(65534) == 0);
    CHILD_CHECK(destroy(&dvsm_backend_shm_open, m) == EACCES);
    CHILD_CHECK(m->base == base && m->fd == fd && fcntl(fd, F_GETFD) >= 0);
    CHILD_CHECK(commit(&dvsm_backend_shm_open, m, 0, PIECE) == 0);
    base[0] = 'x';
    CHILD_CHECK(dvsm_backend_shm_open.unmap(&dvsm_backend_shm_open, m, 0) == 0);
    return 0;
}

static void test_a_name_that_cannot_be_removed_leaves_all_as_it_was(void **state)
{
    (void)state;
    dvsm_mapping m;

    if (getuid() != 0)
        skip();
    assert_int_equal(reserve_named(&m, own_name(), 0), 0);
    assert_int_equal(run_in_child(destroy_as_nobody, &m), 0);
    assert_true(name_exists(own_name()));
    assert_int_equal(*(char *)m.base, 'x');
    assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
    assert_false(name_exists(own_name()));
}

static void test_a_failed_reserve_leaves_no_name(void **state)
{
    (void)state;
    dvsm_mapping m = {.bytes = SIZE_MAX / 2 / SHM_ALIGN * SHM_ALIGN, .fd = -1, .name = own_name()};
    int fds = open_fds();

    assert_int_not_equal(reserve(&dvsm_backend_shm_open, &m), 0);
    assert_false(name_exists(own_name()));
    assert_int_equal(open_fds(), fds);
}

/* ---- a program that closes what it does not know */

static void survives_a_closed_fd(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b);
    int fd = m.fd;

    if (fd < 0) {
        assert_int_equal(destroy(b, &m), 0);
        return;
    }
    FILE *other = tmpfile();
    assert_non_null(other);
    assert_int_equal(dup2(fileno(other), fd), fd);
    assert_false(shm_owns_fd(&m));
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    memset(m.base, 'x', PIECE);
    assert_int_equal(release(b, &m, 0, PIECE), 0);
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    assert_true(is_all(m.base, PIECE, 0));
    assert_int_equal(destroy(b, &m), 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), 0); /* still open, and untouched */
    close(fd);
    fclose(other);
}

static void test_a_foreign_fd_under_the_number_is_left_alone(void **state)
{
    (void)state;
    with_each_backend(survives_a_closed_fd);
}

/* ---- other kernels */

static int errors_left; /* how often replaced calls fail before they work; negative: always */
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

static int restore_kernel(void **state)
{
    (void)state;
    shm_kernel = real_kernel;
    return 0;
}

static void commits_without_populate(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b);
    const size_t bytes = 5 * MIB; /* more than is allocated in one piece */

    fail_times(-1, EINVAL);
    assert_int_equal(commit(b, &m, PIECE, bytes), 0);
    assert_int_equal(allocations, m.fd < 0 ? 0 : 1 + 3); /* for the length, and for the pages */
    assert_int_equal(allocated(&m), bytes);
    assert_true(is_all((char *)m.base + PIECE, bytes, 0));
    assert_int_equal(release(b, &m, PIECE, bytes), 0);
    if (m.fd >= 0)
        close(m.fd);
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    assert_int_equal(resident(&m, 0, RESERVED), PIECE);
    assert_true(is_all(m.base, PIECE, 0));
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
    dvsm_mapping m = reserved(b);

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
    dvsm_mapping m = reserved(b);

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
    dvsm_mapping m = reserved(b);

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
    dvsm_mapping m = reserved(&dvsm_backend_memfd);

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
    dvsm_mapping m = reserved(b);

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
    dvsm_mapping m = reserved(&dvsm_backend_memfd);

    assert_int_equal(commit(&dvsm_backend_memfd, &m, 0, PIECE), 0);
    if (mlock(m.base, 4096) == 0) {
        memset(m.base, 'x', PIECE);
        assert_int_equal(release(&dvsm_backend_memfd, &m, 0, PIECE), 0);
        assert_true(is_all(m.base, PIECE, 0));
    }
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
}

static void test_memfd_works_on_kernels_that_know_fewer_flags(void **state)
{
    (void)state;
    shm_kernel.memfd = memfd_fails;
    fail_times(1, EINVAL);
    dvsm_mapping m = reserved(&dvsm_backend_memfd);
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

static void reports_no_free_fd(const dvsm_backend *b)
{
    assert_int_equal(run_in_child(reserve_without_free_fd, (void *)(uintptr_t)b), 0);
}

static void test_no_free_fd_is_an_error(void **state)
{
    (void)state;
    with_each_backend(reports_no_free_fd);
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

static void fits_into_address_space(const dvsm_backend *b)
{
    assert_int_equal(run_in_child(reserve_within_address_space, (void *)(uintptr_t)b), 0);
}

static void test_a_limit_of_address_space_is_met_by_halving(void **state)
{
    (void)state;
    with_each_backend(fits_into_address_space);
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

static void fits_into_file_size(const dvsm_backend *b)
{
    assert_int_equal(run_in_child(reserve_within_file_size, (void *)(uintptr_t)b), 0);
}

static void test_a_limit_of_file_size_is_met_without_a_signal(void **state)
{
    (void)state;
    with_each_backend(fits_into_file_size);
}

/* The limit may have been set after the heap was made: the file is as long as it is then. */
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

static void commits_beyond_file_size(const dvsm_backend *b)
{
    assert_int_equal(run_in_child(commit_beyond_file_size, (void *)(uintptr_t)b), 0);
}

static void test_a_limit_set_later_does_not_touch_what_is_reserved(void **state)
{
    (void)state;
    with_each_backend(commits_beyond_file_size);
}

/* ---- file systems: a small /dev/shm, and none, in a mount namespace of a child's own */

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
    CHILD_CHECK(is_all(m.base, 512 * KIB, 'x'));
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

/* Neither populate nor an fd: the kernel's stores find the file system full. */
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
    CHILD_CHECK(reserve(&dvsm_backend_shm_open, &m) == 0); /* a memory file does as well */
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

/* ---- what is too large, and backends of users */

static void test_sizes_beyond_the_machine_are_refused_or_halved(void **state)
{
    (void)state;
    static const size_t huge[] = {SIZE_MAX - SHM_ALIGN + 1, SIZE_MAX / 2 + 1,
                                  SIZE_MAX / 2 - SHM_ALIGN + 1};
    const size_t least = MIB;

    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        dvsm_mapping m = {.bytes = huge[i], .fd = -1};

        assert_int_equal(reserve(&dvsm_backend_memfd, &m), ENOMEM);
        assert_int_equal(reserve(&dvsm_backend_shm_open, &m), ENOMEM);
        assert_int_equal(reserve(&dvsm_backend_anon, &m), ENOMEM);
        assert_int_equal(shm_reserve_fitting(&dvsm_backend_memfd, &m, least), 0);
        assert_in_range(m.bytes, least, huge[i]);
        assert_int_equal(m.bytes % SHM_ALIGN, 0);
        assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
    }
}

static void test_halving_stops_at_the_least(void **state)
{
    (void)state;
    struct failing_backend *f = failing_backend_new(&dvsm_backend_anon);
    dvsm_mapping m = {.bytes = 16 * MIB, .fd = -1};

    failing_backend_fail(f, FAILING_RESERVE, 1, EFBIG, true);
    assert_int_equal(shm_reserve_fitting(&f->backend, &m, 3 * MIB), EFBIG);
    assert_int_equal(failing_backend_calls(f, FAILING_RESERVE), 4); /* 16, 8, 4, 3 */
    assert_int_equal(m.bytes, 16 * MIB);
    failing_backend_reset(f);
    failing_backend_fail(f, FAILING_RESERVE, 1, EMFILE, false);
    assert_int_equal(shm_reserve_fitting(&f->backend, &m, 3 * MIB), EMFILE);
    assert_int_equal(failing_backend_calls(f, FAILING_RESERVE), 1);
    assert_int_equal(shm_reserve_fitting(&f->backend, &m, 3 * MIB), 0);
    assert_int_equal(f->backend.unmap(&f->backend, &m, 1), 0);
    assert_int_equal(f->mapped, 0);
    failing_backend_delete(f);
}

static int reserve_askew(const dvsm_backend *self, dvsm_mapping *m)
{
    (void)self;
    m->base = (void *)(uintptr_t)(SHM_ALIGN + 4096);
    return 0;
}

static int unmaps;

static int unmap_nothing(const dvsm_backend *self, dvsm_mapping *m, int remove_name)
{
    (void)self;
    (void)m;
    unmaps += remove_name;
    return 0;
}

static void test_a_base_that_is_not_aligned_is_refused(void **state)
{
    (void)state;
    const dvsm_backend askew = {
        .size = sizeof askew, .name = "askew", .reserve = reserve_askew, .unmap = unmap_nothing};
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};

    unmaps = 0;
    assert_int_equal(shm_reserve_fitting(&askew, &m, MIB), EPROTO);
    assert_int_equal(unmaps, 1);
}

static void test_unmapping_what_is_not_mapped_is_an_error(void **state)
{
    (void)state;
    dvsm_mapping m = {.base = (char *)1, .bytes = RESERVED, .fd = -1};

    assert_int_equal(destroy(&dvsm_backend_anon, &m), EINVAL);
}

#define kernel_test(test) cmocka_unit_test_teardown(test, restore_kernel)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backends_have_names),
        cmocka_unit_test(test_a_reserved_range_is_aligned_and_empty),
        cmocka_unit_test(test_what_is_released_reads_as_zeros_when_committed_again),
        cmocka_unit_test(test_a_range_may_be_partly_committed_already),
        cmocka_unit_test(test_parent_and_child_see_one_memory),
        cmocka_unit_test(test_the_fd_is_closed_on_exec),
        cmocka_unit_test(test_huge_pages_are_a_wish_only),
        cmocka_unit_test(test_memfd_cannot_be_made_shorter),
        cmocka_unit_test(test_memfd_takes_any_label),
        cmocka_unit_test(test_nameless_files_are_unlinked_at_once),
        cmocka_unit_test(test_a_name_lives_until_destroy),
        cmocka_unit_test(test_a_name_gets_its_mode_whatever_the_umask),
        cmocka_unit_test(test_names_that_cannot_be_are_refused),
        cmocka_unit_test(test_a_name_given_to_another_file_is_left_alone),
        cmocka_unit_test(test_a_name_removed_by_others_is_no_error),
        cmocka_unit_test(test_a_name_that_cannot_be_removed_leaves_all_as_it_was),
        cmocka_unit_test(test_a_failed_reserve_leaves_no_name),
        cmocka_unit_test(test_a_foreign_fd_under_the_number_is_left_alone),
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
        cmocka_unit_test(test_sizes_beyond_the_machine_are_refused_or_halved),
        cmocka_unit_test(test_halving_stops_at_the_least),
        cmocka_unit_test(test_a_base_that_is_not_aligned_is_refused),
        cmocka_unit_test(test_unmapping_what_is_not_mapped_is_an_error),
    };

    real_kernel = shm_kernel;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
