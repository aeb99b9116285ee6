/* test_shm.c - the backends: ranges, names, descriptors, sizes.
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

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/backend_calls.h"
#include "support/bytes.h"
#include "support/child.h"
#include "support/failing_backend.h"

enum { RESERVED = 16 * MIB };

/* ---- each backend */

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
        dvsm_mapping m = reserved(b, RESERVED);

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
    dvsm_mapping m = reserved(b, RESERVED);
    char *piece = (char *)m.base + 2 * PIECE;

    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    assert_int_equal(resident(&m, 2 * PIECE, PIECE), PIECE);
    assert_int_equal(resident(&m, 0, RESERVED), PIECE);
    assert_true(is_all(piece, 0, PIECE));
    memset(piece, 'x', PIECE);
    assert_int_equal(release(b, &m, 2 * PIECE, PIECE), 0);
    assert_int_equal(resident(&m, 0, RESERVED), 0);
    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    assert_true(is_all(piece, 0, PIECE));
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
    dvsm_mapping m = reserved(b, RESERVED);

    assert_int_equal(commit(b, &m, PIECE, PIECE), 0);
    memset((char *)m.base + PIECE, 'x', PIECE);
    assert_int_equal(commit(b, &m, 0, 3 * PIECE), 0);
    assert_true(is_all((char *)m.base + PIECE, 'x', PIECE));
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
    dvsm_mapping m = reserved(b, RESERVED);
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
    dvsm_mapping m = reserved(b, RESERVED);

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
        assert_int_equal((uintptr_t)m.base % (2 * MIB), 0); /* else no huge page would fit */
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
    dvsm_mapping m = reserved(&dvsm_backend_memfd, RESERVED);

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

/* Reserves, and gives the name. On failure nothing is left. */
static int make_named(dvsm_mapping *m, const char *name)
{
    const dvsm_backend *b = &dvsm_backend_shm_open;
    int error = reserve_named(m, name, 0);

    if (error == 0 && (error = shm_publish(b, m)) != 0)
        assert_int_equal(destroy(b, m), 0);
    return error;
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
    dvsm_mapping a = reserved(&dvsm_backend_shm_open, RESERVED);
    dvsm_mapping b = reserved(&dvsm_backend_shm_open, RESERVED);

    assert_int_equal(files_of_this_process(), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &a), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &b), 0);
}

static void test_a_name_is_given_last_and_lives_until_destroy(void **state)
{
    (void)state;
    dvsm_mapping m, again;

    assert_int_equal(reserve_named(&m, own_name(), 0), 0);
    assert_false(name_exists(own_name()));
    assert_int_equal(shm_publish(&dvsm_backend_shm_open, &m), 0);
    assert_true(name_exists(own_name()));
    assert_int_equal(make_named(&again, own_name()), EEXIST);
    assert_true(name_exists(own_name()));
    assert_int_equal(dvsm_backend_shm_open.unmap(&dvsm_backend_shm_open, &m, 0), 0);
    assert_true(name_exists(own_name()));
    assert_int_equal(shm_unlink(own_name()), 0);
    assert_int_equal(make_named(&m, own_name()), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
    assert_false(name_exists(own_name()));
}

/* What ends before the name is given leaves nothing. */
static void test_a_heap_that_is_not_finished_has_no_name(void **state)
{
    (void)state;
    dvsm_mapping m;

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

    assert_int_equal(make_named(&first, own_name()), 0);
    assert_int_equal(shm_unlink(own_name()), 0);
    assert_int_equal(make_named(&second, own_name()), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &first), 0);
    assert_true(name_exists(own_name()));
    assert_int_equal(destroy(&dvsm_backend_shm_open, &second), 0);
    assert_false(name_exists(own_name()));
}

static void test_a_name_removed_by_others_is_no_error(void **state)
{
    (void)state;
    dvsm_mapping m;

    assert_int_equal(make_named(&m, own_name()), 0);
    assert_int_equal(shm_unlink(own_name()), 0);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
}

/* In a sticky directory, as /dev/shm is, only its owner can remove a name. */
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
    assert_int_equal(make_named(&m, own_name()), 0);
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

/* ---- a program that closes descriptors that it did not open */

static void survives_a_closed_fd(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b, RESERVED);
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
    assert_true(is_all(m.base, 0, PIECE));
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
        cmocka_unit_test(test_a_name_is_given_last_and_lives_until_destroy),
        cmocka_unit_test(test_a_heap_that_is_not_finished_has_no_name),
        cmocka_unit_test(test_a_name_gets_its_mode_whatever_the_umask),
        cmocka_unit_test(test_names_that_cannot_be_are_refused),
        cmocka_unit_test(test_a_name_given_to_another_file_is_left_alone),
        cmocka_unit_test(test_a_name_removed_by_others_is_no_error),
        cmocka_unit_test(test_a_name_that_cannot_be_removed_leaves_all_as_it_was),
        cmocka_unit_test(test_a_failed_reserve_leaves_no_name),
        cmocka_unit_test(test_a_foreign_fd_under_the_number_is_left_alone),
        cmocka_unit_test(test_sizes_beyond_the_machine_are_refused_or_halved),
        cmocka_unit_test(test_halving_stops_at_the_least),
        cmocka_unit_test(test_a_base_that_is_not_aligned_is_refused),
        cmocka_unit_test(test_unmapping_what_is_not_mapped_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
