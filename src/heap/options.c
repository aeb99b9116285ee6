/* options.c - a heap's options: their versions, the values allowed, the defaults. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "heap/heap.h"
#include "shm/shm.h"
#include "sync/page.h"

/* OPTIONS_LEAST is the size of the first version's options; later versions are longer. NB: all of
 * `size` bytes are read. A size that no version will ever have is from an uninitialised
 * variable. */
enum {
    OPTIONS_LEAST = offsetof(dvsm_options, retain),
    OPTIONS_UNTOLD = offsetof(dvsm_options, address), /* what is read if the size is 0 */
    OPTIONS_MOST = 4096
};

static bool is_size_of_options(size_t size)
{
    return size >= OPTIONS_LEAST && size <= OPTIONS_MOST;
}

/* Options of a later version are accepted if the fields that this version does not know are not
 * used. */
static bool rest_is_zero(const dvsm_options *options)
{
    const char *bytes = (const char *)options;

    for (size_t i = sizeof *options; i < options->size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static bool backend_is_complete(const dvsm_backend *backend)
{
    return backend->size >= offsetof(dvsm_backend, publish) && backend->name != NULL &&
           backend->reserve != NULL && backend->commit != NULL && backend->release != NULL &&
           backend->unmap != NULL;
}

bool options_read(const dvsm_options *options, dvsm_options *out)
{
    *out = (dvsm_options){.size = sizeof *out};
    if (options == NULL)
        return true;
    if (options->size != 0 && !(is_size_of_options(options->size) && rest_is_zero(options)))
        return false;
    size_t size = options->size != 0 ? options->size : OPTIONS_UNTOLD;
    memcpy(out, options, size < sizeof *out ? size : sizeof *out);
    out->size = sizeof *out;
    if (out->name != NULL && strlen(out->name) >= HEAP_LABEL)
        return false;
    if ((uintptr_t)out->address % GRANULE != 0 || (out->address != NULL && out->reserve == 0))
        return false;
    if ((out->flags & ~(DVSM_HUGE_PAGES | DVSM_EXCLUSIVE | DVSM_LAZY | DVSM_HARDEN)) != 0 ||
        (out->mode & ~0777u) != 0)
        return false;
    return out->backend == NULL || backend_is_complete(out->backend);
}

/* Twice the machine's memory; 0: not known. sysconf() is not used: in older C libraries it reads a
 * file.
 */
static size_t twice_the_memory(void)
{
    struct sysinfo info;

    return sysinfo(&info) == 0 ? 2 * (size_t)info.totalram * info.mem_unit : 0;
}

/* Bytes that the process has mapped by now. */
static size_t address_space_used(void)
{
    char text[32] = "";
    int fd = shm_open_above_stdio("/proc/self/statm", O_RDONLY);

    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof text - 1) < 0)
        text[0] = '\0';
    close(fd);
    return (size_t)strtoull(text, NULL, 10) * page_size();
}

/* Half of what is left of the process's limit. The other half is for its own malloc, its threads
 * and files.
 */
static size_t most_of_address_space(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur >= SIZE_MAX)
        return SIZE_MAX;

    size_t used = address_space_used();
    return limit.rlim_cur > used ? ((size_t)limit.rlim_cur - used) / 2 : 0;
}

size_t options_default_reserve(bool named)
{
    size_t wanted = (size_t)1 << 30, most = most_of_address_space();

    if (sizeof(void *) >= 8) {
        size_t twice = twice_the_memory();

        wanted = wanted << (named ? 4 : 6); /* 16 or 64 GiB */
        wanted = wanted > twice ? wanted : twice;
    }
    return wanted < most ? wanted : most;
}
