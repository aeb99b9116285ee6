/* test_shm_file.c - the file behind a mapping: it is no longer than what was committed; its
 * descriptor is above stdio, and is found again after the program closed it or reused its number.
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
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "support/backend_calls.h"
#include "support/child.h"

enum { RESERVED = 64 * MIB, PROCESSES = 8 };

static const dvsm_backend *const with_file[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open};
enum { WITH_FILE = sizeof with_file / sizeof with_file[0] };

static size_t length_of(int fd)
{
    struct stat file;

    return fstat(fd, &file) == 0 ? (size_t)file.st_size : SIZE_MAX;
}

/* ---- length */

static void test_the_file_ends_where_the_highest_committed_page_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < WITH_FILE; i++) {
        const dvsm_backend *b = with_file[i];
        dvsm_mapping m = reserved(b, RESERVED);

        assert_int_equal(length_of(m.fd), 0);
        assert_int_equal(commit(b, &m, 3 * PIECE, PIECE), 0);
        assert_int_equal(length_of(m.fd), 4 * PIECE);
        assert_int_equal(commit(b, &m, 0, PIECE), 0);
        assert_int_equal(length_of(m.fd), 4 * PIECE);
        assert_int_equal(commit(b, &m, 2 * PIECE, 8 * PIECE), 0);
        assert_int_equal(length_of(m.fd), 10 * PIECE);
        memset((char *)m.base + 2 * PIECE, 'x', 8 * PIECE);
        assert_int_equal(b->release(b, &m, (char *)m.base + 2 * PIECE, 8 * PIECE), 0);
        assert_int_equal(commit(b, &m, RESERVED - PIECE, PIECE), 0);
        assert_int_equal(length_of(m.fd), RESERVED);
        assert_int_equal(destroy(b, &m), 0);
    }
}

static int no_allocate(int fd, int mode, off_t offset, off_t bytes)
{
    (void)fd, (void)mode, (void)offset, (void)bytes;
    errno = EOPNOTSUPP;
    return -1;
}

static int refusing_allocate(int fd, int mode, off_t offset, off_t bytes)
{
    (void)fd, (void)mode, (void)offset, (void)bytes;
    errno = EPERM;
    return -1;
}

static void test_it_is_made_longer_without_fallocate(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * WITH_FILE; i++) {
        const dvsm_backend *b = with_file[i / 2];

        shm_kernel.allocate = i % 2 == 0 ? no_allocate : refusing_allocate;
        dvsm_mapping m = reserved(b, RESERVED);
        assert_int_equal(commit(b, &m, PIECE, PIECE), 0);
        assert_int_equal(length_of(m.fd), 2 * PIECE);
        memset((char *)m.base + PIECE, 'x', PIECE);
        assert_int_equal(commit(b, &m, 0, PIECE), 0);
        assert_int_equal(((char *)m.base)[2 * PIECE - 1], 'x');
        assert_int_equal(destroy(b, &m), 0);
    }
}

/* Processes commit pieces and fill them while others make the file longer: the content must
 * stay. */
struct growth {
    const dvsm_backend *b;
    dvsm_mapping *m;
    size_t index;
};

static int grow_beside_others(void *context)
{
    const struct growth *g = context;
    char *base = g->m->base;

    for (size_t piece = g->index; piece < RESERVED / PIECE; piece += PROCESSES) {
        CHILD_CHECK(commit(g->b, g->m, piece * PIECE, PIECE) == 0);
        memset(base + piece * PIECE, 'a' + (int)g->index, PIECE);
    }
    for (size_t piece = g->index; piece < RESERVED / PIECE; piece += PROCESSES)
        for (size_t i = 0; i < PIECE; i++)
            CHILD_CHECK(base[piece * PIECE + i] == 'a' + (char)g->index);
    return 0;
}

static void grow_in_many_processes(const dvsm_backend *b)
{
    dvsm_mapping m = reserved(b, RESERVED);
    struct growth growth[PROCESSES];
    pid_t child[PROCESSES];

    for (size_t i = 0; i < PROCESSES; i++) {
        growth[i] = (struct growth){b, &m, i};
        child[i] = start_child(grow_beside_others, &growth[i]);
    }
    for (size_t i = 0; i < PROCESSES; i++)
        assert_int_equal(wait_for_child(child[i]), 0);
    assert_int_equal(length_of(m.fd), RESERVED);
    for (size_t piece = 0; piece < RESERVED / PIECE; piece++)
        assert_int_equal(((char *)m.base)[piece * PIECE], 'a' + (int)(piece % PROCESSES));
    assert_int_equal(destroy(b, &m), 0);
}

