/* window.c - choosing addresses. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "heap/window.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "heap/region.h"
#include "shm/shm.h"
#include "sync/tsan.h"

struct window {
    uint64_t start, bytes;
};

#if defined __x86_64__ && defined __LP64__
static const struct window named = {0x550000000000, 0x5500000000};
static const struct window defaults = {0x400000000000, 0xa0000000000};
static const struct window created = {0x4a0000000000, 0xa0000000000};
#else
static const struct window named = {0, 0}, defaults = {0, 0}, created = {0, 0};
#endif
static const struct window nowhere = {0, 0};

/* Ranges begin at multiples of their length, which is rounded up to a multiple of this: so ranges
 * of about the same length meet whole or not at all. */
#define STEP_LEAST ((uint64_t)1 << 30)

/* FNV-1a (Fowler, Noll, Vo). */
static uint64_t hash_of(const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 32;
}

static uint64_t random_number(void)
{
    uint64_t number = 0;

    if (getrandom(&number, sizeof number, GRND_NONBLOCK) != sizeof number)
        number = (uintptr_t)&number >> 4 ^ (uint64_t)getpid() << 20;
    return number;
}

/* 0: no range is so long. */
static uint64_t step_for(size_t bytes)
{
    return bits_round_up((uint64_t)bytes, STEP_LEAST);
}

/* The nth of the places in the window, counted from one that `number` chooses. */
static uint64_t place_in(const struct window *w, size_t bytes, uint64_t number, unsigned nth)
{
    uint64_t step = step_for(bytes), places = step != 0 ? w->bytes / step : 0;

    return places != 0 ? w->start + (number + nth) % places * step : 0;
}

/* ---- other named heaps ----------------------------------------------------------------------- */

struct meeting {
    uint64_t start, bytes;
    bool found;
};

static bool meets(void *context, int directory, const char *name)
{
    struct meeting *meeting = context;
    struct region_identity other;
    struct stat file;

    if (fstatat(directory, name, &file, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(file.st_mode))
        return true; /* opening it might be noticed by others */
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return true;
    bool heap = pread(fd, &other, sizeof other, 0) == sizeof other && other.magic == REGION_MAGIC;
    close(fd);
    meeting->found |= heap && other.base < meeting->start + meeting->bytes &&
                      meeting->start < other.base + other.bytes;
    return !meeting->found;
}

static bool meets_another(uint64_t start, size_t bytes)
{
    struct meeting meeting = {start, bytes, false};

    shm_each_entry(SHM_DIRECTORY, meets, &meeting);
    return meeting.found;
}

/* ThreadSanitizer allows no mapping there. */
static const struct window *large(bool is_default)
{
    if (__tsan_init != NULL)
        return &nowhere;
    return is_default ? &defaults : &created;
}

/* ---- choosing -------------------------------------------------------------------------------- */

/* A name's places are in the small window first, as long as it has several for a range so long. */
static uint64_t place_of_name(const char *name, size_t bytes, unsigned nth)
{
    bool fits = bytes <= named.bytes / 4;
    uint64_t places = fits ? named.bytes / step_for(bytes) : 0, hash = hash_of(name);
    unsigned first = places < WINDOW_TRIES / 2 ? (unsigned)places : WINDOW_TRIES / 2;

    return nth < first ? place_in(&named, bytes, hash, nth)
                       : place_in(large(false), bytes, hash, nth - first);
}

void *window_place(const char *name, bool is_default, size_t bytes, unsigned nth)
{
    uint64_t place = name != NULL ? place_of_name(name, bytes, nth)
                                  : place_in(large(is_default), bytes, random_number(), nth);

    if (name != NULL && place != 0 && meets_another(place, bytes))
        place = 0;
    return (void *)(uintptr_t)place;
}
