/* test_options.c - dvsm_init, the environment, and the options of heaps.
 *
 * Some options are settled before main(). To test them, this program executes itself with another
 * environment: `test_options PROBE` does what PROBE names and prints the default heap's options.
 *
 * Modes: default, locked
 */
#define _GNU_SOURCE
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dvsm/dvsm.h"
#include "heap/heap.h"
#include "support/child.h"
#include "support/failing_backend.h"

enum { KIB = 1 << 10, MIB = 1 << 20, TEXT = 4096 };

/* ---- what the executed program does */

static void print_default_heap(void)
{
    dvsm_heap *heap = dvsm_heap_default();

    if (heap == NULL) {
        puts("no heap");
        return;
    }
    printf("backend %s reserve %zu limit %zu arenas %zu cache %zu label %s\n", heap->backend->name,
           heap->region->bytes, dvsm_heap_limit(heap), heap->region->arenas_wanted,
           heap->region->cache_bytes, heap->label);
}

static int probe_init(void)
{
    const dvsm_options options = {.size = sizeof options,
                                  .backend = &dvsm_backend_anon,
                                  .name = "mine",
                                  .reserve = 32 * MIB,
                                  .arenas = 3};

    if (dvsm_init(&options) != 0)
        return 1;
    print_default_heap();
    void *block = dvsm_malloc(10);
    if (block == NULL || dvsm_init(&options) != -1 || errno != EBUSY)
        return 2;
    dvsm_free(block);
    return dvsm_init(&options) == -1 && errno == EBUSY ? 0 : 3;
}

/* Makes the default heap once more, still with the options of the environment. */
static int probe_again(void)
{
    if (dvsm_init(&(dvsm_options){.arenas = 2}) != 0)
        return 1;
    print_default_heap();
    return 0;
}

static int probe_fork(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        exit(0); /* leaves as the creator would, but is not the creator */
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}

/* The program starts without a free descriptor: its heap was made without one. */
static int probe_allocate(void)
{
    void *block = dvsm_malloc(100000);

    print_default_heap();
    dvsm_free(block);
    return block == NULL ? 1 : dvsm_check(dvsm_heap_default(), stderr);
}

static int probe(const char *what)
{
    if (strcmp(what, "print") == 0)
        print_default_heap();
    if (strcmp(what, "init") == 0)
        return probe_init();
    if (strcmp(what, "again") == 0)
        return probe_again();
    if (strcmp(what, "fork") == 0)
        return probe_fork();
    if (strcmp(what, "allocate") == 0)
        return probe_allocate();
    return 0;
}

/* An allocation from a constructor that runs before the library's own. */
static void *early;

__attribute__((constructor(101))) static void allocate_early(void)
{
    if (getenv("TEST_EARLY") != NULL)
        early = dvsm_strdup("early");
}

/* ---- executing it */

struct execution {
    const char *what;
    const char *variable[4]; /* NAME=VALUE */
    void (*prepare)(void);   /* in the new process, before exec */
    int output;
};

static int execute(void *context)
{
    const struct execution *e = context;

    for (size_t i = 0; i < 4 && e->variable[i] != NULL; i++)
        putenv((char *)(uintptr_t)e->variable[i]);
    dup2(e->output, STDOUT_FILENO);
    if (e->prepare != NULL)
        e->prepare();
    execl("/proc/self/exe", "test_options", e->what, (char *)NULL);
    return 127;
}

struct result {
    char out[TEXT], err[TEXT];
    int status;
};

static struct result run(struct execution e)
{
    struct result result = {.status = -1};
    FILE *output = tmpfile();

    assert_non_null(output);
    e.output = fileno(output);
    result.status = run_in_child_with_stderr(execute, &e, result.err, sizeof result.err);
    rewind(output);
    result.out[fread(result.out, 1, sizeof result.out - 1, output)] = '\0';
    fclose(output);
    return result;
}

static void assert_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", part, text);
}

