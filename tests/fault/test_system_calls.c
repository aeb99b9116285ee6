/* test_system_calls.c - each system call that a heap needs is made to fail: the k-th of its kind,
 * for every k.
 *
 * The calls are intercepted by functions of the same names in this program, which the static
 * library is linked against. Whatever fails, a heap is created and works or is refused with the
 * call's error, and neither a file descriptor nor a mapping is left behind.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "dvsm/dvsm.h"

enum call { MMAP, FTRUNCATE, FSTAT, MEMFD_CREATE, SHM_OPEN, FCHMOD, MUTEX_INIT, KINDS };

static const struct {
    const char *name;
    int error;
} kinds[KINDS] = {
    [MMAP] = {"mmap", ENOMEM},
    [FTRUNCATE] = {"ftruncate", ENOSPC},
    [FSTAT] = {"fstat", EIO},
    [MEMFD_CREATE] = {"memfd_create", EMFILE},
    [SHM_OPEN] = {"shm_open", EMFILE},
    [FCHMOD] = {"fchmod", EPERM},
    [MUTEX_INIT] = {"pthread_mutex_init", ENOMEM},
};

static struct {
    enum call kind;
    unsigned long calls, fail_at; /* fail_at 0: none */
    bool for_good;
} plan;

/* Whether this call is the one. */
static bool fails(enum call kind)
{
    if (plan.fail_at == 0 || kind != plan.kind)
        return false;
    plan.calls++;
    if (plan.calls != plan.fail_at && !(plan.for_good && plan.calls > plan.fail_at))
        return false;
    errno = kinds[kind].error;
    return true;
}

/* The function that this program's one of the same name stands in front of. */
static void *real(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);

    if (function == NULL)
        abort();
    return function;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    void *(*call)(void *, size_t, int, int, int, off_t);

    *(void **)&call = real("mmap");
    return fails(MMAP) ? MAP_FAILED : call(at, bytes, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset)
{
    void *(*call)(void *, size_t, int, int, int, off64_t);

    *(void **)&call = real("mmap64");
    return fails(MMAP) ? MAP_FAILED : call(at, bytes, protection, flags, fd, offset);
}

int ftruncate(int fd, off_t bytes)
{
    int (*call)(int, off_t);

    *(void **)&call = real("ftruncate");
    return fails(FTRUNCATE) ? -1 : call(fd, bytes);
}

int ftruncate64(int fd, off64_t bytes)
{
    int (*call)(int, off64_t);

    *(void **)&call = real("ftruncate64");
    return fails(FTRUNCATE) ? -1 : call(fd, bytes);
}

int fstat(int fd, struct stat *file)
{
    int (*call)(int, struct stat *);

    *(void **)&call = real("fstat");
    return fails(FSTAT) ? -1 : call(fd, file);
}

int memfd_create(const char *name, unsigned flags)
{
    int (*call)(const char *, unsigned);

    *(void **)&call = real("memfd_create");
    return fails(MEMFD_CREATE) ? -1 : call(name, flags);
}

int shm_open(const char *name, int flags, mode_t mode)
{
    int (*call)(const char *, int, mode_t);

    *(void **)&call = real("shm_open");
    return fails(SHM_OPEN) ? -1 : call(name, flags, mode);
}

int fchmod(int fd, mode_t mode)
{
    int (*call)(int, mode_t);

    *(void **)&call = real("fchmod");
    return fails(FCHMOD) ? -1 : call(fd, mode);
}

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
    int (*call)(pthread_mutex_t *, const pthread_mutexattr_t *);

    *(void **)&call = real("pthread_mutex_init");
    return fails(MUTEX_INIT) ? errno : call(mutex, attributes);
}

static bool unlink_fails;

int shm_unlink(const char *name)
{
    int (*call)(const char *);

    *(void **)&call = real("shm_unlink");
    if (!unlink_fails)
        return call(name);
    errno = EACCES;
    return -1;
}

/* Of this process: other runs of this test may be under way. */
static char heap_name[64];

static size_t count_files(const char *directory, const char *prefix)
{
    DIR *open = opendir(directory);
    size_t count = 0;

    assert_non_null(open);
    for (struct dirent *entry = readdir(open); entry != NULL; entry = readdir(open))
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(open);
    return count;
}

