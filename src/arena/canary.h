/* canary.h - what a hardened heap writes into its blocks, and what it then expects to find there.
 *
 *     in use   | what was asked for ........ | pad .... | tail |
 *     free     | mark   | link   | 0 0 0 ............ 0 | tail |
 *
 * The tail is the last eight bytes of a block. It holds a canary, which depends on the block's
 * place and the heap's key, XORed with how many bytes lie behind what was asked for, and with the
 * alignment that was asked for. The bytes between, the pad, repeat the canary's lowest byte. So a
 * write beyond the end changes the pad or the tail. The lowest byte is never 0: the zero that ends
 * a string that is one byte too long is always seen.
 *
 * A free block is filled with zeros (of a large one the first 256 KiB), behind the mark of whoever
 * has it (cache/magazine.h, arena/remote.h), and its tail says that it is free. So a write after
 * the free is seen when the block is handed out again or goes back to its arena, and what is handed
 * out holds zeros.
 *
 * The tail is written by one store, after the pad when a block comes into use, and before the zeros
 * when it is freed. So whoever looks at a block in use, at any moment, finds a tail of one of the
 * two kinds, with a pad that fits it; a process killed in between leaves it so.
 *
 * The technique is that of hardened_malloc (Daniel Micay), which has a canary behind each slot, and
 * zeros what is freed.
 */
#ifndef DVSM_ARENA_CANARY_H
#define DVSM_ARENA_CANARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"

enum {
    CANARY_BYTES = 8,
    CANARY_ROOM = CANARY_BYTES + (8 - WORD), /* to ask for, besides what the user asks for */
    CANARY_LEAST = 24,           /* usable bytes of a block have room for mark, link and tail */
    CANARY_FILL_MOST = 256 << 10 /* bytes of a free block that are filled */
};

/* What faults say. */
#define CANARY_END_WRITTEN "written to beyond its end"
#define CANARY_FREE_WRITTEN "written to after it was freed"

/* A block, by its first byte and how many there are in all, a multiple of 8. */
struct canary_block {
    char *start;
    size_t usable; /* at least CANARY_LEAST */
    size_t key;    /* the heap's */
};

/* `usable`: what the chunk has. Of a 32-bit chunk's, the last word is not used. */
static inline struct canary_block canary_block(const void *start, size_t usable, size_t key)
{
    return (struct canary_block){(char *)(uintptr_t)start,
                                 usable - (WORD < CANARY_BYTES ? usable % CANARY_BYTES : 0), key};
}

enum canary_state {
    CANARY_IN_USE,
    CANARY_FREE,
    CANARY_BROKEN /* something wrote beyond the end; or it never came into use */
};

/* What was asked for; known of a block in use. */
struct canary_request {
    size_t size;
    unsigned alignment; /* as the exponent of 2 */
};

/* ---- the tail. All of this is in the header because each malloc and free of a hardened heap does
 * it; what depends on the block's length is in canary.c unless it is short */

/* Without the canary: bytes behind what was asked for, including the tail, above bit 24; the
 * alignment's exponent above bit 16. All ones above bit 24: the block is free. */
enum { CANARY_BEHIND_SHIFT = 24, CANARY_ALIGNMENT_SHIFT = 16, CANARY_ALIGNMENT_MOST = 0xff };
#define CANARY_TAIL_FREE (~(uint64_t)0 << CANARY_BEHIND_SHIFT)

static inline uint64_t canary_of(struct canary_block b)
{
    uint64_t product = ((uintptr_t)b.start ^ b.key) * UINT64_C(0x9E3779B97F4A7C15);

    return (product ^ product >> 32) | 1; /* multiplicative hashing */
}

static inline uint64_t *canary_tail(struct canary_block b)
{
    return (uint64_t *)(void *)(b.start + b.usable - CANARY_BYTES);
}

static inline uint64_t canary_load_tail(struct canary_block b)
{
    return __atomic_load_n(canary_tail(b), __ATOMIC_ACQUIRE) ^ canary_of(b);
}

static inline uint64_t canary_tail_for(struct canary_block b, struct canary_request r)
{
    return (uint64_t)(b.usable - r.size) << CANARY_BEHIND_SHIFT | (uint64_t)r.alignment
                                                                      << CANARY_ALIGNMENT_SHIFT;
}

/* NB: gcc's ThreadSanitizer knows no fences. */
static inline void canary_fence(void)
{
#if !defined __SANITIZE_THREAD__
    __atomic_thread_fence(__ATOMIC_ACQ_REL);
#endif
}

/* Everybody sees what was stored before it no later, and what is stored after it no earlier. */
static inline void canary_store_tail(struct canary_block b, uint64_t tail)
{
    __atomic_store_n(canary_tail(b), tail ^ canary_of(b), __ATOMIC_RELEASE);
    canary_fence();
}

/* ---- coming into use ------------------------------------------------------------------------- */

static inline void *canary_pad(struct canary_block b, size_t size)
{
    return b.start + size;
}

static inline size_t canary_pad_bytes(struct canary_block b, size_t size)
{
    return b.usable - CANARY_BYTES - size;
}

/* The last CANARY_SHORT bytes before the tail, of which a pad no longer than that has some: in them
 * it is read and written as a whole, since a loop over so few bytes costs more. */
enum { CANARY_SHORT = 16 };

struct canary_end {
    uint64_t words[2];
};

static inline struct canary_end canary_load_end(struct canary_block b)
{
    struct canary_end end;

    memcpy(&end, (char *)canary_tail(b) - CANARY_SHORT, sizeof end);
    return end;
}

/* Ones where the last bytes are, `bytes` of them. */
static inline struct canary_end canary_mask(size_t bytes)
{
    static const uint64_t bits[2 * CANARY_SHORT / 8] = {0, 0, ~(uint64_t)0, ~(uint64_t)0};
    struct canary_end mask;

    memcpy(&mask, (const char *)bits + bytes, sizeof mask);
    return mask;
}