/* ---- the environment */

static void test_defaults(void **state)
{
    struct result r = run((struct execution){.what = "print"});

    (void)state;
    assert_int_equal(r.status, 0);
    assert_string_equal(r.err, "");
    assert_has(r.out, "backend memfd ");
    assert_has(r.out, " arenas 0 cache 0 label default\n");
    assert_true(dvsm_heap_default()->region->bytes >= (size_t)64 * MIB);
}

static void test_each_variable(void **state)
{
    static const struct {
        const char *variable, *expected;
    } cases[] = {
        {"DVSM_BACKEND=anon", "backend anon "},
        {"DVSM_BACKEND=shm_open", "backend shm_open "},
        {"DVSM_BACKEND=memfd", "backend memfd "},
        {"DVSM_RESERVE=33554432", "reserve 33554432 "},
        {"DVSM_RESERVE=32768K", "reserve 33554432 "},
        {"DVSM_RESERVE=32M", "reserve 33554432 "},
        {"DVSM_RESERVE=1G", "reserve 1073741824 "},
        {"DVSM_LIMIT=16M", "limit 16777216 "},
        {"DVSM_LIMIT=16777215", "limit 16777216 "},
        {"DVSM_ARENAS=7", "arenas 7 "},
        {"DVSM_CACHE=1M", "cache 1048576 "},
        {"DVSM_BACKEND=", "backend memfd "},
        {"DVSM_LIMIT=", " label default"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct result r = run((struct execution){.what = "print", .variable = {cases[i].variable}});
        assert_int_equal(r.status, 0);
        assert_string_equal(r.err, "");
        assert_has(r.out, cases[i].expected);
    }
}

static void test_no_cache_is_said_by_zero(void **state)
{
    struct result r = run((struct execution){.what = "print", .variable = {"DVSM_CACHE=0"}});
    char expected[64];

    (void)state;
    snprintf(expected, sizeof expected, "cache %zu ", SIZE_MAX);
    assert_has(r.out, expected);
}

static void test_a_terabyte_of_address_space(void **state)
{
    struct result r;

    (void)state;
    if (sizeof(void *) < 8)
        skip();
    r = run((struct execution){.what = "allocate", .variable = {"DVSM_RESERVE=1T"}});
    assert_int_equal(r.status, 0);
    assert_has(r.out, "reserve 1099511627776 ");
}

/* More than any machine has is reduced to what there is; also where dvsm_init() does not set the
 * reserve. */
static void test_a_reserve_from_the_environment_is_halved_until_it_fits(void **state)
{
    static const char *const backends[] = {NULL, "DVSM_BACKEND=anon", "DVSM_BACKEND=shm_open"};
    static const char *const probes[] = {"allocate", "again"};

    (void)state;
    if (sizeof(void *) < 8)
        skip();
#ifdef __SANITIZE_ADDRESS__
    skip(); /* ASan itself takes most of the address space */
#endif
    for (size_t i = 0; i < 6; i++) {
        struct result r = run((struct execution){
            .what = probes[i / 3], .variable = {"DVSM_RESERVE=16777215T", backends[i % 3]}});
        size_t reserve = 0;
        assert_int_equal(r.status, 0);
        assert_string_equal(r.err, "");
        assert_int_equal(sscanf(r.out, "backend %*s reserve %zu", &reserve), 1);
        assert_in_range(reserve, (size_t)64 * MIB, (size_t)1 << 63);
    }
}

/* A value that does not parse gives one line that names the variable and the value; the default
 * holds. */
static void test_values_that_do_not_parse(void **state)
{
    static const char *const variables[] = {
        "DVSM_BACKEND=files",
        "DVSM_BACKEND=Memfd",
        "DVSM_RESERVE=much",
        "DVSM_RESERVE=-1",
        "DVSM_RESERVE=12X",
        "DVSM_RESERVE=12MB",
        "DVSM_RESERVE= 12M",
        "DVSM_RESERVE=1.5G",
        "DVSM_RESERVE=0x1000",
        "DVSM_RESERVE=K",
        "DVSM_LIMIT=99999999999999999999",
        "DVSM_LIMIT=99999999999T",
        "DVSM_ARENAS=many",
        "DVSM_ARENAS=-3",
        "DVSM_ARENAS=3K",
        "DVSM_ARENAS=99999999999999999999",
        "DVSM_ARENAS=4294967296",
        "DVSM_CACHE=none",
        "DVSM_STATS=yes",
        "DVSM_STATS=2",
    };
    struct result normal = run((struct execution){.what = "print"});

    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        struct result r = run((struct execution){.what = "print", .variable = {variables[i]}});
        assert_int_equal(r.status, 0);
        assert_string_equal(r.out, normal.out);
        assert_has(r.err, variables[i]);
        assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);
    }
}

