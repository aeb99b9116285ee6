/* cache_off.c - DVSM_TEST_CACHE=0: heaps that tests create have no cache unless a test sets its
 * size.
 *
 * The suite also runs in this mode (tests/CMakeLists.txt). The linker directs the tests' calls of
 * dvsm_heap_create() to this file (--wrap).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dvsm/dvsm.h"

dvsm_heap *__real_dvsm_heap_create(const dvsm_options *options);
dvsm_heap *__wrap_dvsm_heap_create(const dvsm_options *options);

dvsm_heap *__wrap_dvsm_heap_create(const dvsm_options *options)
{
    const char *mode = getenv("DVSM_TEST_CACHE");
    dvsm_options without = {.size = 0};

    if (mode == NULL || strcmp(mode, "0") != 0)
        return __real_dvsm_heap_create(options);
    if (options != NULL) {
        if ((options->size != 0 && options->size != sizeof without) || options->cache_bytes != 0)
            return __real_dvsm_heap_create(options);
        without = *options;
    }
    without.cache_bytes = SIZE_MAX;
    return __real_dvsm_heap_create(&without);
}
