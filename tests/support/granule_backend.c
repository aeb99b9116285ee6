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

/* Granule aligned, and never mapped by anything. */
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
    size_t first = granule_number(b, start);
    size_t count = bytes / GRANULE;

    if ((uintptr_t)start % GRANULE != 0 || bytes % GRANULE != 0 || count == 0 ||
        first >= b->granules || count > b->granules - first) {
        b->misuses++;
        return;
    }
    for (size_t i = first; i < first + count; i++) {
        if (b->memory[i] == has && !b->forgiving)
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
    b->memory = map_pages(granules, PROT_READ | PROT_WRITE);
    b->map_bytes = segment_map_bytes(granules);
    b->map = map_pages(b->map_bytes, PROT_NONE);
    b->segments = (struct segments){
        .map = (struct segment_map *)(void *)b->map,
        .backend = &b->backend,
        .mapping = &b->mapping,
    };
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
    munmap(b->memory, b->granules);
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

int granule_backend_check(struct granule_backend *b)
{
    struct check check = {.report = stderr};
    const struct segment_map *map = b->segments.map;

    segment_check(&b->segments, &check);
    for (size_t i = 0; i < map->ready; i++) {
        word memory = granule_load(map, i) & MEMORY;

        check_that(&check, memory == (b->memory[i] != 0 ? COMMITTED : 0),
                   "granule %zu: %s, but its word is %#zx", i,
                   b->memory[i] != 0 ? "has memory" : "has none", (size_t)granule_load(map, i));
    }
    check_that(&check, b->misuses == 0, "%zu misuses of the backend", (size_t)b->misuses);
    return check.violations;
}