static void test_stats_are_printed_by_the_creator_only(void **state)
{
    struct result r = run((struct execution){.what = "print", .variable = {"DVSM_STATS=1"}});
    struct result forked = run((struct execution){.what = "fork", .variable = {"DVSM_STATS=1"}});
    struct result none = run((struct execution){.what = "print", .variable = {"DVSM_STATS=0"}});
    char *first;

    (void)state;
    assert_has(r.err, "in use bytes");
    assert_string_equal(none.err, "");
    first = strstr(forked.err, "in use bytes");
    assert_non_null(first);
    assert_null(strstr(first + 1, "in use bytes"));
}

static void test_a_constructor_may_allocate_before(void **state)
{
    struct result r =
        run((struct execution){.what = "print", .variable = {"TEST_EARLY=1", "DVSM_RESERVE=64M"}});

    (void)state;
    assert_int_equal(r.status, 0);
    assert_has(r.out, "reserve 67108864 ");
}

/* ---- dvsm_init */

static void test_init_replaces_the_heap_until_it_is_used(void **state)
{
    struct result r = run((struct execution){.what = "init"});

    (void)state;
    assert_int_equal(r.status, 0);
    assert_has(r.out, "backend anon reserve 33554432 ");
    assert_has(r.out, " arenas 3 cache 0 label mine\n");
}

static void test_init_wins_over_the_environment(void **state)
{
    struct result r =
        run((struct execution){.what = "init",
                               .variable = {"DVSM_BACKEND=shm_open", "DVSM_RESERVE=128M",
                                            "DVSM_CACHE=1M", "DVSM_LIMIT=8M"}});

    (void)state;
    assert_int_equal(r.status, 0);
    assert_has(r.out, "backend anon reserve 33554432 limit 8388608 arenas 3 cache 1048576 ");
}

/* These children replace the heap that they share with this process. So neither this process nor
 * any of the children may have used it before. */
static int init_that_fails(void *context)
{
    struct failing_backend *failing = context;
    dvsm_heap *before = dvsm_heap_default();
    size_t bytes = before->region->bytes;

    failing_backend_fail(failing, FAILING_RESERVE, 1, EMFILE, true);
    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &failing->backend}) == -1);
    CHILD_CHECK(errno == EMFILE);
    CHILD_CHECK(dvsm_heap_default() != NULL);
    CHILD_CHECK(dvsm_heap_default()->region->bytes == bytes);
    CHILD_CHECK(strcmp(dvsm_heap_default()->backend->name, "memfd") == 0);
    failing_backend_reset(failing);
    CHILD_CHECK(dvsm_init(&(dvsm_options){.flags = 1u << 30}) == -1 && errno == EINVAL);
    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &failing->backend}) == 0);
    CHILD_CHECK(failing_backend_calls(failing, FAILING_RESERVE) == 1);
    CHILD_CHECK(dvsm_init(NULL) == 0);
    CHILD_CHECK(atomic_load(&failing->mapped) == 0);
    void *block = dvsm_malloc(100);
    CHILD_CHECK(block != NULL);
    dvsm_free(block);
    return 0;
}

