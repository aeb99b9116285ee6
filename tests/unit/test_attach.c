/* test_attach.c - files that are no heap, or not one for this process: each is refused with its own
 * error, and nothing is left behind.
 *
 * Modes: default
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "support/child.h"
#include "support/descriptors.h"
#include "support/random.h"

enum { KIB = 1 << 10, MIB = 1 << 20, MUTATIONS = 10000 };

static char name[64], copy[80];
static struct region_identity identity; /* of the heap whose file is copied */
static struct random_run arguments;

static dvsm_heap *create(const char *of)
{
    return dvsm_heap_create(&(dvsm_options){.backend = &dvsm_backend_shm_open, .name = of});
}

/* Makes a heap with some blocks, copies its file under another name, and leaves the heap. */
static int make_copy(void **state)
{
    (void)state;
    dvsm_heap *heap = create(name);

    if (heap == NULL)
        return 1;
    for (size_t size = 1; size < 2 * MIB; size += size / 2 + 1)
        if (dvsm_heap_malloc(heap, size) == NULL)
            return 1;
    identity = heap->region->identity;
    int from = dup(dvsm_heap_fd(heap)), to = shm_open(copy, O_RDWR | O_CREAT | O_EXCL, 0600);
    struct stat file;
    int error = dvsm_heap_destroy(heap);

    if (error != 0 || to < 0 || fstat(from, &file) != 0)
        return 1;
    for (loff_t left = file.st_size; left > 0;) {
        ssize_t bytes = copy_file_range(from, NULL, to, NULL, (size_t)left, 0);

        if (bytes <= 0)
            return 1;
        left -= bytes;
    }
    close(from);
    close(to);
    return 0;
}

static int remove_copy(void **state)
{
    (void)state;
    shm_unlink(name);
    return shm_unlink(copy);
}

static void expect_refused(const char *of, int error)
{
    int before = open_fds_below(1024);

    errno = 0;
    assert_null(dvsm_heap_attach(of, 0));
    assert_int_equal(errno, error);
    assert_true(dvsm_heap_message()[0] != '\0');
    assert_int_equal(open_fds_below(1024), before);
    /* Its addresses are free again. */
    void *range = mmap((void *)(uintptr_t)identity.base, identity.bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_equal(range, (void *)(uintptr_t)identity.base);
    munmap(range, identity.bytes);
}

static void expect_joined(void)
{
    dvsm_heap *heap = dvsm_heap_attach(copy, 0);

    if (heap == NULL)
        print_error("%s\n", dvsm_heap_message());
    assert_non_null(heap);
    assert_string_equal(dvsm_heap_message(), "");
    assert_non_null(dvsm_heap_malloc(heap, 100));
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_detach(heap), 0);
}

static void write_copy(const void *bytes, size_t count, off_t at)
{
    int fd = shm_open(copy, O_RDWR, 0);

    assert_int_equal(pwrite(fd, bytes, count, at), count);
    close(fd);
}

static void write_identity(const struct region_identity *as)
{
    write_copy(as, sizeof *as, 0);
}

static void test_a_copy_of_a_heap_is_a_heap(void **state)
{
    (void)state;
    expect_joined();
}