/* Address space that is mapped, the C library's heap and stacks included. */
static size_t mapped_pages(void)
{
    size_t pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");

    assert_non_null(statm);
    assert_int_equal(fscanf(statm, "%zu", &pages), 1);
    fclose(statm);
    return pages;
}

/* Small, and now and then large. */
static size_t size_of(size_t i)
{
    return i % 10 == 9 ? i * i * i : i * i;
}

static void use(dvsm_heap *heap)
{
    void *block[100];

    for (size_t i = 0; i < 100; i++) {
        block[i] = dvsm_heap_malloc(heap, size_of(i));
        if (block[i] == NULL)
            assert_int_equal(errno, ENOMEM);
        else
            memset(block[i], 1, size_of(i));
        assert_int_equal(dvsm_check(heap, stderr), 0);
    }
    for (size_t i = 0; i < 100; i++)
        dvsm_free(block[i]);
    assert_int_equal(dvsm_check(heap, stderr), 0);
}

/* Returns whether there was a k-th call. */
static bool fail_kth(const dvsm_backend *backend, const char *name, enum call kind, unsigned long k,
                     bool for_good)
{
    const dvsm_options options = {.backend = backend, .name = name, .reserve = (size_t)256 << 20};
    size_t files = count_files("/proc/self/fd", ""), names = count_files("/dev/shm", heap_name + 1);
    size_t pages = mapped_pages();

    plan.kind = kind;
    plan.calls = 0;
    plan.for_good = for_good;
    plan.fail_at = k;
    dvsm_heap *heap = dvsm_heap_create(&options);
    int error = errno;
    if (heap != NULL)
        use(heap);
    bool happened = plan.calls >= k;
    plan.fail_at = 0;
    if (heap == NULL)
        assert_int_equal(error, kinds[kind].error);
    else
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    assert_int_equal(count_files("/proc/self/fd", ""), files);
    assert_int_equal(count_files("/dev/shm", heap_name + 1), names);
    assert_in_range(mapped_pages(), 0, pages + 256); /* the C library's heap may grow */
    return happened;
}

static void fail_all(const dvsm_backend *backend, const char *name)
{
    unsigned long failures = 0;

    for (enum call kind = 0; kind < KINDS; kind++)
        for (int for_good = 0; for_good < 2; for_good++)
            for (unsigned long k = 1; fail_kth(backend, name, kind, k, for_good); k++)
                failures++;
    print_message("%s: failed %lu calls\n", backend->name, failures);
    assert_true(failures >= 2);
}

static void test_memfd(void **state)
{
    (void)state;
    fail_all(&dvsm_backend_memfd, NULL);
}

static void test_anon(void **state)
{
    (void)state;
    fail_all(&dvsm_backend_anon, NULL);
}

static void test_shm_open_without_a_name(void **state)
{
    (void)state;
    fail_all(&dvsm_backend_shm_open, NULL);
}

static void test_shm_open_with_a_name(void **state)
{
    (void)state;
    fail_all(&dvsm_backend_shm_open, heap_name);
}

static void test_a_heap_whose_name_cannot_be_removed_lives_on(void **state)
{
    const dvsm_options options = {.backend = &dvsm_backend_shm_open, .name = heap_name};
    dvsm_heap *heap = dvsm_heap_create(&options);
    void *block = dvsm_heap_malloc(heap, 100);

    (void)state;
    assert_non_null(block);
    unlink_fails = true;
    assert_int_equal(dvsm_heap_destroy(heap), -1);
    unlink_fails = false;
    assert_int_equal(errno, EACCES);
    assert_ptr_equal(dvsm_heap_of(block), heap);
    memset(block, 1, 100);
    dvsm_free(block);
    use(heap);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    assert_int_equal(count_files("/dev/shm", heap_name + 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memfd),
        cmocka_unit_test(test_anon),
        cmocka_unit_test(test_shm_open_without_a_name),
        cmocka_unit_test(test_shm_open_with_a_name),
        cmocka_unit_test(test_a_heap_whose_name_cannot_be_removed_lives_on),
    };

    snprintf(heap_name, sizeof heap_name, "/dvsm-test-calls-%ld", (long)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
