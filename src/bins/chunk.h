/* chunk.h - the layout of a chunk: header, payload, boundary tags.
 *
 * Memory of an arena is a row of chunks without gaps. W is the size of a word.
 *
 *       chunk ->  +--------------------------------+
 *                 | prev_foot: size of the chunk   |  valid only while that one is free; else the
 *                 | before                         |  last word of its payload
 *                 +--------------------------+-+-+-+
 *                 | head: seal, size         |U|C|P|  P: the chunk before is in use; C: this one
 *     payload ->  +--------------------------+-+-+-+  U: in use, and not to be cached
 *                 | fd, bk                         |  free chunks: neighbours in a list or ring
 *                 | child[2], parent               |  free chunks of 256 bytes and more: the tree
 *                 | ...                            |
 *                 +--------------------------------+  <- the next chunk, whose prev_foot is this
 *                                                        one's last word
 *
 * A free chunk has P set (two free neighbours are always merged). Its size stands again in the next
 * chunk's prev_foot, and P is clear in the next chunk. P and C both clear: a large block, alone in
 * its run of granules. A fence, W | 3, marks the end of a segment. The first fence, behind the
 * segment's record, has P clear, and the record has U set: so the record, which nobody may free,
 * never looks like a block in use, even on the shortest path. Overhead of a chunk in use: W. A
 * chunk with U set is never cached: it is freed straight to the arena, where it joins what is free
 * around it. Such a chunk was aligned by request and has a free lead, or was cut side by side with
 * others. In the cache, it would keep such requests from finding room there again. Addresses and
 * sizes are multiples of CHUNK_ALIGN. With 64 bits, the upper 16 bits of the head of a chunk in use
 * are its seal (seal.h); those of a free chunk, of top and of a fence are 0.
 */
#ifndef DVSM_BINS_CHUNK_H
#define DVSM_BINS_CHUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct MAY_ALIAS chunk {
    size_t prev_foot;
    size_t head;
    struct chunk *fd;
    struct chunk *bk;
    struct chunk *child[2];
    struct chunk *parent;
};

#define PINUSE ((size_t)1)
#define CINUSE ((size_t)2)
#define CHUNK_UNCACHED ((size_t)4)
#define HEAD_FLAGS ((size_t)7)

/* The bits of a head that hold the size; those above are the seal's. */
#if SIZE_MAX > 0xffffffff
#define HEADS_ARE_SEALED 1
#define HEAD_SEAL_SHIFT 48
#define HEAD_SIZE ((((size_t)1 << HEAD_SEAL_SHIFT) - 1) & ~HEAD_FLAGS)
#else
#define HEADS_ARE_SEALED 0
#define HEAD_SIZE (~HEAD_FLAGS)
#endif

#define CHUNK_ALIGN (2 * WORD)
#define CHUNK_OVERHEAD WORD
#define CHUNK_HEADER (2 * WORD)
#define CHUNK_MIN (4 * WORD)
#define CHUNK_FENCE (WORD | PINUSE | CINUSE)
#define CHUNK_FIRST_FENCE (WORD | CINUSE)

/* Stands in the second half of a block's first eight bytes while the block is freed but not yet its
 * arena's. The first half says where the block is (cache/magazine.h, arena/remote.h). The mark is
 * the upper half of no address and of no usual number. */
#define CHUNK_FREED_MARK 0xd5a7c3e9

/* Requests of this size and more are refused, so that the difference of two pointers into a block
 * fits into a ptrdiff_t. */
#define REQUEST_LIMIT ((size_t)PTRDIFF_MAX + 1)

static inline size_t chunk_size(const struct chunk *c)
{
    return c->head & HEAD_SIZE;
}

static inline bool chunk_prev_in_use(const struct chunk *c)
{
    return (c->head & PINUSE) != 0;
}

static inline bool chunk_marked_in_use(const struct chunk *c)
{
    return (c->head & CINUSE) != 0;
}

static inline bool chunk_is_uncached(const struct chunk *c)
{
    return (c->head & CHUNK_UNCACHED) != 0;
}

/* Whether the low bits of a head are those of a chunk in use, in a segment. */
static inline bool chunk_flags_in_use(size_t head)
{
    return (head & (CHUNK_ALIGN - 1) & ~(PINUSE | CHUNK_UNCACHED)) == CINUSE;
}

static inline bool chunk_is_large(const struct chunk *c)
{
    return (c->head & (PINUSE | CINUSE)) == 0;
}

static inline bool chunk_is_free(const struct chunk *c)
{
    return (c->head & (PINUSE | CINUSE)) == PINUSE;
}

static inline struct chunk *chunk_at(const void *base, size_t offset)
{
    return (struct chunk *)((uintptr_t)base + offset);
}

static inline struct chunk *chunk_next(const struct chunk *c)
{
    return chunk_at(c, chunk_size(c));
}

static inline void *chunk_payload(const struct chunk *c)
{
    return (void *)((uintptr_t)c + CHUNK_HEADER);
}

static inline struct chunk *chunk_of_payload(const void *payload)
{
    return (struct chunk *)((uintptr_t)payload - CHUNK_HEADER);
}

/* Bytes the user may write: a large block has no chunk after it whose prev_foot it could use. */
static inline size_t chunk_usable(const struct chunk *c)
{
    return chunk_size(c) - (chunk_is_large(c) ? CHUNK_HEADER : CHUNK_OVERHEAD);
}

/* The size of the chunk that serves a request; `request` is below REQUEST_LIMIT. */
static inline size_t chunk_size_for(size_t request)
{
    if (request < CHUNK_MIN - CHUNK_OVERHEAD)
        return CHUNK_MIN;
    return (request + CHUNK_OVERHEAD + CHUNK_ALIGN - 1) & ~(CHUNK_ALIGN - 1);
}

static inline bool chunk_is_aligned(const void *c)
{
    return ((uintptr_t)c & (CHUNK_ALIGN - 1)) == 0;
}

#endif
