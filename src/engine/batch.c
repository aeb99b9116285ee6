/* batch.c - many blocks in one call: independent_calloc, independent_comalloc, bulk_free. */
#include <string.h>

#include "engine/arena_internal.h"

enum { ELEMENT_CACHED_MOST = 1 << 10 };

/* The elements of one call: all of one size, or each with its own size. */
struct batch {
    size_t count;
    const size_t *sizes;
    size_t step; /* 1: sizes[i]; 0: all sizes[0] */
};

/* The chunk size of an element; 0: refused. */
static size_t element_size(const struct batch *b, size_t i)
{
    size_t bytes = b->sizes[i * b->step];

    return bytes >= REQUEST_LIMIT ? 0 : chunk_size_for(bytes);
}

/* The flags in an element's head besides those that say it is in use. Only small elements may be
 * cached: they take little memory there. */
static size_t element_head(size_t size)
{
    return size > ELEMENT_CACHED_MOST ? size | CHUNK_UNCACHED : size;
}

/* The sum of all elements' chunk sizes; false if it overflows. */
static bool contents_size(const struct batch *b, size_t *sum)
{
    if (b->step == 0) {
        size_t size = element_size(b, 0);
        return size != 0 && !__builtin_mul_overflow(size, b->count, sum);
    }
    *sum = 0;
    for (size_t i = 0; i < b->count; i++) {
        size_t size = element_size(b, i);
        if (size == 0 || __builtin_add_overflow(*sum, size, sum))
            return false;
    }
    return true;
}

/* Writes the head of a chunk in use inside c, which was just cut. After a roll back only the first
 * words of the former free chunk are read again, so only a head in those words needs the
 * journal. */
void arena_write_inner_head(struct arena_call *call, const struct chunk *c, struct chunk *inside,
                            size_t size)
{
    if ((size_t)((char *)inside - (const char *)c) < sizeof(struct chunk))
        chunk_set_cut(call->arena, inside, size);
    else
        *(volatile size_t *)&inside->head =
            seal_head(&call->arena->seal, inside, size | PINUSE | CINUSE);
}

/* Splits c in the elements' order; the last element takes the slack. The first head is written
 * last, so c is one chunk until then. */
static void split(struct arena_call *call, const struct batch *b, struct chunk *c, size_t size)
{
    size_t first_size = b->count == 1 ? size : element_size(b, 0);
    struct chunk *element = chunk_at(c, first_size);
    size_t left = size - first_size;

    for (size_t i = 1; i < b->count; i++) {
        size_t part = i + 1 == b->count ? left : element_size(b, i);
        arena_write_inner_head(call, c, element, element_head(part));
        element = chunk_at(element, part);
        left -= part;
    }
    compiler_barrier();
    chunk_set_cut(call->arena, c, element_head(first_size));
}

static void fill_array(struct chunk *c, void **array, size_t count)
{
    for (size_t i = 0; i < count; i++, c = chunk_next(c))
        array[i] = chunk_payload(c);
}

static void **independent(struct arena_call *call, const struct batch *b, bool zero, void **array)
{
    size_t contents = 0, array_size = 0;

    if (b->count == 0)
        return array != NULL ? array : arena_malloc(call, 0);
    if (call->arena->damaged || !contents_size(b, &contents))
        return NULL;
    if (array == NULL) {
        if (b->count >= REQUEST_LIMIT / sizeof(void *))
            return NULL;
        array_size = chunk_size_for(b->count * sizeof(void *));
    }
    if (contents + array_size < contents || contents + array_size - CHUNK_OVERHEAD >= REQUEST_LIMIT)
        return NULL;

    call->no_large = true;
    struct chunk *c = arena_allocate(call, contents + array_size);
    call->no_large = false;
    if (c != NULL) {
        arena_count_used(call, b->count - 1 + (array_size != 0));

        size_t elements = chunk_size(c);
        if (array_size != 0) {
            struct chunk *last = chunk_at(c, contents);
            arena_write_inner_head(call, c, last, elements - contents);
            elements = contents;
        }
        split(call, b, c, elements);
        contents = elements;
    }
    if (!arena_finish(call) || c == NULL)
        return NULL;
    if (array == NULL)
        array = chunk_payload(chunk_at(c, contents));
    fill_array(c, array, b->count);
    if (zero)
        for (size_t i = 0; i < b->count; i++)
            memset(array[i], 0, chunk_usable(chunk_of_payload(array[i])));
    return array;
}

void **arena_independent_calloc(struct arena_call *call, size_t count, size_t bytes, void **array)
{
    struct batch b = {.count = count, .sizes = &bytes, .step = 0};

    return independent(call, &b, true, array);
}

void **arena_independent_comalloc(struct arena_call *call, size_t count, const size_t *sizes,
                                  void **array)
{
    struct batch b = {.count = count, .sizes = sizes, .step = 1};

    return independent(call, &b, false, array);
}

static bool is_mine(const struct arena_call *call, const void *block)
{
    const struct chunk *c = chunk_of_payload(block);

    if (call->source != NULL)
        return call->source->owns(call->source, call->arena, c);
    return arena_segment_of(call->arena, c) != NULL;
}

/* Frees one entry, or joins it with the next one, which then stands for both. A fault in the next
 * entry is found when its turn comes. */
static void free_entry(struct arena_call *call, void **entry, const void *const *end)
{
    struct chunk *c = arena_block_chunk(call, *entry);

    if (c == NULL)
        return;
    if (chunk_is_large(c)) {
        *entry = NULL;
        arena_large_free(call, c);
        return;
    }
    struct chunk *next = chunk_next(c);
    void **follower = entry + 1;
    if ((const void *const *)follower < end && *follower == chunk_payload(next) &&
        arena_header_is_sound(call, next)) {
        chunk_set_size(call->arena, c, chunk_size(c) + chunk_size(next));
        journal_store(arena_journal(call), &next->head, 0); /* so that a second free is noticed */
        arena_count_used(call, -(size_t)1);
        *follower = *entry;
    } else if (arena_dispose(call, c, chunk_size(c)) == FREED_FAULT) {
        return;
    } else {
        arena_count_used(call, -(size_t)1);
    }
    *entry = NULL;
}

size_t arena_bulk_free(struct arena_call *call, void **blocks, size_t count)
{
    const void *const *end = (const void *const *)blocks + count;
    size_t left = 0;

    for (size_t i = 0; i < count && !call->arena->damaged; i++) {
        if (blocks[i] == NULL || !is_mine(call, blocks[i]))
            continue;
        free_entry(call, &blocks[i], end);
        if (!arena_finish(call) || call->arena->pending.bytes != 0)
            break; /* a fault, or the source could not take back a large block just now */
    }
    if (!arena_faulted(call) && call->arena->pending.bytes == 0)
        arena_trim_if_due(call);
    for (size_t i = 0; i < count; i++)
        left += blocks[i] != NULL;
    return left;
}