static void test_wrong_names(void **state)
{
    char longest[NAME_MAX + 10];

    (void)state;
    memset(longest, 'x', sizeof longest);
    longest[0] = '/';
    longest[sizeof longest - 1] = '\0';
    expect_refused("/dvsm-test-that-is-not-there", ENOENT);
    expect_refused("no-slash", EINVAL);
    expect_refused("/", EINVAL);
    expect_refused("/..", EINVAL);
    expect_refused("/a/b", EINVAL);
    expect_refused("", EINVAL);
    expect_refused(longest, ENAMETOOLONG);
    assert_null(dvsm_heap_attach(NULL, 0));
    assert_int_equal(errno, EINVAL);
    assert_null(dvsm_heap_attach(copy, 1u << 30));
    assert_int_equal(errno, EINVAL);
    assert_int_equal(dvsm_heap_unlink("no-slash"), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(dvsm_heap_unlink(longest), -1);
    assert_int_equal(errno, ENAMETOOLONG);
    assert_int_equal(dvsm_heap_unlink("/dvsm-test-that-is-not-there"), -1);
    assert_int_equal(errno, ENOENT);
}

static void test_wrong_descriptors(void **state)
{
    int pipes[2];

    (void)state;
    assert_null(dvsm_heap_attach_fd(-1, 0));
    assert_int_equal(errno, EBADF);
    assert_null(dvsm_heap_attach_fd(0, 1u << 30));
    assert_int_equal(errno, EINVAL);
    assert_int_equal(pipe(pipes), 0);
    assert_null(dvsm_heap_attach_fd(pipes[0], 0));
    assert_int_equal(errno, EBADMSG);
    close(pipes[0]);
    close(pipes[1]);
    assert_int_equal(dvsm_heap_fd(NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(dvsm_heap_inherit(NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(dvsm_heap_detach(NULL), -1);
    assert_int_equal(errno, EINVAL);
    dvsm_heap *without = dvsm_heap_create(&(dvsm_options){.backend = &dvsm_backend_anon});
    assert_int_equal(dvsm_heap_fd(without), -1);
    assert_int_equal(errno, ENOTSUP);
    assert_int_equal(dvsm_heap_inherit(without), -1);
    assert_int_equal(errno, ENOTSUP);
    assert_int_equal(dvsm_heap_destroy(without), 0);
}

static void test_a_link(void **state)
{
    char path[128], target[128];

    (void)state;
    snprintf(path, sizeof path, "/dev/shm%s", name);
    snprintf(target, sizeof target, "/dev/shm%s", copy);
    assert_int_equal(symlink(target, path), 0);
    expect_refused(name, ELOOP);
    unlink(path);
}

static void test_no_heap(void **state)
{
    char text[64 * KIB];

    (void)state;
    memset(text, 'x', sizeof text);
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    expect_refused(name, EAGAIN); /* an empty file: perhaps one that is being made */
    assert_int_equal(write(fd, text, 100), 100);
    expect_refused(name, ENODATA);
    assert_int_equal(write(fd, text, sizeof text), sizeof text);
    expect_refused(name, EBADMSG);
    close(fd);
    shm_unlink(name);
}

static void test_heaps_of_other_makers(void **state)
{
    struct region_identity wrong = identity;

    (void)state;
    wrong.magic = 0;
    write_identity(&wrong);
    expect_refused(copy, EAGAIN);
    wrong.magic = __builtin_bswap64(identity.magic);
    write_identity(&wrong);
    expect_refused(copy, ENOEXEC);
    wrong = identity;
    wrong.word_bytes = identity.word_bytes == 8 ? 4 : 8;
    write_identity(&wrong);
    expect_refused(copy, ENOEXEC);
    wrong = identity;
    wrong.lock_layout++;
    write_identity(&wrong);
    expect_refused(copy, ENOEXEC);
    wrong = identity;
    wrong.version++;
    write_identity(&wrong);
    expect_refused(copy, EPROTONOSUPPORT);
    wrong = identity;
    wrong.page_bytes *= 4;
    write_identity(&wrong);
    expect_refused(copy, EMEDIUMTYPE);
    wrong = identity;
    wrong.pid_namespace += 1;
    write_identity(&wrong);
    if (identity.pid_namespace != 0)
        expect_refused(copy, EXDEV);
    wrong = identity;
    wrong.base += 1;
    write_identity(&wrong);
    expect_refused(copy, EBADMSG);
    wrong = identity;
    wrong.base += 64 * KIB; /* where its parts would be elsewhere */
    write_identity(&wrong);
    expect_refused(copy, EBADMSG);
    write_identity(&identity);
    expect_joined();
}

static void test_a_file_that_is_too_short(void **state)
{
    struct stat file;
    char path[128];

    (void)state;
    snprintf(path, sizeof path, "/dev/shm%s", copy);
    assert_int_equal(stat(path, &file), 0);
    for (off_t bytes = file.st_size - 4096; bytes > 0; bytes = bytes * 3 / 4) {
        remove_copy(NULL);
        assert_int_equal(make_copy(NULL), 0);
        assert_int_equal(truncate(path, bytes), 0);
        expect_refused(copy, ENODATA);
    }
    remove_copy(NULL);
    assert_int_equal(make_copy(NULL), 0);
}

/* The message names the range and what lies there. */
static void test_addresses_that_are_taken(void **state)
{
    char range[32];

    (void)state;
    for (size_t at = 0; at < identity.bytes; at += identity.bytes - 64 * KIB) {
        void *there = (void *)(uintptr_t)(identity.base + at);
        void *page = mmap(there, 64 * KIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_ptr_equal(page, there);
        assert_null(dvsm_heap_attach(copy, 0));
        assert_int_equal(errno, EADDRNOTAVAIL);
        snprintf(range, sizeof range, "%llx-%llx", (unsigned long long)identity.base,
                 (unsigned long long)(identity.base + identity.bytes));
        assert_non_null(strstr(dvsm_heap_message(), range));
        snprintf(range, sizeof range, "%llx-", (unsigned long long)(uintptr_t)there);
        assert_non_null(strstr(dvsm_heap_message(), range));
        munmap(page, 64 * KIB);
    }
    expect_joined();
}

static int try_as_another(void *context)
{
    int *expected = context;

    CHILD_CHECK(setgroups(0, NULL) == 0 && setegid(12345) == 0 && seteuid(12345) == 0);
    dvsm_heap *heap = dvsm_heap_attach(copy, 0);
    CHILD_CHECK(*expected == 0 ? heap != NULL : heap == NULL && errno == *expected);
    return 0;
}

/* The superuser, too, is kept out of a heap that is another user's alone. */
static void test_other_users(void **state)
{
    char path[128];

    (void)state;
    if (geteuid() != 0)
        skip();
    snprintf(path, sizeof path, "/dev/shm%s", copy);
    assert_int_equal(run_in_child(try_as_another, &(int){EACCES}), 0);
    assert_int_equal(chmod(path, 0606), 0);
    assert_int_equal(run_in_child(try_as_another, &(int){0}), 0);
    assert_int_equal(chown(path, 12345, 12345), 0);
    expect_joined();
    assert_int_equal(chmod(path, 0600), 0);
    expect_refused(copy, EACCES);
    assert_int_equal(chown(path, 0, 0), 0);
    expect_joined();
}

static void test_an_address_of_ones_own(void **state)
{
    dvsm_options options = {.size = sizeof options,
                            .backend = &dvsm_backend_memfd,
                            .reserve = 64 * MIB,
                            .address = (void *)(uintptr_t)identity.base};

    (void)state;
    dvsm_heap *heap = dvsm_heap_create(&options);
    assert_non_null(heap);
    assert_ptr_equal(heap->mapping.base, options.address);
    assert_null(dvsm_heap_create(&options));
    assert_int_equal(errno, EADDRNOTAVAIL);
    options.address = (char *)options.address + 1;
    assert_null(dvsm_heap_create(&options));
    assert_int_equal(errno, EINVAL);
    options = (dvsm_options){.size = sizeof options, .address = heap->mapping.base};
    assert_null(dvsm_heap_create(&options)); /* without a reserve */
    assert_int_equal(errno, EINVAL);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static int mutate_and_join(void *context)
{
    struct random_source *dice = context;
    struct region header;
    int fd = shm_open(copy, O_RDWR, 0);

    CHILD_CHECK(fd >= 0 && pread(fd, &header, sizeof header, 0) == sizeof header);
    for (size_t i = 0; i < MUTATIONS; i++) {
        size_t at = random_below(dice, sizeof header / WORD) * WORD;
        word w, old;

        CHILD_CHECK(pread(fd, &old, sizeof old, (off_t)at) == sizeof old);
        w = random_once_in(dice, 2) ? old ^ (word)1 << random_below(dice, SIZE_BITS)
                                    : (word)random_next(dice) >> random_below(dice, SIZE_BITS);
        CHILD_CHECK(pwrite(fd, &w, sizeof w, (off_t)at) == sizeof w);
        dvsm_heap *heap = dvsm_heap_attach(copy, 0);
        if (heap != NULL)
            CHILD_CHECK(dvsm_heap_detach(heap) == 0);
        CHILD_CHECK(pwrite(fd, &old, sizeof old, (off_t)at) == sizeof old);
    }
    close(fd);
    return 0;
}

/* Whatever the header says, joining ends, and touches nothing outside the range. */
static void test_joining_believes_nothing(void **state)
{
    struct random_source dice = {arguments.seed};

    (void)state;
    assert_int_equal(run_in_child(mutate_and_join, &dice), 0);
    expect_joined();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_of_a_heap_is_a_heap),
        cmocka_unit_test(test_wrong_names),
        cmocka_unit_test(test_wrong_descriptors),
        cmocka_unit_test(test_a_link),
        cmocka_unit_test(test_no_heap),
        cmocka_unit_test(test_heaps_of_other_makers),
        cmocka_unit_test(test_a_file_that_is_too_short),
        cmocka_unit_test(test_addresses_that_are_taken),
        cmocka_unit_test(test_other_users),
        cmocka_unit_test(test_joining_believes_nothing),
        cmocka_unit_test(test_an_address_of_ones_own),
    };

    arguments = random_run_from(argc, argv, 0);
    snprintf(name, sizeof name, "/dvsm-test-attach-%ld", (long)getpid());
    snprintf(copy, sizeof copy, "%s-copy", name);
    return cmocka_run_group_tests(tests, make_copy, remove_copy);
}
