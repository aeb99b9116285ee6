/* image.h - a copy of a heap's region: saved, compared with, put back.
 *
 * Only pages that the region's file has are read: reading a hole would put a page there. A missing
 * page counts as zeros. The list of pages must be refreshed after anything that may have added or
 * removed pages (a system call of a tracee).
 *
 *     image_open      makes an empty copy of that mapping's size
 *     image_refresh   finds out which pages there are now
 *     image_differs   whether any byte is not as saved
 *     image_save      makes the copy like the region
 *     image_restore   makes the region like the copy
 */
#ifndef DVSM_TESTS_CRASH_IMAGE_H
#define DVSM_TESTS_CRASH_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dvsm/backend.h"

enum { IMAGE_PAGE = 4096, EXTENTS_MOST = 1024 };

struct extent {
    size_t start, end; /* bytes from the base; whole pages */
};

struct image {
    const dvsm_mapping *mapping;
    char *copy;             /* zeros where the region had no page */
    unsigned char *present; /* by page: the region had one */
    uint64_t *page_hash;    /* by page: 0 for a page of zeros */
    uint64_t hash;          /* of all pages together */
    struct extent now[EXTENTS_MOST];
    size_t extents;
};

void image_open(struct image *image, const dvsm_mapping *mapping);
void image_close(struct image *image);
void image_refresh(struct image *image);
bool image_differs(const struct image *image);
void image_save(struct image *image);
void image_restore(struct image *image);

#endif
