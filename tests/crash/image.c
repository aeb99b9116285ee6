/* image.c - copies of a region, page by page. */
#define _GNU_SOURCE
#include "crash/image.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crash/harness.h"

static void *map_zeros(size_t bytes)
{
    void *zeros = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (zeros == MAP_FAILED)
        give_up("no memory for an image of %zu bytes", bytes);
    return zeros;
}

static size_t pages_of(const struct image *image)
{
    return image->mapping->bytes / IMAGE_PAGE;
}

static char *page_at(const struct image *image, size_t page)
{
    return (char *)image->mapping->base + page * IMAGE_PAGE;
}

void image_open(struct image *image, const dvsm_mapping *mapping)
{
    image->mapping = mapping;
    image->copy = map_zeros(mapping->bytes);
    image->present = map_zeros(pages_of(image));
    image->page_hash = map_zeros(pages_of(image) * sizeof *image->page_hash);
    image->hash = 0;
    image->extents = 0;
}

void image_close(struct image *image)
{
    munmap(image->copy, image->mapping->bytes);
    munmap(image->present, pages_of(image));
    munmap(image->page_hash, pages_of(image) * sizeof *image->page_hash);
}

void image_refresh(struct image *image)
{
    int fd = image->mapping->fd;
    off_t start = lseek(fd, 0, SEEK_DATA), end;

    for (image->extents = 0; start >= 0; start = lseek(fd, end, SEEK_DATA)) {
        end = lseek(fd, start, SEEK_HOLE);
        if (image->extents == EXTENTS_MOST)
            give_up("a region in more than %d pieces", EXTENTS_MOST);
        image->now[image->extents++] = (struct extent){(size_t)start, (size_t)end};
    }
}

bool image_differs(const struct image *image)
{
    const char *base = image->mapping->base;

    for (size_t i = 0; i < image->extents; i++) {
        struct extent e = image->now[i];

        if (memcmp(base + e.start, image->copy + e.start, e.end - e.start) != 0)
            return true;
    }
    return false;
}

/* FNV-1a over the page's words and its number. The pages' hashes are added up: hence the number
 * must be part of each. */
static uint64_t hash_page(const char *page, size_t number)
{
    const uint64_t *bits = (const uint64_t *)(const void *)page;
    uint64_t hash = UINT64_C(0xcbf29ce484222325), any = 0;

    for (size_t i = 0; i < IMAGE_PAGE / sizeof *bits; i++) {
        any |= bits[i];
        hash = (hash ^ bits[i]) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
    }
    return any == 0 ? 0 : (hash + number) * UINT64_C(0x9e3779b97f4a7c15);
}

static void set_page(struct image *image, size_t page, uint64_t hash)
{
    image->hash += hash - image->page_hash[page];
    image->page_hash[page] = hash;
}

static void forget_page(struct image *image, size_t page)
{
    image->present[page] = 0;
    memset(image->copy + page * IMAGE_PAGE, 0, IMAGE_PAGE);
    set_page(image, page, 0);
}

static void save_page(struct image *image, size_t page)
{
    char *copy = image->copy + page * IMAGE_PAGE;

    image->present[page] = 1;
    if (memcmp(copy, page_at(image, page), IMAGE_PAGE) == 0)
        return;
    memcpy(copy, page_at(image, page), IMAGE_PAGE);
    set_page(image, page, hash_page(copy, page));
}

void image_save(struct image *image)
{
    size_t page = 0;

    image_refresh(image);
    for (size_t i = 0; i < image->extents; i++) {
        for (; page < image->now[i].start / IMAGE_PAGE; page++)
            if (image->present[page])
                forget_page(image, page);
        for (; page < image->now[i].end / IMAGE_PAGE; page++)
            save_page(image, page);
    }
    for (; page < pages_of(image); page++)
        if (image->present[page])
            forget_page(image, page);
}

static void restore_page(const struct image *image, size_t page)
{
    const char *copy = image->copy + page * IMAGE_PAGE;

    if (!image->present[page])
        madvise(page_at(image, page), IMAGE_PAGE, MADV_REMOVE);
    else if (memcmp(page_at(image, page), copy, IMAGE_PAGE) != 0)
        memcpy(page_at(image, page), copy, IMAGE_PAGE);
}

void image_restore(struct image *image)
{
    size_t page = 0;

    image_refresh(image);
    for (size_t i = 0; i < image->extents; i++) {
        for (; page < image->now[i].start / IMAGE_PAGE; page++)
            if (image->present[page])
                memcpy(page_at(image, page), image->copy + page * IMAGE_PAGE, IMAGE_PAGE);
        for (; page < image->now[i].end / IMAGE_PAGE; page++)
            restore_page(image, page);
    }
    for (; page < pages_of(image); page++)
        if (image->present[page])
            memcpy(page_at(image, page), image->copy + page * IMAGE_PAGE, IMAGE_PAGE);
    image_refresh(image);
}
