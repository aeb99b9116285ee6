/* support/backend_calls.h - short names for what tests of the backends do again and again. Include
 * it after <cmocka.h>.
 */
#ifndef DVSM_TESTS_SUPPORT_BACKEND_CALLS_H
#define DVSM_TESTS_SUPPORT_BACKEND_CALLS_H

#include <sys/mman.h>
#include <unistd.h>

#include "shm/shm.h"
#include "shm/shm_internal.h"
#include "support/descriptors.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { KIB = 1 << 10, MIB = 1 << 20, PIECE = 64 * KIB, RESIDENT_MOST = 16 * MIB };

static inline int reserve(const dvsm_backend *b, dvsm_mapping *m)
{
    return b->reserve(b, m);
}

static inline int commit(const dvsm_backend *b, const dvsm_mapping *m, size_t offset, size_t bytes)
{
    return b->commit(b, m, (char *)m->base + offset, bytes);
}

static inline int release(const dvsm_backend *b, const dvsm_mapping *m, size_t offset, size_t bytes)
{
    return b->release(b, m, (char *)m->base + offset, bytes);
}

static inline int destroy(const dvsm_backend *b, dvsm_mapping *m)
{
    return b->unmap(b, m, 1);
}

static inline dvsm_mapping reserved(const dvsm_backend *b, size_t bytes)
{
    dvsm_mapping m = {.bytes = bytes, .fd = -1};

    assert_int_equal(reserve(b, &m), 0);
    return m;
}

/* How many bytes of the range have memory behind them, in whole pages. */
static inline size_t resident(const dvsm_mapping *m, size_t offset, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char in_core[RESIDENT_MOST / 4096];
    size_t pages = 0;

    assert_true(bytes <= RESIDENT_MOST);
    assert_int_equal(mincore((char *)m->base + offset, bytes, in_core), 0);
    for (size_t i = 0; i < bytes / page; i++)
        pages += in_core[i] & 1;
    return pages * page;
}

/* Runs a test with each backend of the library; no descriptor may stay open. */
typedef void (*backend_test)(const dvsm_backend *b);

static inline void with_each_backend(backend_test test)
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

/* The kernel's calls as the program found them, before a test replaces some. */
static struct shm_kernel real_kernel;

static inline int restore_kernel(void **state)
{
    (void)state;
    shm_kernel = real_kernel;
    return 0;
}

#endif