static void test_init_that_fails_changes_nothing(void **state)
{
    struct failing_backend *failing = failing_backend_new(&dvsm_backend_anon);

    (void)state;
    assert_int_equal(run_in_child(init_that_fails, failing), 0);
    failing_backend_delete(failing);
}

static int init_cannot_unmap(void *context)
{
    struct failing_backend *failing = context;

    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &failing->backend}) == 0);
    dvsm_heap *before = dvsm_heap_default();
    failing_backend_fail(failing, FAILING_UNMAP, 1, EACCES, false);
    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &dvsm_backend_anon}) == -1);
    CHILD_CHECK(errno == EACCES && dvsm_heap_default() == before);
    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &dvsm_backend_anon}) == 0);
    CHILD_CHECK(atomic_load(&failing->mapped) == 0);
    void *block = dvsm_malloc(100);
    CHILD_CHECK(block != NULL && dvsm_heap_default()->backend == &dvsm_backend_anon);
    dvsm_free(block);
    return 0;
}

static void test_init_keeps_a_heap_that_cannot_be_unmapped(void **state)
{
    struct failing_backend *failing = failing_backend_new(&dvsm_backend_anon);

    (void)state;
    assert_int_equal(run_in_child(init_cannot_unmap, failing), 0);
    failing_backend_delete(failing);
}

static int init_too_large(void *context)
{
    const dvsm_options options = {.reserve = SIZE_MAX / 4 * 3};
    size_t before = dvsm_heap_default()->region->bytes;

    (void)context;
    CHILD_CHECK(dvsm_init(&options) == -1 && errno == ENOMEM);
    CHILD_CHECK(dvsm_heap_default()->region->bytes == before);
    return 0;
}

static void test_a_reserve_from_init_is_that_or_nothing(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(init_too_large, NULL), 0);
}

/* ---- where memfd cannot be had */

static void without_descriptors(void)
{
    const struct rlimit none = {0, 0};

    setrlimit(RLIMIT_NOFILE, &none);
}

static int no_memfd(void *context)
{
    (void)context;
    /* exec itself needs descriptors: hence the heap is made anew by dvsm_init() instead. */
    without_descriptors();
    CHILD_CHECK(dvsm_init(NULL) == 0);
    CHILD_CHECK(strcmp(dvsm_heap_default()->backend->name, "anon") == 0);
    CHILD_CHECK(dvsm_malloc(10) != NULL);
    CHILD_CHECK(dvsm_heap_create(NULL) == NULL && errno == EMFILE);
    CHILD_CHECK(dvsm_heap_create(&(dvsm_options){.backend = &dvsm_backend_anon}) != NULL);
    return 0;
}

static void test_the_default_falls_back_to_anonymous_memory(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(no_memfd, NULL), 0);
}

static int chosen_backend_fails(void *context)
{
    (void)context;
    without_descriptors();
    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &dvsm_backend_memfd}) == -1);
    CHILD_CHECK(errno == EMFILE);
    return 0;
}

static void test_a_backend_that_was_chosen_is_not_replaced(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(chosen_backend_fails, NULL), 0);
}

static void small_files_only(void)
{
    const struct rlimit limit = {MIB, MIB};

    setrlimit(RLIMIT_FSIZE, &limit);
}

static void test_a_file_size_limit_gives_anonymous_memory(void **state)
{
    struct result r = run((struct execution){.what = "allocate", .prepare = small_files_only});

    (void)state;
    assert_int_equal(r.status, 0);
    assert_has(r.out, "backend anon ");
}

static void little_address_space(void)
{
    const struct rlimit limit = {256 * MIB, 256 * MIB};

    setrlimit(RLIMIT_AS, &limit);
}

