/* region.c - the layout of a region, and the making of its parts. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "heap/region.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "cache/place.h"
#include "shm/shm.h"
#include "sync/page.h"

enum {
    ARENAS_A_CPU = 4,
    ARENAS_LEAST = 64,  /* the most arenas on a small machine: damaged ones need successors */
    GRANULES_LEAST = 16 /* of the smallest region */
};

/* Another C library's mutexes may be as long, and look otherwise. */
#ifdef __GLIBC__
#define LOCK_LAYOUT ((uint32_t)sizeof(struct lock) | 1u << 16)
#else
#define LOCK_LAYOUT ((uint32_t)sizeof(struct lock))
#endif

static size_t whole_pages(size_t bytes)
{
    return bits_round_up(bytes, page_size());
}

/* One more than the highest number that a CPU of this machine can have, now or later: lanes are
 * indexed by that number. The system's list reads "0-7" or "0,2-7". Without the list, the result is
 * the number of CPUs for which the kernel's own masks have room. */
static size_t look_up_cpus(bool *listed)
{
    char list[256] = "";
    int fd = shm_open_above_stdio("/sys/devices/system/cpu/possible", O_RDONLY);

    if (fd >= 0) {
        if (read(fd, list, sizeof list - 1) < 0)
            list[0] = '\0';
        close(fd);
    }
    char *last = strpbrk(list, "0123456789");
    *listed = last != NULL;
    if (last == NULL) {
        unsigned char mask[1024];
        long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);

        return bytes > 0 ? (size_t)bytes * 8 : sizeof mask * 8;
    }
    for (char *p = last; (p = strpbrk(p, ",-")) != NULL;)
        last = ++p;
    return (size_t)strtoul(last, NULL, 10) + 1;
}

/* Looked up once, because making a heap asks several times. */
static size_t cpu_count(void)
{
    static _Atomic(size_t) known;
    size_t count = atomic_load(&known);
    bool ignored;

    if (count == 0)
        atomic_store(&known, count = look_up_cpus(&ignored));
    return count;
}

/* Whether a heap with lanes for that many CPUs has one for each of this machine's, as far as that
 * is known here. */
static bool are_enough(size_t cpus)
{
    bool listed;
    size_t count = look_up_cpus(&listed);

    return cpus >= (listed ? count : (size_t)sched_getcpu() + 1);
}

static size_t arenas_most(size_t cpus)
{
    size_t most = cpus * ARENAS_A_CPU < ARENAS_LEAST ? ARENAS_LEAST : cpus * ARENAS_A_CPU;

    return most < CACHE_OWNER ? most : CACHE_OWNER - 1;
}

static size_t depots_bytes(void)
{
    return whole_pages(CACHE_CLASSES * sizeof(struct depot));
}

static size_t lanes_bytes(const struct region *r)
{
    return whole_pages(cache_lanes(&r->cache) * sizeof(struct lane));
}

/* The part of a plan that the header does not hold: where the arenas' slots are, and how long each
 * is. */
struct places {
    char *arenas;
    size_t arena_stride;
    size_t arenas_most;
    bool cached;
};

/* Says where everything lies in a region of r->bytes at r->base, for `cpus` CPUs. False: the region
 * is too small. */
static bool lay_out(struct region *r, struct places *p, size_t cpus, size_t hardened)
{
    char *place = r->base + whole_pages(sizeof(struct region));

    r->cache.cpus = cpus;
    r->cache.hardened = hardened;
    r->cache.lanes = (struct lane *)(void *)place;
    place += lanes_bytes(r);
    r->cache.depots = (struct depot *)(void *)place;
    place += depots_bytes();
    r->map = (struct segment_map *)(void *)place;
    place += whole_pages(segment_map_bytes(r->bytes / GRANULE));
    r->roots.roots = (struct root *)(void *)place;
    place += roots_most_bytes();
    p->arenas_most = arenas_most(cpus);
    p->arena_stride = whole_pages(sizeof(struct arena_slot));
    p->arenas = place;
    place += p->arenas_most * p->arena_stride;

    size_t metadata = bits_round_up((size_t)(place - r->base), GRANULE);
    if (metadata >= r->bytes)
        return false;
    r->granules = r->base + metadata;
    r->granule_count = (r->bytes - metadata) / GRANULE;
    return true;
}

/* The parts that do not depend on the region's size, plus a few granules and generous room for
 * their map. */
size_t region_least_bytes(void)
{
    size_t cpus = cpu_count();
    size_t fixed = whole_pages(sizeof(struct region)) +
                   arenas_most(cpus) * whole_pages(sizeof(struct arena_slot)) +
                   whole_pages(2 * cpus * sizeof(struct lane)) + depots_bytes() +
                   roots_most_bytes();
    size_t granules = fixed / GRANULE + 1 + GRANULES_LEAST;

    return (granules + segment_map_bytes(2 * granules) / GRANULE + 1) * GRANULE;
}

