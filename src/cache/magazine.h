/* magazine.h - a page of pointers to free blocks of one class.
 *
 *     magazine ->  +------+--------+--------+-----+---------+     512 bytes, so aligned: 62 slots
 *                  | link | slot 1 | slot 2 | ... | slot n  |     (128 and 14 in coarse classes, 64
 *                  +------+--------+--------+-----+---------+     and 6 in wide ones)
 *                                    ^
 *     word  ->  ---------------------+ + 1    the next slot to fill: here it holds one block
 *
 * One word names a magazine and how many blocks are in it, so that both change by one store. The
 * word is the address of the next slot to fill, + 1. In this form the word 0, that of a lane that
 * was never used, looks empty and full at once. The link of a magazine in a depot's list holds the
 * next magazine's word.
 */
#ifndef DVSM_CACHE_MAGAZINE_H
#define DVSM_CACHE_MAGAZINE_H

#include "base/compiler.h"
#include "cache/classes.h"

enum {
    MAGAZINE_BYTES = 512,
    MAGAZINE_COARSE_BYTES = 128,
    MAGAZINE_WIDE_BYTES = 64,
    CACHE_LINE = 64
};

struct magazine {
    word link;
    word slot[]; /* slot[i] is called slot i + 1 above */
};

static inline size_t magazine_bytes(unsigned cls)
{
    if (cls <= CLASS_EXACT_LAST)
        return MAGAZINE_BYTES;
    return cls <= CLASS_COARSE_LAST ? MAGAZINE_COARSE_BYTES : MAGAZINE_WIDE_BYTES;
}

/* How many blocks a magazine of the class can hold; its last word is never used for a block. */
static inline size_t magazine_capacity(unsigned cls)
{
    return magazine_bytes(cls) / WORD - 2;
}

static inline struct magazine *magazine_of(unsigned cls, word w)
{
    return (struct magazine *)(w & ~(word)(magazine_bytes(cls) - 1));
}

static inline size_t magazine_count(unsigned cls, word w)
{
    return w == 0 ? 0 : (w & (magazine_bytes(cls) - 1)) / WORD - 1;
}

static inline word magazine_word(const struct magazine *m, size_t count)
{
    return (word)(uintptr_t)&m->slot[count] + 1;
}

static inline bool magazine_is_empty(unsigned cls, word w)
{
    return (w & (magazine_bytes(cls) - 2 * WORD)) == 0;
}

static inline bool magazine_is_full(unsigned cls, word w)
{
    return ((w + WORD) & (magazine_bytes(cls) - 2 * WORD)) == 0;
}

/* Prefetches all of a magazine that is going to be loaded, and was used long ago.
 * NB: always inlined: gcc removes calls of a function that only prefetches, as without effect. */
static inline __attribute__((always_inline)) void magazine_expect(unsigned cls, word w)
{
    const char *m = (const char *)magazine_of(cls, w);

    for (size_t i = 0; i < magazine_bytes(cls); i += CACHE_LINE)
        __builtin_prefetch(m + i);
}

/* A cached block's mark: its first four bytes hold the lower half of the word that the block was
 * pushed by, its next four MAGAZINE_MARK, which is the upper half of no address and of no usual
 * number. This second half is written last; it alone decides, and only it is cleared.
 *  - The deciding half is not in the first four bytes: a program that has just written a byte or an
 *    int there would make the processor wait for that store.
 *  - It is not beyond the first eight: malloc clears it at an address that is known late, and such
 *    a store can hold up the program's own loads from places with the same lowest twelve bits (seen
 *    on Zen 4). The program itself soon writes to the first eight bytes; a mark at a second place
 *    cost rings of blocks a tenth.
 * A program that still writes to a block that it has freed may destroy the mark: then a second free
 * of the block is not seen. */
#define MAGAZINE_MARK CHUNK_FREED_MARK
enum { MAGAZINE_MARK_BYTES = 8 };

static inline half_word *magazine_mark(const void *block)
{
    return (half_word *)(uintptr_t)block;
}

static inline bool magazine_is_marked(const void *block)
{
    return magazine_mark(block)[1] == MAGAZINE_MARK;
}

/* Whether the block has what looks like a mark in both halves. */
static inline bool magazine_has_mark(const void *block)
{
    return magazine_is_marked(block) && magazine_mark(block)[0] % WORD == 1;
}

static inline void magazine_set_mark(void *block, word w)
{
    magazine_mark(block)[0] = (half_word)w;
    compiler_barrier();
    magazine_mark(block)[1] = MAGAZINE_MARK;
}

static inline void magazine_clear_mark(void *block)
{
    magazine_mark(block)[1] = 0;
}

/* Marks all blocks of the magazine. */
static inline void magazine_set_marks(unsigned cls, word w)
{
    const struct magazine *m = magazine_of(cls, w);

    for (size_t i = 0; i < magazine_count(cls, w); i++)
        magazine_set_mark((void *)m->slot[i], magazine_word(m, i));
}

/* magazine_next: the slot that the next block goes to; magazine_last: the one that the next block
 * comes from. */
static inline word *magazine_next(word w)
{
    return (word *)(w - 1);
}

static inline word *magazine_last(word w)
{
    return (word *)(w - 1) - 1;
}

#endif