static void test_many_processes_make_it_longer_at_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < WITH_FILE; i++) {
        shm_kernel = real_kernel;
        grow_in_many_processes(with_file[i]);
        shm_kernel.allocate = no_allocate;
        grow_in_many_processes(with_file[i]);
    }
}

/* This is the case only for named files: nobody can make a memory file shorter. */
static void test_a_file_that_somebody_made_shorter_is_made_longer_again(void **state)
{
    (void)state;
    const dvsm_backend *b = &dvsm_backend_shm_open;
    dvsm_mapping m = reserved(b, RESERVED);

    assert_int_equal(commit(b, &m, 0, 4 * PIECE), 0);
    assert_int_equal(ftruncate(m.fd, PIECE), 0);
    assert_int_equal(commit(b, &m, 2 * PIECE, PIECE), 0);
    memset((char *)m.base + 2 * PIECE, 'x', PIECE);
    assert_int_equal(length_of(m.fd), 3 * PIECE);
    assert_int_equal(destroy(b, &m), 0);
}

/* ---- descriptors */

static int seen_low; /* mappings whose descriptor was wrong, or that left one open below 3 */

static int reserve_without_stdio(void *context)
{
    const dvsm_backend *b = context;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};
    const int message = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);

    for (int closed = 1; closed < 8; closed++) {
        for (int fd = 0; fd <= STDERR_FILENO; fd++)
            if ((closed >> fd & 1) != 0)
                close(fd);
            else
                dup2(message, fd);
        int before = open_fds_below(STDERR_FILENO + 1);

        if (b->reserve(b, &m) != 0 || m.fd <= STDERR_FILENO ||
            (fcntl(m.fd, F_GETFD) & FD_CLOEXEC) == 0 || commit(b, &m, 0, PIECE) != 0 ||
            b->unmap(b, &m, 1) != 0)
            seen_low++;
        seen_low += open_fds_below(STDERR_FILENO + 1) != before;
    }
    dup2(message, STDERR_FILENO);
    CHILD_CHECK(seen_low == 0);
    return 0;
}

static void test_descriptors_are_above_stdio_whatever_is_closed(void **state)
{
    (void)state;
    for (size_t i = 0; i < WITH_FILE; i++)
        assert_int_equal(run_in_child(reserve_without_stdio, (void *)(uintptr_t)with_file[i]), 0);
}

/* Another thread may print at this moment: as if it did, writes to the new file if that has
 * stdout's number. */
static int open_that_is_printed_to(const char *path, int flags, unsigned mode)
{
    int fd = open(path, flags, mode);

    if (fd == STDOUT_FILENO && write(fd, "printed", 7) != 7)
        abort();
    return fd;
}

static int print_meanwhile(void *context)
{
    const dvsm_backend *b = &dvsm_backend_shm_open;
    dvsm_mapping m = {.bytes = RESERVED, .fd = -1};

    (void)context;
    close(STDOUT_FILENO);
    shm_kernel.open = open_that_is_printed_to;
    CHILD_CHECK(b->reserve(b, &m) == 0);
    CHILD_CHECK(m.fd > STDERR_FILENO);
    CHILD_CHECK(commit(b, &m, 0, PIECE) == 0);
    for (size_t i = 0; i < PIECE; i++)
        CHILD_CHECK(((char *)m.base)[i] == 0);
    CHILD_CHECK(b->unmap(b, &m, 1) == 0);
    return 0;
}

static void test_what_a_thread_prints_meanwhile_is_not_in_the_file(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(print_meanwhile, NULL), 0);
}

/* ---- a lost descriptor is found again */

static int no_map_files(const char *path, int flags, unsigned mode)
{
    if (strstr(path, "map_files") != NULL) {
        errno = EPERM;
        return -1;
    }
    return open(path, flags, mode);
}

static int no_proc(const char *path, int flags, unsigned mode)
{
    if (strncmp(path, "/proc", 5) == 0) {
        errno = ENOENT;
        return -1;
    }
    return open(path, flags, mode);
}

enum way { BY_MAPPING, BY_OWN_DESCRIPTOR, BY_PARENT, BY_NONE };

struct loss {
    const dvsm_backend *b;
    enum way way;
    bool reused;
};

/* Runs in a child, whose parent still has the descriptor: here `fd` is closed, or becomes
 * another file's. */
