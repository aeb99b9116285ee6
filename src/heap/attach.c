/* attach.c - joining a heap that another program made, by its name or by a descriptor of its file.
 *
 * Nothing in the file is believed before it was looked at: first what the file says of itself, read
 * before anything is mapped (region_identify()); then, once it is mapped at the very addresses that
 * it names, where its parts are and that the file is long enough for all that has memory
 * (region_may_open()). What lies in the parts is checked by whoever goes by it, as always.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "heap/heap.h"
#include "shm/shm.h"
#include "sync/cancel.h"

/* ---- what failed, in words ------------------------------------------------------------------- */

enum { MESSAGE = 240, LINE = 512 };

static __thread char message[MESSAGE] __attribute__((tls_model("initial-exec")));

const char *heap_message(void)
{
    return message;
}

void heap_say(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
}

/* Whether the line of /proc/self/maps, "start-end rwxp ... what", is about a part of the range. */
static bool lies_in(const char *line, uint64_t start, uint64_t end)
{
    char *rest;
    uint64_t from = strtoull(line, &rest, 16), to = *rest == '-' ? strtoull(rest + 1, NULL, 16) : 0;

    return from < end && start < to;
}

/* Copies the first line that is about the range. False: there is none. */
static bool find_line(int maps, uint64_t start, uint64_t end, char line[static LINE])
{
    size_t length = 0;
    ssize_t bytes;
    char piece[LINE];

    while ((bytes = read(maps, piece, sizeof piece)) > 0)
        for (ssize_t i = 0; i < bytes; i++) {
            if (piece[i] != '\n') {
                if (length < LINE - 1)
                    line[length++] = piece[i];
                continue;
            }
            line[length] = '\0';
            if (lies_in(line, start, end))
                return true;
            length = 0;
        }
    return false;
}

static void say_what_lies_there(uint64_t start, uint64_t bytes)
{
    char line[LINE];
    int maps = shm_open_above_stdio("/proc/self/maps", O_RDONLY);
    bool found = maps >= 0 && find_line(maps, start, start + bytes, line);

    if (maps >= 0)
        close(maps);
    heap_say("its addresses, %" PRIx64 "-%" PRIx64 ", are not free here: %.100s", start,
             start + bytes, found ? line : "the system refuses them");
}

static const char *reason(int error)
{
    switch (error) {
    case ENOENT:
        return "there is no heap of that name";
    case ELOOP:
        return "the name is a link";
    case EAGAIN:
        return "it is being made, or its maker died";
    case EBADMSG:
        return "it is no heap, or a damaged one";
    case ENODATA:
        return "the file is shorter than the heap in it";
    case EPROTONOSUPPORT:
        return "a library of another version made it";
    case ENOEXEC:
        return "a program of another word size, byte order or C library made it";
    case EMEDIUMTYPE:
        return "it was made with pages of another size";
    case EROFS:
        return "this process has it already, and can only read it";
    case EXDEV:
        return "its processes are in another PID namespace";
    case EACCES:
        return "its mode, or the descriptor's, does not let this user read and write it";
    default:
        return strerror(error);
    }
}

/* How often something is looked at again that others may just be changing. */
enum { LOOKS = 100, LOOKS_LEAST = 8 };

/* ---- joining --------------------------------------------------------------------------------- */

static bool has_group(gid_t group)
{
    enum { GROUPS_MOST = 256 };
    gid_t groups[GROUPS_MOST];
    int count = getgroups(GROUPS_MOST, groups);

    for (int i = 0; i < count; i++)
        if (groups[i] == group)
            return true;
    return group == getegid();
}

/* Whether the file's mode says that this user may use it. The kernel asks no such thing of the
 * superuser, who would be led into a heap that somebody else can write to. */
static bool is_meant_for_us(int fd, bool read_only)
{
    struct stat file;

    if (fstat(fd, &file) != 0)
        return false;
    if (file.st_uid == geteuid())
        return true;
    mode_t needed = read_only ? S_IROTH : S_IROTH | S_IWOTH;
    if (has_group(file.st_gid))
        return (file.st_mode >> 3 & needed) == needed;
    return (file.st_mode & needed) == needed;
}

static bool is_of(const struct dvsm_heap *heap, int fd)
{
    return registry_is_live(heap) && shm_maps_file(&heap->mapping, fd);
}

/* Joins the heap once more if it is that of the file. NB: looked at again once it cannot be left
 * for good any more: until then it could, and the slot become another heap's. If that one is left
 * in just these few instructions, it stays mapped. */
static bool join_again(struct dvsm_heap *heap, int fd)
{
    size_t joined = atomic_load(&heap->joined);

    while (joined > 0 && is_of(heap, fd))
        if (atomic_compare_exchange_weak(&heap->joined, &joined, joined + 1)) {
            if (is_of(heap, fd))
                return true;
            heap_leave_once(heap);
            return false;
        }
    return false;
}

/* The heap that this process has from that file already, joined once more. */
static struct dvsm_heap *find_mapped(int fd)
{
    for (size_t i = 0; i < registry_used(); i++) {
        struct dvsm_heap *heap = registry_slot(i);

        if (join_again(heap, fd))
            return heap;
    }
    return NULL;
}