static void test_an_address_space_limit_halves_the_reserve(void **state)
{
    static const char *const variables[] = {NULL, "DVSM_RESERVE=1G", "DVSM_RESERVE=300M"};

    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* ASan itself needs terabytes of address space */
#endif
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        struct result r = run((struct execution){
            .what = "allocate", .variable = {variables[i]}, .prepare = little_address_space});
        size_t reserve = 0;
        assert_int_equal(r.status, 0);
        assert_int_equal(sscanf(r.out, "backend %*s reserve %zu", &reserve), 1);
        assert_in_range(reserve, 16 * MIB, 256 * MIB);
    }
}

/* Without DVSM_RESERVE at least half of the free address space stays the program's: for its own
 * malloc, its threads and its files. */
static rlim_t address_space;

static void limited_address_space(void)
{
    const struct rlimit limit = {address_space, address_space};

    setrlimit(RLIMIT_AS, &limit);
}

static void test_half_of_a_limited_address_space_stays_free(void **state)
{
    static const unsigned mebibytes[] = {64, 100, 256, 976, 2060, 8203, 70000, 200000};

    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* ASan itself needs terabytes of address space */
#endif
    for (size_t i = 0; i < sizeof mebibytes / sizeof mebibytes[0]; i++) {
        address_space = (rlim_t)mebibytes[i] * MIB;
        struct result r =
            run((struct execution){.what = "allocate", .prepare = limited_address_space});
        size_t reserve = 0;

        assert_int_equal(r.status, 0);
        assert_int_equal(sscanf(r.out, "backend %*s reserve %zu", &reserve), 1);
        assert_in_range(reserve, address_space / 4, address_space / 2);
    }
}

/* ---- no heap at all */

static int no_default_heap(void *context)
{
    struct failing_backend *failing = context;
    void *block;

    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &failing->backend}) == 0);
    /* The next dvsm_init() unmaps the heap, and then gets neither a new one nor, at first, the
     * old one. */
    failing_backend_fail(failing, FAILING_RESERVE, 1, ENFILE, true);
    CHILD_CHECK(dvsm_init(&(dvsm_options){.backend = &failing->backend, .arenas = 2}) == -1);
    CHILD_CHECK(errno == ENFILE);
    for (int i = 0; i < 3; i++) {
        CHILD_CHECK(dvsm_malloc(10) == NULL && errno == ENOMEM);
        CHILD_CHECK(dvsm_calloc(1, 10) == NULL && errno == ENOMEM);
        CHILD_CHECK(dvsm_realloc(NULL, 10) == NULL && errno == ENOMEM);
        CHILD_CHECK(dvsm_memalign(64, 10) == NULL && errno == ENOMEM);
        CHILD_CHECK(dvsm_strdup("text") == NULL && errno == ENOMEM);
        CHILD_CHECK(dvsm_independent_calloc(2, 8, NULL) == NULL && errno == ENOMEM);
        errno = 0;
        CHILD_CHECK(dvsm_posix_memalign(&block, 64, 10) == ENOMEM && errno == 0);
        CHILD_CHECK(dvsm_heap_default() == NULL && errno == ENOMEM);
    }
    dvsm_free(NULL);
    CHILD_CHECK(dvsm_malloc_trim(0) == 0 && dvsm_malloc_footprint() == 0);
    CHILD_CHECK(dvsm_malloc_max_footprint() == 0 && dvsm_mallinfo().arena == 0);
    CHILD_CHECK(dvsm_mallopt(-1, 1) == 0);
    CHILD_CHECK(dvsm_heap_of(failing) == NULL);
    failing_backend_reset(failing);
    block = dvsm_malloc(10);
    CHILD_CHECK(block != NULL && dvsm_heap_default()->backend == &failing->backend);
    dvsm_free(block);
    CHILD_CHECK(dvsm_check(dvsm_heap_default(), stderr) == 0);
    return 0;
}

static void test_without_a_heap_every_call_tries_again(void **state)
{
    struct failing_backend *failing = failing_backend_new(&dvsm_backend_memfd);

    (void)state;
    assert_int_equal(run_in_child(no_default_heap, failing), 0);
    failing_backend_delete(failing);
}

