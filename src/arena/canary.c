/* canary.c - what depends on a block's length. */
#include "arena/canary.h"

/* Up to so many bytes a loop over words is faster than a call. */
enum { FEW = 256 };

static uint64_t load(const char *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

/* The last eight bytes are looked at once more, or alone. */
bool canary_all(const char *start, size_t bytes, uint64_t value)
{
    const char *end = start + bytes;
    uint64_t other = 0;

    if (bytes < sizeof value) {
        for (; start < end; start++)
            other |= (unsigned char)*start ^ (value & 0xff);
        return other == 0;
    }
    if (bytes > FEW)
        return load(start) == value &&
               memcmp(start, start + sizeof value, bytes - sizeof value) == 0;
    for (; start + 4 * sizeof value <= end; start += 4 * sizeof value)
        other |= (load(start) ^ value) | (load(start + 8) ^ value) | (load(start + 16) ^ value) |
                 (load(start + 24) ^ value);
    for (; start + sizeof value <= end; start += sizeof value)
        other |= load(start) ^ value;
    return (other | (load(end - sizeof value) ^ value)) == 0;
}

void canary_resize(struct canary_block b, struct canary_request old, size_t size)
{
    struct canary_request new = {size, old.alignment};

    if (size <= old.size) {
        canary_rearm(b, new);
        return;
    }
    canary_store_tail(b, canary_tail_for(b, new));
    memset(b.start + old.size, 0, size - old.size);
}