/* Looks at the region just mapped. NB: the file may grow meanwhile, since others use the heap: so
 * its length is asked for again before it counts as too short. */
static int look_at(const struct dvsm_heap *heap, int fd)
{
    struct stat file;
    int error = ENODATA;

    for (int tries = 0; error == ENODATA && tries < LOOKS; tries++)
        error = fstat(fd, &file) == 0
                    ? region_may_open(heap->mapping.base, &heap->mapping, (size_t)file.st_size)
                    : errno;
    return error;
}

/* Maps the heap and looks at it. `fd` becomes the heap's, or is closed. */
static int map(struct dvsm_heap *heap, const struct region_identity *identity, int fd,
               bool read_only)
{
    heap->mapping = (dvsm_mapping){
        .size = sizeof heap->mapping,
        .base = (void *)(uintptr_t)identity->base,
        .bytes = (size_t)identity->bytes,
        .fd = -1,
        .name = heap->backend == &dvsm_backend_shm_open ? heap->label : NULL,
    };
    int error = shm_attach(&heap->mapping, fd, read_only);
    if (error != 0) {
        close(fd);
        return error;
    }
    error = look_at(heap, fd);
    if (error != 0)
        heap->backend->unmap(heap->backend, &heap->mapping, 0);
    return error;
}

/* Makes a slot of the heap that the file has. `fd` becomes the heap's, or is closed. */
static struct dvsm_heap *map_new(int fd, const char *name, bool read_only, int *error)
{
    struct region_identity identity;
    struct dvsm_heap *heap = NULL;

    *error = is_meant_for_us(fd, read_only) ? region_identify(fd, read_only, &identity) : EACCES;
    if (*error == 0 && (heap = registry_claim()) == NULL)
        *error = ENOSPC;
    if (heap == NULL) {
        close(fd);
        return NULL;
    }
    heap->backend = name != NULL ? &dvsm_backend_shm_open : &dvsm_backend_memfd;
    snprintf(heap->label, sizeof heap->label, "%s", name != NULL ? name : "joined");
    *error = map(heap, &identity, fd, read_only);
    heap->read_only = read_only;
    if (*error == 0) {
        atomic_store(&heap->joined, 1);
        heap_open(heap, 0);
        return heap;
    }
    registry_free(heap);
    return NULL;
}

/* Whether another thread is just making, joining or leaving a heap. */
static bool is_changing(void)
{
    for (size_t i = 0; i < registry_used(); i++)
        if (atomic_load(&registry_slot(i)->state) == HEAP_CLAIMED)
            return true;
    return false;
}

static void say_where(int fd)
{
    struct region_identity identity;

    if (region_identify(fd, true, &identity) == 0)
        say_what_lies_there(identity.base, identity.bytes);
}

/* `fd` is the caller's. NB: what lies there may be the same heap, which another thread has just
 * mapped and nobody can find yet. */
static struct dvsm_heap *join(int fd, const char *name, bool read_only, int *error)
{
    struct dvsm_heap *heap = find_mapped(fd);

    for (int tries = 0; heap == NULL && tries < LOOKS; tries++) {
        int own = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

        if (own < 0) {
            *error = errno;
            return NULL;
        }
        bool again = is_changing();
        heap = map_new(own, name, read_only, error);
        if (heap != NULL || *error != EADDRNOTAVAIL)
            return heap;
        sched_yield();
        heap = find_mapped(fd);
        if (!again && tries >= LOOKS_LEAST)
            break;
    }
    if (heap == NULL) {
        say_where(fd);
        return NULL;
    }
    *error = heap->read_only && !read_only ? EROFS : 0;
    if (*error == 0)
        return heap;
    heap_leave_once(heap);
    return NULL;
}

/* Puts what was to be joined in front of the reason. */
static struct dvsm_heap *end(struct dvsm_heap *heap, const char *what, int error)
{
    char why[MESSAGE];

    if (heap != NULL) {
        heap_say("%s", "");
        return heap;
    }
    snprintf(why, sizeof why, "%s", error == EADDRNOTAVAIL ? message : reason(error));
    heap_say("%.40s: %s", what, why);
    return NULL;
}

struct dvsm_heap *heap_attach(const char *name, bool read_only, int *error)
{
    int cancel = cancel_put_off();
    bool fits = strlen(name) < HEAP_LABEL;
    int fd = fits ? shm_open_name(name, read_only) : -1;
    struct dvsm_heap *heap = NULL;

    *error = fits ? errno : ENAMETOOLONG;
    if (fd >= 0) {
        heap = join(fd, name, read_only, error);
        close(fd);
    }
    heap = end(heap, name, *error);
    cancel_restore(cancel);
    return heap;
}

struct dvsm_heap *heap_attach_fd(int fd, bool read_only, int *error)
{
    char what[32];
    int cancel = cancel_put_off();

    snprintf(what, sizeof what, "fd %d", fd);
    struct dvsm_heap *heap = end(join(fd, NULL, read_only, error), what, *error);
    cancel_restore(cancel);
    return heap;
}