static int lose_and_grow(dvsm_mapping *m, const struct loss *loss)
{
    char other_path[] = "/tmp/dvsm-test-XXXXXX";
    int fd = m->fd, other = mkstemp(other_path);

    CHILD_CHECK(other >= 0 && unlink(other_path) == 0);
    CHILD_CHECK(commit(loss->b, m, 0, PIECE) == 0);
    int copy = loss->way == BY_OWN_DESCRIPTOR ? dup(fd) : -1;
    CHILD_CHECK(loss->reused ? dup2(other, fd) == fd : close(fd) == 0);

    CHILD_CHECK(commit(loss->b, m, PIECE, 4 * PIECE) == (loss->way == BY_NONE ? ENOMEM : 0));
    if (loss->way != BY_NONE) {
        int found = atomic_load(&shm_record(m)->fd);

        memset(m->base, 'x', 5 * PIECE);
        CHILD_CHECK(found > STDERR_FILENO && shm_owns_fd(m) && length_of(found) == 5 * PIECE);
        CHILD_CHECK((fcntl(found, F_GETFD) & FD_CLOEXEC) != 0);
        CHILD_CHECK(loss->reused || found != copy);
        CHILD_CHECK(commit(loss->b, m, 5 * PIECE, PIECE) == 0);
        CHILD_CHECK(atomic_load(&shm_record(m)->fd) == found);
    } else {
        CHILD_CHECK(commit(loss->b, m, 0, PIECE) == 0);
        memset(m->base, 'x', PIECE);
    }
    CHILD_CHECK(length_of(other) == 0);
    CHILD_CHECK(loss->b->unmap(loss->b, m, 1) == 0);
    CHILD_CHECK(!loss->reused || length_of(fd) == 0);
    return 0;
}

static int with_kernel_that_helps(enum way way)
{
    if (way == BY_MAPPING && getuid() != 0)
        return CHILD_SKIP; /* it needs a capability */
    if (way == BY_OWN_DESCRIPTOR || way == BY_PARENT)
        shm_kernel.open = no_map_files;
    else if (way == BY_NONE)
        shm_kernel.open = no_proc;
    return 0;
}

struct scene {
    const struct loss *loss;
    dvsm_mapping *m;
};

static int lose_in_child(void *context)
{
    struct scene *s = context;

    if (with_kernel_that_helps(s->loss->way) != 0)
        return CHILD_SKIP;
    return lose_and_grow(s->m, s->loss);
}

