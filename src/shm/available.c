/* available.c - whether the machine and the cgroup have what is asked for.
 *
 * Linux promises memory that it does not have, and kills a process when that memory is used. So the
 * library looks at how much there is before it commits a large request, and after it has committed
 * a share of what there was when it last looked. In between it does not look, since looking reads
 * files in /proc and /sys: so growing a heap stays cheap, and a process in a sandbox may never need
 * these files. What cannot be read counts as no limit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shm/shm.h"
#include "shm/shm_internal.h"

enum {
    SHARES = 16,            /* look again when one of so many is gone */
    SHARE_FIRST = 64 << 20, /* a new heap's, granted without a look, so that programs start fast */
    SHARE_LEAST = 4 << 20,  /* do not look more often, however little there is */
    SHARE_MOST = 128 << 20, /* look by then: the process may be in another cgroup */
    PATH_ROOM = 512,
    LINE_ROOM = 64
};

/* ---- reading */

/* A file, read line by line; what does not fit into a line's room is left out. */
struct lines {
    int fd;
    size_t at, end;
    char byte[256];
};

static bool next_byte(struct lines *l, char *byte)
{
    if (l->at == l->end) {
        ssize_t bytes;

        do
            bytes = read(l->fd, l->byte, sizeof l->byte);
        while (bytes < 0 && errno == EINTR);
        if (bytes <= 0)
            return false;
        l->at = 0;
        l->end = (size_t)bytes;
    }
    *byte = l->byte[l->at++];
    return true;
}

static bool next_line(struct lines *l, char *line, size_t room)
{
    size_t length = 0;
    char byte = '\0';
    bool any = false;

    while (next_byte(l, &byte)) {
        any = true;
        if (byte == '\n')
            break;
        if (length < room - 1)
            line[length++] = byte;
    }
    line[length] = '\0';
    return any;
}

struct field {
    const char *name; /* up to the number, blanks left out */
    size_t value;
};

/* Reads "name  123 ..." for each of the fields, which come in this order in the file. The numbers
 * are in multiples of `unit`; a field that is not there keeps its value. */
static void read_fields(const char *path, struct field *fields, size_t count, size_t unit)
{
    struct lines l = {.fd = shm_open_above_stdio(path, O_RDONLY)};
    char line[LINE_ROOM];
    size_t found = 0;

    if (l.fd < 0)
        return;
    while (found < count && next_line(&l, line, sizeof line)) {
        size_t length = strlen(fields[found].name);

        if (strncmp(line, fields[found].name, length) == 0)
            fields[found++].value = (size_t)strtoull(line + length, NULL, 10) * unit;
    }
    close(l.fd);
}

/* Reads a file that holds one number; SIZE_MAX for "max" or anything else. */
static size_t read_number(const char *path)
{
    struct lines l = {.fd = shm_open_above_stdio(path, O_RDONLY)};
    char line[LINE_ROOM], *end = line;
    size_t number = 0;

    if (l.fd < 0)
        return SIZE_MAX;
    if (next_line(&l, line, sizeof line))
        number = (size_t)strtoull(line, &end, 10);
    close(l.fd);
    return end != line ? number : SIZE_MAX;
}

/* ---- the machine */

static size_t plus(size_t a, size_t b)
{
    return a + b >= a ? a + b : SIZE_MAX;
}

static size_t minus(size_t a, size_t b)
{
    return a > b ? a - b : 0;
}

/* What the machine has without swapping; *swap: what it can swap. */
static size_t machine_has(size_t *swap)
{
    struct field fields[] = {{"MemAvailable:", SIZE_MAX}, {"SwapFree:", 0}};

    read_fields("/proc/meminfo", fields, 2, 1024);
    *swap = fields[1].value;
    return fields[0].value;
}

/* ---- the cgroup, and those that it is in */

/* The two kinds of cgroup (v1, v2) have the same files under different names. */
struct kind {
    const char *root;
    const char *limit, *used;
    struct field cached[2]; /* in /memory.stat: pages of files, which can be dropped */
};

static const struct kind kind_v2 = {
    "/sys/fs/cgroup", "/memory.max", "/memory.current", {{"inactive_file", 0}, {"active_file", 0}}};
static const struct kind kind_v1 = {"/sys/fs/cgroup/memory",
                                    "/memory.limit_in_bytes",
                                    "/memory.usage_in_bytes",
                                    {{"total_inactive_file", 0}, {"total_active_file", 0}}};

/* A cgroup's folder, with room for a file's name behind it. */
struct folder {
    size_t length, root;
    char path[PATH_ROOM];
};

static const char *file_in(struct folder *f, const char *name)
{
    strcpy(f->path + f->length, name);
    return f->path;
}

