/* test_module.c - the shared library as part of a module that a server loads, unloads and loads
 * again. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support/descriptors.h"

enum { LOADS = 50 };

struct module {
    void *handle;
    void *(*allocate)(size_t);
    void (*release)(void *);
    void *(*default_heap)(void);
};

/* Loads the module, which has a copy of the library of its own; this program is linked with the
 * static one. */
static struct module load(void)
{
    struct module m = {.handle = dlopen(getenv("DVSM_LIBRARY"), RTLD_NOW | RTLD_LOCAL)};

    assert_non_null(m.handle);
    *(void **)&m.allocate = dlsym(m.handle, "dvsm_malloc");
    *(void **)&m.release = dlsym(m.handle, "dvsm_free");
    *(void **)&m.default_heap = dlsym(m.handle, "dvsm_heap_default");
    return m;
}

/* Runs long enough to be preempted: then the kernel looks at the thread's restartable sequence. */
static void spin(void)
{
    for (clock_t end = clock() + CLOCKS_PER_SEC / 50; clock() < end;)
        ;
}

static void test_a_module_is_loaded_again_and_again(void **state)
{
    (void)state;
    struct module first = load();
    void *heap = first.default_heap(), *block = first.allocate(100);
    int fds = open_fds();

    memset(block, 'x', 100);
    assert_int_equal(dlclose(first.handle), 0);
    spin();
    for (int i = 0; i < LOADS; i++) {
        struct module m = load();

        assert_ptr_equal(m.default_heap(), heap);
        for (size_t size = 0; size < 500; size++)
            m.release(m.allocate(size));
        assert_int_equal(dlclose(m.handle), 0);
    }
    assert_int_equal(open_fds(), fds);
    assert_int_equal(*(char *)block, 'x');
    first = load();
    first.release(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_module_is_loaded_again_and_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
