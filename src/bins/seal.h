/* seal.h - what tells an overwritten head of a chunk in use from a true one.
 *
 *     head   | seal | size ........................... | flags |
 *             63..48 47                              3 2 .. 0
 *
 * The seal depends on where the chunk is, on all other bits of the head, and on a key, which is
 * random for each heap. The lowest two bytes enter as they are, so any change of these is found: a
 * write of one or two bytes beyond the end of the block before. The upper bytes, which are 0 in
 * small chunks, enter by a product with the key, so that any other value, however it is made,
 * passes with a chance of about 2^-16. Whoever writes the head of a chunk in use seals it, by the
 * same store. P, which changes with the chunk before, takes one bit of the seal with it.
 *
 * With 32 bits a head has no room for a seal, and seal_vouches() asks the next chunk instead.
 */
#ifndef DVSM_BINS_SEAL_H
#define DVSM_BINS_SEAL_H

#include "bins/chunk.h"

struct seal {
    uintptr_t base; /* places are counted from here */
    size_t key;
};

#define SEAL_SMALL_MOST ((size_t)0xffff)

#if HEADS_ARE_SEALED

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
enum { LOWER_HALF = 0, UPPER_HALF = 4 };
#else
enum { LOWER_HALF = 4, UPPER_HALF = 0 };
#endif

/* The lower 32 bits of a block's head: all of a small chunk's size, and the flags. */
static inline half_word seal_lower(const void *payload)
{
    return half_peek((const char *)payload - WORD + LOWER_HALF);
}

/* What the seal must be, in its place in the head. */
static inline size_t seal_of(const struct seal *s, const struct chunk *c, size_t head)
{
    size_t bits = head & (HEAD_SIZE | HEAD_FLAGS), place = ((uintptr_t)c - s->base) / CHUNK_ALIGN;
    size_t upper = (bits >> 16) * (s->key | 1) >> HEAD_SEAL_SHIFT; /* multiplicative hashing */

    return (place ^ bits ^ upper ^ s->key) << HEAD_SEAL_SHIFT;
}

/* Whether the head, read from c, has the seal that a chunk in use must have. */
static inline bool seal_holds(const struct seal *s, const struct chunk *c, size_t head)
{
    return (head & ~(HEAD_SIZE | HEAD_FLAGS)) == seal_of(s, c, head);
}

/* Whether the head, read from c, is that of a chunk in use, as far as its holder can tell without a
 * lock. NB: with 32 bits the next chunk's head is read, so the caller has seen that it lies in a
 * segment. */
static inline bool seal_vouches(const struct seal *s, const struct chunk *c, size_t head)
{
    return seal_holds(s, c, head);
}

/* The same in fewer instructions, for a chunk of at most SEAL_SMALL_MOST bytes. `place`: how many
 * times CHUNK_ALIGN it lies behind the base; `lower`: what seal_lower() says. NB: the two halves of
 * the head may be of different moments, if P is just changing. Then the answer may be no, and
 * seal_vouches() is right. */
static inline bool seal_vouches_small(size_t key, size_t place, const void *payload,
                                      half_word lower)
{
    return (half_word)((place ^ lower ^ key) << 16) ==
           half_peek((const char *)payload - WORD + UPPER_HALF);
}

#define SEAL_PINUSE (PINUSE | PINUSE << HEAD_SEAL_SHIFT)

#else

static inline size_t seal_of(const struct seal *s, const struct chunk *c, size_t head)
{
    (void)s, (void)c, (void)head;
    return 0;
}

static inline bool seal_holds(const struct seal *s, const struct chunk *c, size_t head)
{
    (void)s, (void)c, (void)head;
    return true;
}

static inline bool seal_vouches(const struct seal *s, const struct chunk *c, size_t head)
{
    (void)s;
    return (word_peek(&chunk_at(c, head & HEAD_SIZE)->head) & PINUSE) != 0;
}

static inline half_word seal_lower(const void *payload)
{
    return (half_word)word_peek(&chunk_of_payload(payload)->head);
}

static inline bool seal_vouches_small(size_t key, size_t place, const void *payload,
                                      half_word lower)
{
    (void)key, (void)place;
    return seal_vouches(NULL, chunk_of_payload(payload), lower);
}

#define SEAL_PINUSE PINUSE

#endif

/* Whether c's head is that of a large block. */
static inline bool seal_is_large(const struct seal *s, const struct chunk *c)
{
    return (c->head & HEAD_FLAGS) == 0 && seal_holds(s, c, c->head);
}

/* The head of c, in use, with these size and flags. */
static inline size_t seal_head(const struct seal *s, const struct chunk *c, size_t bits)
{
    return bits | seal_of(s, c, bits);
}

/* A head of a chunk in use, with P set or clear. A wrong seal stays wrong. */
static inline size_t seal_with_prev(size_t head)
{
    return head ^ (~head & PINUSE) * SEAL_PINUSE;
}

static inline size_t seal_without_prev(size_t head)
{
    return head ^ (head & PINUSE) * SEAL_PINUSE;
}

#endif
