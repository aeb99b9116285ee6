/* granule_backend.c - keeping account of granules. */
#define _GNU_SOURCE
#include "support/granule_backend.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "segment/segment_map.h"

/* An address at a multiple of the granule size where nothing is ever mapped. */
#define NOWHERE ((uintptr_t)1 << (SIZE_BITS == 64 ? 45 : 28))

static struct granule_backend *account(const dvsm_backend *self)
{
    return (struct granule_backend *)(uintptr_t)self; /* its first member */
}

static void *map_pages(size_t bytes, int protection)
{
    void *pages = mmap(NULL, bytes, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (pages == MAP_FAILED) {
        perror("mmap");
        abort();
    }
    return pages;
}

static bool comes_due(struct granule_plan *plan)
{
    if (plan->at == 0)
        return false;
    if (plan->at > 1) {
        plan->at--;
        return false;
    }
    if (!plan->for_good)
        plan->at = 0;
    return true;
}

static bool in_map(const struct granule_backend *b, const char *start)
{
    return start >= b->map && start < b->map + b->map_bytes;
}

static void set_memory(struct granule_backend *b, const char *start, size_t bytes,
                       unsigned char has)
{
    size_t page = GRANULE / b->pages, pages = b->granules * b->pages;
    size_t first = ((uintptr_t)start - (uintptr_t)b->segments.map->base) / page;
    size_t count = bytes / page;

    if ((uintptr_t)start % page != 0 || bytes % page != 0 || count == 0 || first >= pages ||
        count > pages - first) {
        b->misuses++;
        return;
    }
    for (size_t i = first; i < first + count; i++) {
        word holes = granule_load(b->segments.map, i / b->pages) & HOLES;

        if (b->memory[i] == has && !b->forgiving && (has || holes == 0))
            b->misuses++;
        b->with_memory += (size_t)has - b->memory[i];
        b->memory[i] = has;
    }
}

static int commit_map(struct granule_backend *b, char *start, size_t bytes)
{
    if ((uintptr_t)start % b->segments.map->page != 0 || bytes % b->segments.map->page != 0 ||
        bytes > (size_t)(b->map + b->map_bytes - start))
        b->misuses++;
    else if (mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0)
        return errno;
    b->map_committed += bytes;
    return 0;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
}

static int account_commit(const dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                          size_t bytes)
{
    struct granule_backend *b = account(self);
    bool due = comes_due(&b->commit_plan);
    int error = 0;

    (void)mapping;
    b->commits++;
    if (due && b->commit_plan.kill_before)
        die();
    if (due && !b->commit_plan.kill_after)
        return ENOMEM;
    if (in_map(b, start))
        error = commit_map(b, start, bytes);
    else
        set_memory(b, start, bytes, 1);
    if (due)
        die();
    return error;
}

static int account_release(const dvsm_backend *self, const dvsm_mapping *mapping, void *start,
                           size_t bytes)
{
    struct granule_backend *b = account(self);
    bool due = comes_due(&b->release_plan);

    (void)mapping;
    b->releases++;
    if (due && b->release_plan.kill_before)
        die();
    if (due && !b->release_plan.kill_after)
        return EIO;
    set_memory(b, start, bytes, 0);
    if (due)
        die();
    return 0;
}

struct granule_backend *granule_backend_new(size_t granules)
{
    struct granule_backend *b = map_pages(sizeof *b, PROT_READ | PROT_WRITE);

    b->backend = (dvsm_backend){
        .size = sizeof(dvsm_backend),
        .name = "account",
        .commit = account_commit,
        .release = account_release,
    };
    b->granules = granules;
    b->pages = GRANULE / (size_t)sysconf(_SC_PAGESIZE);
    b->memory = map_pages(granules * b->pages, PROT_READ | PROT_WRITE);
    b->map_bytes = segment_map_bytes(granules);
    b->map = map_pages(b->map_bytes, PROT_NONE);
    b->segments = (struct segments){
        .map = (struct segment_map *)(void *)b->map,
        .backend = &b->backend,
        .mapping = &b->mapping,
        .policy = &b->policy,
    };
    policy_set_defaults(&b->policy);
    if (mprotect(b->map, segment_map_committed_bytes(), PROT_READ | PROT_WRITE) != 0 ||
        segment_init(b->map, (void *)NOWHERE, granules, SIZE_MAX) != 0) {
        perror("granule_backend_new");
        abort();
    }
    return b;
}

void granule_backend_delete(struct granule_backend *b)
{
    munmap(b->map, b->map_bytes);
    munmap(b->memory, b->granules * b->pages);
    munmap(b, sizeof *b);
}

char *granule_address(const struct granule_backend *b, size_t granule)
{
    return b->segments.map->base + granule * GRANULE;
}

size_t granule_number(const struct granule_backend *b, const void *address)
{
    return ((uintptr_t)address - (uintptr_t)b->segments.map->base) / GRANULE;
}

size_t granules_with_memory(const struct granule_backend *b)
{
    return b->with_memory / b->pages;
}

/* How many pages of a granule have memory. */
static size_t count_pages(const struct granule_backend *b, size_t granule)
{
    size_t count = 0;

    for (size_t i = granule * b->pages; i < (granule + 1) * b->pages; i++)
        count += b->memory[i];
    return count;
}

bool granule_has_memory(const struct granule_backend *b, size_t granule)
{
    return count_pages(b, granule) == b->pages;
}

/* The granule's pages without memory, as bits like those in its word. */
static word holes_of(const struct granule_backend *b, size_t granule)
{
    word holes = 0;

    for (size_t i = 0; i < b->pages; i++)
        holes |= (word)(b->memory[granule * b->pages + i] == 0) << (HOLE_SHIFT + i);
    return holes;
}

int granule_backend_check(struct granule_backend *b)
{
    struct check check = {.report = stderr};
    const struct segment_map *map = b->segments.map;

    segment_check(&b->segments, &check);
    for (size_t i = 0; i < map->ready; i++) {
        word w = granule_load(map, i), memory = w & (MEMORY | HOLES);
        size_t pages = count_pages(b, i);
        word missing = holes_of(b, i);
        bool right = memory == (pages == 0 ? 0 : COMMITTED | missing);

        /* A granule may consist of holes only; and a dead process may already have filled some. */
        right |= memory == (COMMITTED | missing) ||
                 (b->forgiving && (memory & COMMITTED) != 0 && (missing & ~memory) == 0);
        check_that(&check, right, "granule %zu: %zu pages of %zu have memory, but its word is %#zx",
                   i, pages, b->pages, (size_t)w);
    }
    check_that(&check, map->holes == b->holes, "%zu holes, their owners count %zu", map->holes,
               (size_t)b->holes);
    check_that(&check, b->misuses == 0, "%zu misuses of the backend", (size_t)b->misuses);
    return check.violations;
}