/* Bytes of the parts that are needed from the start; the granule map counts itself. */
static size_t first_bytes(const struct region *r, bool cached)
{
    return whole_pages(sizeof *r) + (cached ? lanes_bytes(r) + depots_bytes() : 0);
}

/* Commits the parts that are needed from the start, and the map's first pages. They lie side by
 * side, so one call does it. Without a cache, header and map are committed in two calls, and the
 * lanes and depots between them are left out. */
static int commit_parts(const struct segments *segments, const struct region *plan, bool cached)
{
    const dvsm_backend *backend = segments->backend;
    char *map = (char *)plan->map;
    size_t header = whole_pages(sizeof *plan), map_bytes = segment_map_committed_bytes();
    size_t all = (size_t)(map - plan->base) + map_bytes;
    int error = backend->commit(backend, segments->mapping, plan->base, cached ? all : header);

    if (error == 0 && !cached)
        error = backend->commit(backend, segments->mapping, map, map_bytes);
    return error;
}

/* Random, so that no value that a program may happen to write is likely to be a true head. Where
 * the system has no random bytes to give, the time has to do. */
static size_t random_key(void)
{
    size_t key;
    struct timespec now;

    if (getrandom(&key, sizeof key, GRND_NONBLOCK) == sizeof key)
        return key;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (size_t)now.tv_nsec ^ (size_t)(uintptr_t)&now / CHUNK_ALIGN;
}

static int make_parts(struct segments *segments, struct region *plan, const struct places *places,
                      const dvsm_options *options)
{
    int error = commit_parts(segments, plan, places->cached);

    if (error == 0)
        error = segment_init(plan->map, plan->granules, plan->granule_count,
                             options->limit != 0 ? options->limit : SIZE_MAX);
    if (error != 0)
        return error;
    if ((options->flags & DVSM_LAZY) != 0)
        segment_set_lazy(plan->map);
    segment_count_overhead(segments, first_bytes(plan, places->cached));
    if (options->retain != 0)
        segment_set_retain(segments, options->retain);
    error = roots_init(&plan->roots, plan->roots.roots);
    if (error != 0)
        return error;
    error =
        arenas_init(&plan->arenas, places->arenas, places->arena_stride, places->arenas_most,
                    (struct seal){(uintptr_t)plan->granules, random_key()}, plan->cache.hardened);
    if (error != 0 || !places->cached)
        return error;
    return cache_init(&plan->cache, &plan->policy, options->cache_bytes,
                      options->limit != 0 ? options->limit : SIZE_MAX);
}

int region_make(const dvsm_backend *backend, const dvsm_mapping *mapping,
                const dvsm_options *options)
{
    struct region plan = {.base = mapping->base, .bytes = mapping->bytes};
    struct places places = {.cached = options->cache_bytes != SIZE_MAX};
    struct region *region = mapping->base;

    if (!lay_out(&plan, &places, cpu_count(), (options->flags & DVSM_HARDEN) != 0))
        return ENOMEM;

    struct segments segments = {
        .map = plan.map, .backend = backend, .mapping = mapping, .policy = &plan.policy};
    policy_set_defaults(&plan.policy);
    int error = make_parts(&segments, &plan, &places, options);
    if (error != 0)
        return error;
    plan.identity = (struct region_identity){
        .version = REGION_VERSION,
        .word_bytes = sizeof(word),
        .page_bytes = (uint32_t)page_size(),
        .lock_layout = LOCK_LAYOUT,
        .base = (uintptr_t)mapping->base,
        .bytes = mapping->bytes,
        .pid_namespace = region_pid_namespace(),
    };
    plan.arenas_wanted = options->arenas;
    plan.cache_bytes = options->cache_bytes;
    plan.arenas.wanted = options->arenas != 0 ? options->arenas : plan.cache.cpus;
    if (plan.arenas.wanted > plan.arenas.most)
        plan.arenas.wanted = plan.arenas.most;
    *region = plan;
    compiler_barrier();
    __atomic_store_n(&region->identity.magic, REGION_MAGIC, __ATOMIC_RELEASE);
    return 0;
}

size_t region_charged_bytes(const struct region *r)
{
    bool cached = r->cache_bytes != SIZE_MAX;

    return first_bytes(r, cached) + r->roots.committed + r->arenas.committed * r->arenas.stride;
}