/* What one cgroup can still use. */
static size_t cgroup_has(const struct kind *kind, struct folder *f, size_t swap)
{
    struct field cached[] = {kind->cached[0], kind->cached[1]};
    size_t limit = read_number(file_in(f, kind->limit));

    if (limit == SIZE_MAX || limit >= SIZE_MAX / 4)
        return SIZE_MAX; /* v1's "no limit" is a large number */
    size_t used = read_number(file_in(f, kind->used));
    if (used == SIZE_MAX)
        return SIZE_MAX;
    read_fields(file_in(f, "/memory.stat"), cached, 2, 1);
    size_t free_now = plus(minus(limit, used), plus(cached[0].value, cached[1].value));
    return plus(free_now < limit ? free_now : limit, swap);
}

/* The least that the cgroup or one around it has. */
static size_t cgroups_have(const struct kind *kind, struct folder *f, size_t swap)
{
    size_t least = SIZE_MAX;

    for (;;) {
        size_t has = cgroup_has(kind, f, swap);

        least = has < least ? has : least;
        if (f->length <= f->root)
            return least;
        while (f->length > f->root && f->path[--f->length] != '/')
            ;
    }
}

/* The kind of cgroup that a line names, and its path. The line is "0::/path" or "4:memory:/path",
 * perhaps with other controllers beside "memory". NULL: neither. */
static const struct kind *kind_of_line(const char *line, const char **path)
{
    const char *first = strchr(line, ':'), *second = first != NULL ? strchr(first + 1, ':') : NULL;

    if (second == NULL)
        return NULL;
    *path = second + 1;
    if (second == first + 1)
        return &kind_v2;
    for (const char *name = first + 1; name < second; name += strcspn(name, ",:") + 1)
        if (strcspn(name, ",:") == strlen("memory") && strncmp(name, "memory", 6) == 0)
            return &kind_v1;
    return NULL;
}

/* Puts the line's path behind the root of its kind, in place. */
static void enter(struct folder *f, const struct kind *kind, const char *path)
{
    size_t length = strlen(path);

    f->root = strlen(kind->root);
    memmove(f->path + f->root, path, length + 1);
    memcpy(f->path, kind->root, f->root);
    f->length = f->root + (length > 1 ? length : 0);
}

static size_t own_cgroups_have(size_t swap)
{
    enum { ROOM_FOR_NAMES = 64 };
    struct lines l = {.fd = shm_open_above_stdio("/proc/self/cgroup", O_RDONLY)};
    size_t least = SIZE_MAX;
    struct folder f;

    if (l.fd < 0)
        return SIZE_MAX;
    while (next_line(&l, f.path, sizeof f.path - ROOM_FOR_NAMES)) {
        const char *path;
        const struct kind *kind = kind_of_line(f.path, &path);

        if (kind != NULL) {
            enter(&f, kind, path);
            size_t has = cgroups_have(kind, &f, swap);
            least = has < least ? has : least;
        }
    }
    close(l.fd);
    return least;
}

/* ---- when to look */

size_t shm_available(void)
{
    size_t swap, machine = machine_has(&swap);
    size_t own = own_cgroups_have(swap);

    machine = plus(machine, swap);
    return machine < own ? machine : own;
}

/* The kernel needs page tables beside the pages themselves. */
static size_t with_tables(size_t bytes)
{
    return plus(bytes, bytes / 256);
}

bool shm_has_available(size_t bytes)
{
    return with_tables(bytes) <= shm_available();
}

void shm_start_watching(struct shm_record *record)
{
    atomic_store(&record->look_at, 0);
    atomic_store(&record->spent, 0);
    atomic_store(&record->share, SHARE_FIRST);
}

static void note_share(struct shm_record *record, size_t end, size_t share)
{
    atomic_store_explicit(&record->look_at, plus(end, share), memory_order_relaxed);
    atomic_store_explicit(&record->share, share, memory_order_relaxed);
    atomic_store_explicit(&record->spent, 0, memory_order_relaxed);
}

/* Whether to look now. A process knows what it committed itself. It sees by the offset what other
 * processes of the heap committed: the offset grows with the heap. */
static bool is_due(struct shm_record *record, size_t end, size_t bytes)
{
    size_t look_at = atomic_load_explicit(&record->look_at, memory_order_relaxed);

    if (look_at == 0)
        note_share(record, end, SHARE_FIRST);
    return bytes >= SHM_LARGE || (look_at != 0 && end > look_at) ||
           atomic_load_explicit(&record->spent, memory_order_relaxed) + bytes >
               atomic_load_explicit(&record->share, memory_order_relaxed);
}

bool shm_is_available(struct shm_record *record, size_t end, size_t bytes)
{
    if (!is_due(record, end, bytes)) {
        atomic_fetch_add_explicit(&record->spent, bytes, memory_order_relaxed);
        return true;
    }

    size_t available = shm_available(), needed = with_tables(bytes);
    if (needed > available)
        return false;
    size_t share = (available - needed) / SHARES;
    share = share > SHARE_LEAST ? share : SHARE_LEAST;
    note_share(record, end, share < SHARE_MOST ? share : SHARE_MOST);
    return true;
}