/* ---- options of heaps */

static void expect_refused(const dvsm_options *options, int error)
{
    errno = 0;
    assert_null(dvsm_heap_create(options));
    assert_int_equal(errno, error);
}

static void test_options_that_are_refused(void **state)
{
    char long_name[400];
    dvsm_backend incomplete = dvsm_backend_anon;
    struct {
        dvsm_options options;
        size_t later;
    } newer = {.options = {.size = sizeof newer}, .later = 1};

    (void)state;
    memset(long_name, 'n', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    incomplete.commit = NULL;
    expect_refused(&(dvsm_options){.size = 8}, EINVAL);
    expect_refused(&newer.options, EINVAL);
    expect_refused(&(dvsm_options){.flags = 16}, EINVAL);
    expect_refused(&(dvsm_options){.mode = 01000}, EINVAL);
    expect_refused(&(dvsm_options){.name = long_name}, EINVAL);
    expect_refused(&(dvsm_options){.backend = &incomplete}, EINVAL);
    expect_refused(&(dvsm_options){.backend = &dvsm_backend_shm_open, .name = "no-slash"}, EINVAL);
    newer.later = 0;
    dvsm_heap *heap = dvsm_heap_create(&newer.options);
    assert_non_null(heap);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_a_reserve_that_cannot_be_is_too_much_memory(void **state)
{
    const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_shm_open,
                                            &dvsm_backend_anon};
    const size_t reserves[] = {SIZE_MAX, SIZE_MAX / 2 + 1, SIZE_MAX / 2, SIZE_MAX / 4 * 3};

    (void)state;
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
        for (size_t j = 0; j < sizeof reserves / sizeof reserves[0]; j++)
            expect_refused(&(dvsm_options){.backend = backends[i], .reserve = reserves[j]}, ENOMEM);
}

/* The options end where readable memory ends: an impossible size must be refused before anything
 * behind them is read. */
static void test_a_size_that_cannot_be_is_refused(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t sizes[] = {4097, 1 << 20, (size_t)1 << 31, SIZE_MAX / 2, SIZE_MAX};
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
    dvsm_options *last = (dvsm_options *)(void *)(pages + page - sizeof(dvsm_options));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        last->size = sizes[i];
        expect_refused(last, EINVAL);
    }
    assert_int_equal(munmap(pages, 2 * page), 0);

    struct {
        dvsm_options options;
        char later[4096 - sizeof(dvsm_options)];
    } *longest = calloc(1, sizeof *longest);
    assert_non_null(longest);
    longest->options.size = sizeof *longest;
    dvsm_heap *heap = dvsm_heap_create(&longest->options);
    assert_non_null(heap);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
    free(longest);
}

static void test_reserve_is_as_asked_and_at_least_useful(void **state)
{
    const size_t wanted[] = {1, 4096, 10 * MIB, 10 * MIB + 1};

    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.reserve = wanted[i]});
        assert_non_null(heap);
        assert_true(heap->region->bytes >= wanted[i]);
        assert_true(heap->region->bytes < wanted[i] + 64 * KIB || wanted[i] < 8 * MIB);
        void *block = dvsm_heap_malloc(heap, 500 * KIB);
        assert_non_null(block);
        errno = 0;
        assert_null(dvsm_heap_malloc(heap, heap->region->bytes));
        assert_int_equal(errno, ENOMEM);
        dvsm_free(block);
        assert_int_equal(dvsm_check(heap, stderr), 0);
        assert_int_equal(dvsm_heap_destroy(heap), 0);
    }
}