void region_check(const struct region *r, struct check *check)
{
    struct region right = {.base = r->base, .bytes = r->bytes};
    struct places places = {0};
    bool fits = lay_out(&right, &places, r->cache.cpus, r->cache.hardened);

    check_that(check,
               fits && r->map == right.map && r->granules == right.granules &&
                   r->granule_count == right.granule_count,
               "heap: the granules or their map lie elsewhere than %p and %p",
               (void *)right.granules, (void *)right.map);
    check_that(check, r->cache.lanes == right.cache.lanes && r->cache.depots == right.cache.depots,
               "heap: a part of the cache lies elsewhere");
    check_that(check, r->roots.roots == right.roots.roots, "heap: the roots lie elsewhere than %p",
               (void *)right.roots.roots);
    check_that(check, r->arenas.slots == places.arenas && r->arenas.stride == places.arena_stride,
               "heap: the arenas lie elsewhere than %p", (void *)places.arenas);
}

/* ---- a region that somebody else made -------------------------------------------------------- */

enum { CPUS_MOST = 1 << 16 };

uint64_t region_pid_namespace(void)
{
    struct stat file;

    return stat("/proc/self/ns/pid", &file) == 0 ? file.st_ino : 0;
}

/* Word sizes and byte orders are told apart by what one makes of the other's numbers. */
static int judge(const struct region_identity *identity, bool read_only)
{
    uint64_t here = region_pid_namespace();

    if (identity->magic == 0)
        return EAGAIN;
    if (identity->magic != REGION_MAGIC)
        return identity->magic == __builtin_bswap64(REGION_MAGIC) ? ENOEXEC : EBADMSG;
    if (identity->version != REGION_VERSION)
        return EPROTONOSUPPORT;
    if (identity->word_bytes != sizeof(word) || identity->lock_layout != LOCK_LAYOUT)
        return ENOEXEC;
    if (identity->page_bytes != page_size())
        return EMEDIUMTYPE;
    if (!read_only && identity->pid_namespace != here && identity->pid_namespace != 0 && here != 0)
        return EXDEV;
    if (identity->base == 0 || identity->base % GRANULE != 0 || identity->bytes % GRANULE != 0 ||
        identity->bytes == 0 || identity->base + identity->bytes < identity->base ||
        identity->base + identity->bytes > UINTPTR_MAX)
        return EBADMSG;
    return 0;
}

int region_identify(int fd, bool read_only, struct region_identity *identity)
{
    struct stat file;

    *identity = (struct region_identity){0};
    if (fstat(fd, &file) != 0)
        return errno;
    if (!S_ISREG(file.st_mode))
        return EBADMSG;
    if ((size_t)file.st_size < sizeof(struct region))
        return file.st_size == 0 ? EAGAIN : ENODATA;
    ssize_t bytes = pread(fd, identity, sizeof *identity, 0);
    if (bytes < 0)
        return errno;
    return bytes == sizeof *identity ? judge(identity, read_only) : ENODATA;
}

/* The set-once fields of the tables in the header, and bounds of their counts, which others may
 * just be changing. */
static bool is_plan(const struct region *r, const struct places *places, const struct region *right)
{
    size_t arenas = arenas_count(&r->arenas); /* before `committed`, which grows first */

    return r->map == right->map && r->granules == right->granules &&
           r->granule_count == right->granule_count && r->cache.lanes == right->cache.lanes &&
           r->cache.depots == right->cache.depots && r->roots.roots == right->roots.roots &&
           r->roots.committed <= roots_most_bytes() && r->arenas.slots == places->arenas &&
           r->arenas.stride == places->arena_stride && r->arenas.most == places->arenas_most &&
           r->arenas.seal.base == (uintptr_t)right->granules &&
           r->arenas.hardened == right->cache.hardened && r->cache.mode <= LANES_SEQUENCES &&
           r->cache.classes_most <= CACHE_CLASSES && r->cache.classes <= r->cache.classes_most &&
           r->arenas.committed <= places->arenas_most && arenas <= r->arenas.committed;
}

/* Whether the file, which ends at `end`, is long enough for a part of so many bytes. */
static bool is_before(const void *part, size_t bytes, const char *end)
{
    return bytes == 0 || (const char *)part + bytes <= end;
}

int region_may_open(const struct region *r, const dvsm_mapping *mapping, size_t length)
{
    struct region right = {.base = mapping->base, .bytes = mapping->bytes};
    struct places places = {0};
    const char *end = (const char *)mapping->base + length, *memory_end = end;

    if (length < sizeof *r)
        return ENODATA;
    size_t cpus = r->cache.cpus, hardened = r->cache.hardened;
    if (r->base != right.base || r->bytes != right.bytes || cpus > CPUS_MOST || !are_enough(cpus) ||
        hardened > 1 || !lay_out(&right, &places, cpus, hardened) || !is_plan(r, &places, &right))
        return EBADMSG;
    if (!is_before(right.map, segment_map_committed_bytes(), end) ||
        !is_before(right.roots.roots, r->roots.committed, end) ||
        !is_before(places.arenas, r->arenas.committed * places.arena_stride, end))
        return ENODATA;
    if (!segment_may_open(right.map, right.granules, right.granule_count, end, &memory_end))
        return EBADMSG;
    return memory_end > end ? ENODATA : 0;
}