static void lose(enum way way)
{
    for (size_t i = 0; i < WITH_FILE * 2; i++) {
        struct loss loss = {with_file[i / 2], way, i % 2 == 1};
        dvsm_mapping m = reserved(loss.b, RESERVED);
        struct scene scene = {&loss, &m};
        int status = run_in_child(lose_in_child, &scene);

        assert_int_equal(destroy(loss.b, &m), 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
            skip();
        assert_int_equal(status, 0);
    }
}

static void test_a_lost_descriptor_is_found_through_the_mapping(void **state)
{
    (void)state;
    lose(BY_MAPPING);
}

static void test_a_lost_descriptor_is_found_among_the_process_own(void **state)
{
    (void)state;
    lose(BY_OWN_DESCRIPTOR);
}

static void test_a_lost_descriptor_is_found_in_the_parent(void **state)
{
    (void)state;
    lose(BY_PARENT);
}

static void test_without_a_descriptor_memory_within_the_file_goes_on_to_work(void **state)
{
    (void)state;
    lose(BY_NONE);
}

/* ---- names */

static int watched_open(const char *path, int flags, unsigned mode)
{
    if (strcmp(path, "/dev/shm") == 0 && (flags & O_TMPFILE) != O_TMPFILE)
        abort();
    return open(path, flags, mode);
}

static bool has_name(int fd)
{
    struct stat file;

    return fstat(fd, &file) == 0 && file.st_nlink > 0;
}

static void test_a_nameless_file_has_no_name_and_gets_none(void **state)
{
    (void)state;
    char path[64];

    shm_kernel.open = watched_open;
    dvsm_mapping m = reserved(&dvsm_backend_shm_open, RESERVED);
    assert_false(has_name(m.fd));
    snprintf(path, sizeof path, "/proc/self/fd/%d", m.fd);
    assert_int_equal(linkat(AT_FDCWD, path, AT_FDCWD, "/dev/shm/dvsm-test-link", AT_SYMLINK_FOLLOW),
                     -1);
    assert_int_equal(destroy(&dvsm_backend_shm_open, &m), 0);
}

static int no_tmpfile(const char *path, int flags, unsigned mode)
{
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return open(path, flags, mode);
}

static void test_a_file_system_without_nameless_files_is_done_without(void **state)
{
    (void)state;
    const dvsm_backend *b = &dvsm_backend_shm_open;

    shm_kernel.open = no_tmpfile;
    dvsm_mapping m = reserved(b, RESERVED);
    assert_false(has_name(m.fd));
    assert_int_equal(commit(b, &m, 0, PIECE), 0);
    assert_int_equal(length_of(m.fd), PIECE);
    assert_int_equal(destroy(b, &m), 0);
}

/* ---- what a sandbox refuses */

static int refused_advice, refusal;

static int refusing_advise(void *start, size_t bytes, int advice)
{
    if (advice == refused_advice) {
        errno = refusal;
        return -1;
    }
    return madvise(start, bytes, advice);
}

static int refusing_store(void *word)
{
    (void)word;
    errno = EPERM;
    return -1;
}

static void test_refusals_lead_to_other_calls(void **state)
{
    (void)state;
    static const int refusals[] = {EPERM, ENOSYS, EINVAL, EACCES};
    static const dvsm_backend *const all[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open,
                                              &dvsm_backend_anon};

    shm_kernel.advise = refusing_advise;
    for (size_t i = 0; i < 3 * 4; i++) {
        const dvsm_backend *b = all[i / 4];
        dvsm_mapping m = reserved(b, RESERVED);

        refusal = refusals[i % 4];
        refused_advice = MADV_POPULATE_WRITE;
        errno = EDOM;
        assert_int_equal(commit(b, &m, PIECE, PIECE), 0);
        shm_kernel.allocate = refusing_allocate;
        assert_int_equal(commit(b, &m, 4 * PIECE, PIECE), 0);
        shm_kernel.allocate = fallocate;
        memset((char *)m.base + PIECE, 'x', PIECE);
        memset((char *)m.base + 4 * PIECE, 'x', PIECE);
        refused_advice = MADV_REMOVE;
        assert_int_equal(b->release(b, &m, (char *)m.base + PIECE, PIECE),
                         b == &dvsm_backend_anon ? refusal : 0);
        assert_int_equal(errno, EDOM);
        assert_int_equal(destroy(b, &m), 0);
    }
}

static void test_where_all_is_refused_there_is_no_memory(void **state)
{
    (void)state;
    dvsm_mapping m = reserved(&dvsm_backend_memfd, RESERVED);

    shm_kernel.advise = refusing_advise;
    shm_kernel.allocate = refusing_allocate;
    shm_kernel.store = refusing_store;
    refused_advice = MADV_POPULATE_WRITE;
    refusal = ENOSYS;
    assert_int_equal(commit(&dvsm_backend_memfd, &m, PIECE, PIECE), ENOMEM);
    assert_int_equal(destroy(&dvsm_backend_memfd, &m), 0);
}

static int memfd_is_refused(const char *name, unsigned flags)
{
    (void)name, (void)flags;
    errno = refusal;
    return -1;
}

static int seal_is_refused(int fd, int seals)
{
    (void)fd, (void)seals;
    errno = EPERM;
    return -1;
}

static void test_a_heap_needs_no_memory_file(void **state)
{
    (void)state;
    static const int refusals[] = {EPERM, ENOSYS, EACCES, 0};
    const dvsm_options options = {.reserve = 256 * MIB};

    for (size_t i = 0; i < 4; i++) {
        refusal = refusals[i];
        shm_kernel.memfd = refusal != 0 ? memfd_is_refused : memfd_create;
        shm_kernel.seal = refusal != 0 ? real_kernel.seal : seal_is_refused;
        dvsm_heap *heap = dvsm_heap_create(&options);

        assert_non_null(heap);
        void *block = dvsm_heap_malloc(heap, 100000);
        assert_non_null(block);
        dvsm_free(block);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_file_ends_where_the_highest_committed_page_does),
        cmocka_unit_test_teardown(test_it_is_made_longer_without_fallocate, restore_kernel),
        cmocka_unit_test_teardown(test_many_processes_make_it_longer_at_once, restore_kernel),
        cmocka_unit_test(test_a_file_that_somebody_made_shorter_is_made_longer_again),
        cmocka_unit_test(test_descriptors_are_above_stdio_whatever_is_closed),
        cmocka_unit_test(test_what_a_thread_prints_meanwhile_is_not_in_the_file),
        cmocka_unit_test(test_a_lost_descriptor_is_found_through_the_mapping),
        cmocka_unit_test(test_a_lost_descriptor_is_found_among_the_process_own),
        cmocka_unit_test(test_a_lost_descriptor_is_found_in_the_parent),
        cmocka_unit_test(test_without_a_descriptor_memory_within_the_file_goes_on_to_work),
        cmocka_unit_test_teardown(test_a_nameless_file_has_no_name_and_gets_none, restore_kernel),
        cmocka_unit_test_teardown(test_a_file_system_without_nameless_files_is_done_without,
                                  restore_kernel),
        cmocka_unit_test_teardown(test_refusals_lead_to_other_calls, restore_kernel),
        cmocka_unit_test_teardown(test_where_all_is_refused_there_is_no_memory, restore_kernel),
        cmocka_unit_test_teardown(test_a_heap_needs_no_memory_file, restore_kernel),
    };

    real_kernel = shm_kernel;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