/* The pad, in each byte of a word. */
static inline uint64_t canary_pattern(struct canary_block b)
{
    return (canary_of(b) & 0xff) * UINT64_C(0x0101010101010101);
}

/* NB: not with ThreadSanitizer, which sees that bytes of somebody else's are read. */
static inline bool canary_is_short(size_t pad)
{
#if defined __SANITIZE_THREAD__
    (void)pad;
    return false;
#else
    return likely(pad <= CANARY_SHORT);
#endif
}

/* Gives a block in use another size. What the pad covers is overwritten. */
static inline void canary_rearm(struct canary_block b, struct canary_request r)
{
    size_t pad = canary_pad_bytes(b, r.size);

    if (pad != 0)
        memset(canary_pad(b, r.size), (int)(canary_of(b) & 0xff), pad);
    canary_store_tail(b, canary_tail_for(b, r));
}

/* The same in a copy of the block's last bytes, which ends at `end`. */
static inline void canary_compose(struct canary_block b, struct canary_request r, char *end)
{
    size_t pad = canary_pad_bytes(b, r.size);
    uint64_t tail = canary_tail_for(b, r) ^ canary_of(b);

    memset(end - CANARY_BYTES - pad, (int)(canary_of(b) & 0xff), pad);
    memcpy(end - CANARY_BYTES, &tail, CANARY_BYTES);
}

/* Brings a block into use that nobody else has, not even as memory to write to. NB: inlined, as all
 * that each malloc and free does: the processor would wait for the block's description to pass
 * through the stack. */
static inline __attribute__((always_inline)) void canary_arm(struct canary_block b,
                                                             struct canary_request r)
{
    size_t pad = canary_pad_bytes(b, r.size);
    struct canary_end end = canary_load_end(b);

    if (!canary_is_short(pad)) {
        canary_rearm(b, r);
        return;
    }
    struct canary_end mask = canary_mask(pad);
    for (int i = 0; i < 2; i++)
        end.words[i] = (end.words[i] & ~mask.words[i]) | (canary_pattern(b) & mask.words[i]);
    memcpy((char *)canary_tail(b) - CANARY_SHORT, &end, sizeof end);
    canary_store_tail(b, canary_tail_for(b, r));
}

/* Changes the size of a block in use. Bytes that it gains are 0. */
void canary_resize(struct canary_block b, struct canary_request old, size_t size);

/* ---- looking --------------------------------------------------------------------------------- */

/* Whether all bytes are `value`, which stands in each byte of a word. */
bool canary_all(const char *start, size_t bytes, uint64_t value);

static inline __attribute__((always_inline)) bool canary_is_pad_whole(struct canary_block b,
                                                                      size_t size)
{
    size_t bytes = canary_pad_bytes(b, size);
    uint64_t pattern = canary_pattern(b);

    if (!canary_is_short(bytes))
        return canary_all(canary_pad(b, size), bytes, pattern);
    struct canary_end end = canary_load_end(b), mask = canary_mask(bytes);
    return (((end.words[0] ^ pattern) & mask.words[0]) |
            ((end.words[1] ^ pattern) & mask.words[1])) == 0;
}

/* Looks at a block without changing anything. A pad that does not fit the tail may be that of a
 * block just being freed: then the tail has changed meanwhile. */
static inline __attribute__((always_inline)) enum canary_state
canary_look(struct canary_block b, struct canary_request *asked)
{
    for (;;) {
        uint64_t tail = canary_load_tail(b), behind = tail >> CANARY_BEHIND_SHIFT;

        if (unlikely(tail == CANARY_TAIL_FREE))
            return CANARY_FREE;
        if (unlikely((tail & 0xffff) != 0 || behind < CANARY_BYTES || behind > b.usable))
            return CANARY_BROKEN;
        asked->size = b.usable - (size_t)behind;
        asked->alignment = (unsigned)(tail >> CANARY_ALIGNMENT_SHIFT) & CANARY_ALIGNMENT_MOST;
        if (likely(canary_is_pad_whole(b, asked->size)))
            return CANARY_IN_USE;
        canary_fence();
        if (canary_load_tail(b) == tail)
            return CANARY_BROKEN;
    }
}

/* ---- being free ------------------------------------------------------------------------------ */

static inline size_t canary_fill_bytes(struct canary_block b)
{
    size_t most = b.usable - CANARY_BYTES;

    return most < CANARY_FILL_MOST ? most : CANARY_FILL_MOST;
}

/* Gives a block the tail of a free one. Alone, it is for one that has just been cut from free
 * memory. */
static inline void canary_disarm(struct canary_block b)
{
    canary_store_tail(b, CANARY_TAIL_FREE);
}

/* The same for a block in use, of which canary_look() has just said this. False: somebody else has
 * freed it or changed it since. */
static inline bool canary_claim(struct canary_block b, struct canary_request asked)
{
    uint64_t tail = canary_tail_for(b, asked) ^ canary_of(b);

    return __atomic_compare_exchange_n(canary_tail(b), &tail, CANARY_TAIL_FREE ^ canary_of(b),
                                       false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Fills a block that has the tail of a free one. */
static inline void canary_fill(struct canary_block b)
{
    canary_fence();
    memset(b.start, 0, canary_fill_bytes(b));
    compiler_barrier();
}

/* Whether nobody wrote to a free block, from its byte number `from` on, a multiple of 8. */
static inline bool canary_is_filled(struct canary_block b, size_t from)
{
    return canary_load_tail(b) == CANARY_TAIL_FREE &&
           canary_all(b.start + from, canary_fill_bytes(b) - from, 0);
}

#endif
