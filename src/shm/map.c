/* map.c - address space for a heap, and giving it back. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "dvsm/dvsm.h"
#include "shm/shm.h"
#include "shm/shm_internal.h"

enum {
    HUGE_PAGE = 2 << 20, /* only ranges aligned to it, in memory and in the file, can be one */
    RECORDS_MOST = 2048  /* a process has fewer heaps */
};

/* ---- records: a static table, so that fork at any moment finds it usable */

static struct shm_record records[RECORDS_MOST];

static struct shm_record *claim_record(void)
{
    for (size_t i = 0; i < RECORDS_MOST; i++)
        if (!atomic_load(&records[i].taken) && !atomic_exchange(&records[i].taken, true))
            return &records[i];
    return NULL;
}

static void free_record(struct shm_record *record)
{
    atomic_store(&record->taken, false);
}

/* The mapping's record; NULL: a backend of the user's made it. Read once: another thread may just
 * unmap it. */
static const struct shm_record *own_record(const dvsm_mapping *mapping)
{
    const struct shm_record *record = *(void *const volatile *)&mapping->context;

    return (uintptr_t)record - (uintptr_t)records < sizeof records ? record : NULL;
}

bool shm_maps_file(const dvsm_mapping *mapping, int fd)
{
    const struct shm_record *record = own_record(mapping);

    return record != NULL && shm_is_file_of_record(record, fd);
}

int shm_fd(const dvsm_mapping *mapping)
{
    return own_record(mapping) != NULL ? shm_own_fd(mapping) : mapping->fd;
}

/* ---- mapping */

/* EAGAIN, too, means too little of something: ENOMEM makes the library ask for less. */
static int mmap_error(int error)
{
    return error == EAGAIN ? ENOMEM : error;
}

static void advise_huge_pages(const dvsm_mapping *mapping)
{
    if ((mapping->flags & DVSM_HUGE_PAGES) != 0)
        shm_kernel.advise(mapping->base, mapping->bytes, MADV_HUGEPAGE);
}

/* Takes a little more address space than wanted, puts the shared memory over the aligned part, and
 * gives back what is left over at both ends. */
static int map_aligned(dvsm_mapping *mapping, int fd, int flags)
{
    size_t bytes = mapping->bytes;
    size_t align = (mapping->flags & DVSM_HUGE_PAGES) != 0 ? HUGE_PAGE : SHM_ALIGN;
    size_t room = bytes + align;

    if (room < bytes)
        return ENOMEM;
    char *space = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        return mmap_error(errno);
    char *base = (char *)bits_round_up((uintptr_t)space, align);
    if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_NORESERVE | MAP_FIXED | flags, fd, 0) ==
        MAP_FAILED) {
        int error = mmap_error(errno);
        munmap(space, room);
        return error;
    }
    if (base > space)
        munmap(space, (size_t)(base - space));
    munmap(base + bytes, (size_t)(space + room - (base + bytes)));
    mapping->base = base;
    mapping->fd = fd;
    advise_huge_pages(mapping);
    return 0;
}

/* Linux 4.17. An older kernel takes the address for a mere wish, and the result tells. */
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* Maps to mapping->base or nowhere. NB: claimed by the call itself: between a look and a mapping,
 * another thread could come to have the range. */
static int map_there(dvsm_mapping *mapping, int fd, int protection, int flags)
{
    void *base = mmap(mapping->base, mapping->bytes, protection,
                      MAP_NORESERVE | MAP_FIXED_NOREPLACE | flags, fd, 0);

    if (base == MAP_FAILED)
        return errno == EEXIST || errno == EPERM ? EADDRNOTAVAIL : mmap_error(errno);
    if (base != mapping->base) {
        munmap(base, mapping->bytes);
        return EADDRNOTAVAIL;
    }
    mapping->fd = fd;
    advise_huge_pages(mapping);
    return 0;
}

/* Maps with a record of the mapping's own; on failure the record is freed. */
static int map(dvsm_mapping *mapping, int fd, int protection, int flags)
{
    struct shm_record *record = claim_record();

    if (record == NULL)
        return ENOSPC;
    shm_start_watching(record);
    int error = shm_note_file(record, fd);
    if (error == 0)
        error = mapping->base != NULL ? map_there(mapping, fd, protection, flags)
                                      : map_aligned(mapping, fd, flags);
    if (error != 0) {
        free_record(record);
        return error;
    }
    mapping->context = record;
    return 0;
}

/* The file stays as short as it is: shm_commit() makes it longer. A length that would be refused
 * then is refused now. */
int shm_map_file(dvsm_mapping *mapping, int fd)
{
    int error = shm_check_length(mapping->bytes);

    return error != 0 ? error : map(mapping, fd, PROT_READ | PROT_WRITE, MAP_SHARED);
}

int shm_attach(dvsm_mapping *mapping, int fd, bool read_only)
{
    return read_only ? map(mapping, fd, PROT_READ, MAP_PRIVATE)
                     : map(mapping, fd, PROT_READ | PROT_WRITE, MAP_SHARED);
}

/* What was never committed is marked not to be dumped: there is no file end that would keep it out
 * of core files. */
int shm_map_anonymous(dvsm_mapping *mapping)
{
    int error = map(mapping, -1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);

    if (error == 0)
        shm_kernel.advise(mapping->base, mapping->bytes, MADV_DONTDUMP);
    return error;
}

int shm_unmap(const dvsm_backend *self, dvsm_mapping *mapping, int destroy)
{
    (void)self;
    (void)destroy;
    if (munmap(mapping->base, mapping->bytes) != 0)
        return errno;
    if (shm_owns_fd(mapping))
        close(atomic_load(&shm_record(mapping)->fd));
    free_record(shm_record(mapping));
    mapping->base = NULL;
    mapping->fd = -1;
    mapping->context = NULL;
    return 0;
}