static void test_limit_counts_metadata(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.limit = 2 * MIB});
    size_t count = 0;

    (void)state;
    assert_non_null(heap);
    assert_int_equal(dvsm_heap_limit(heap), 2 * MIB);
    while (dvsm_heap_malloc(heap, 10000) != NULL)
        count++;
    assert_int_equal(errno, ENOMEM);
    assert_in_range(count, 150, 2 * MIB / 10000);
    assert_true(dvsm_heap_footprint(heap) <= 2 * MIB);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_a_limit_below_the_metadata_gives_nothing(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&(dvsm_options){.limit = 1});

    (void)state;
    assert_non_null(heap);
    errno = 0;
    assert_null(dvsm_heap_malloc(heap, 1));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(dvsm_heap_set_limit(heap, SIZE_MAX), SIZE_MAX);
    void *block = dvsm_heap_malloc(heap, 1);
    assert_non_null(block);
    dvsm_free(block);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

static void test_a_named_heap_and_its_name(void **state)
{
    char name[64];
    struct stat status;

    (void)state;
    snprintf(name, sizeof name, "/dvsm-test-options-%ld", (long)getpid());
    const dvsm_options options = {
        .backend = &dvsm_backend_shm_open, .name = name, .mode = 0640, .flags = DVSM_EXCLUSIVE};
    dvsm_heap *heap = dvsm_heap_create(&options);
    assert_non_null(heap);
    expect_refused(&options, EEXIST);
    int fd = shm_open(name, O_RDONLY, 0);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    close(fd);
    assert_int_equal(dvsm_heap_unlink(name), 0);
    assert_int_equal(dvsm_heap_unlink(name), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(dvsm_heap_unlink(NULL), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(dvsm_heap_unlink("no-slash"), -1);
    assert_int_equal(errno, EINVAL);
    dvsm_free(dvsm_heap_malloc(heap, 10)); /* the heap lives on without its name */
    dvsm_heap *second = dvsm_heap_create(&options);
    assert_non_null(second);
    assert_int_equal(dvsm_heap_destroy(heap), 0); /* the name is the second heap's now */
    assert_int_equal(dvsm_heap_destroy(second), 0);
    assert_int_equal(shm_open(name, O_RDONLY, 0), -1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_each_variable),
        cmocka_unit_test(test_no_cache_is_said_by_zero),
        cmocka_unit_test(test_a_terabyte_of_address_space),
        cmocka_unit_test(test_a_reserve_from_the_environment_is_halved_until_it_fits),
        cmocka_unit_test(test_values_that_do_not_parse),
        cmocka_unit_test(test_stats_are_printed_by_the_creator_only),
        cmocka_unit_test(test_a_constructor_may_allocate_before),
        cmocka_unit_test(test_init_replaces_the_heap_until_it_is_used),
        cmocka_unit_test(test_init_wins_over_the_environment),
        cmocka_unit_test(test_init_that_fails_changes_nothing),
        cmocka_unit_test(test_init_keeps_a_heap_that_cannot_be_unmapped),
        cmocka_unit_test(test_a_reserve_from_init_is_that_or_nothing),
        cmocka_unit_test(test_the_default_falls_back_to_anonymous_memory),
        cmocka_unit_test(test_a_backend_that_was_chosen_is_not_replaced),
        cmocka_unit_test(test_a_file_size_limit_gives_anonymous_memory),
        cmocka_unit_test(test_an_address_space_limit_halves_the_reserve),
        cmocka_unit_test(test_half_of_a_limited_address_space_stays_free),
        cmocka_unit_test(test_without_a_heap_every_call_tries_again),
        cmocka_unit_test(test_options_that_are_refused),
        cmocka_unit_test(test_a_reserve_that_cannot_be_is_too_much_memory),
        cmocka_unit_test(test_a_size_that_cannot_be_is_refused),
        cmocka_unit_test(test_reserve_is_as_asked_and_at_least_useful),
        cmocka_unit_test(test_limit_counts_metadata),
        cmocka_unit_test(test_a_limit_below_the_metadata_gives_nothing),
        cmocka_unit_test(test_a_named_heap_and_its_name),
    };

    if (argc > 1)
        return probe(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
