/* test_wrong_use.c - wrong pointers and overwritten metadata: each is found, and nothing else
 * suffers.
 *
 * Every case is played twice, each time in a child with a heap of its own. The default handler must
 * print its line and abort. After a handler that returns, the call must have failed with EINVAL,
 * and the heap must go on allocating; an arena whose metadata is damaged is set aside.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "dvsm/dvsm.h"
#include "support/child.h"

enum { KIB = 1 << 10, MIB = 1 << 20, W = sizeof(void *) };

/* The heap of a case, and what the case found out. */
struct scene {
    dvsm_heap *heap;
    const void *address; /* the fault must name it; NULL: not compared */
    bool failed;         /* the wrong call did not fail as it should */
};

struct wrong_use {
    const char *name;
    void (*act)(struct scene *scene);
    const char *function; /* as messages name it */
    const char *what;
    bool damage;
    bool no_heap;    /* the message cannot name one */
    bool arena_only; /* needs the block in the arena, not in the cache */
    bool cached;     /* set for each play */
};

/* Hides from the compiler what is done to the block. */
static void *hidden(void *block)
{
    void *volatile copy = block;

    return copy;
}

/* A word of the heap's memory, counted from the block's first byte. */
static size_t *word_at(void *block, ptrdiff_t words)
{
    return (size_t *)hidden(block) + words;
}

static void free_wrong(void *block)
{
    dvsm_free(hidden(block));
}

/* Expects that the call failed with EINVAL. */
static void expect_einval(struct scene *scene, bool failed)
{
    if (!failed || errno != EINVAL)
        scene->failed = true;
    errno = 0;
}

/* A block with blocks in use on both sides. */
static void *surrounded(struct scene *scene, size_t size)
{
    void *before = dvsm_heap_malloc(scene->heap, size);
    void *block = dvsm_heap_malloc(scene->heap, size);
    void *after = dvsm_heap_malloc(scene->heap, size);

    return before != NULL && after != NULL ? block : NULL;
}

/* Bytes from the block to the next one. */
static size_t chunk_bytes(const void *block)
{
    return dvsm_malloc_usable_size((void *)(uintptr_t)block) + W;
}

/* A free chunk in its bin, as large as for a request of that size, between blocks in use. */
static void *free_chunk(struct scene *scene, size_t size)
{
    void *block = surrounded(scene, size);

    dvsm_free(block);
    return block;
}

/* ---- wrong pointers */

static void free_twice(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    scene->address = block;
    dvsm_free(block);
    free_wrong(block);
}

static void free_twice_with_others_between(struct scene *scene)
{
    void *block = surrounded(scene, 3000);

    scene->address = block;
    dvsm_free(block);
    dvsm_free(surrounded(scene, 5000));
    free_wrong(block);
}

static void free_the_last_block_twice(struct scene *scene)
{
    surrounded(scene, 100);
    void *block = dvsm_heap_malloc(scene->heap, 100);

    scene->address = block;
    dvsm_free(block); /* merges with what follows */
    free_wrong(block);
}

static void free_a_merged_block_twice(struct scene *scene)
{
    char *low = surrounded(scene, 100);
    char *high = low + chunk_bytes(low); /* the block behind */

    dvsm_heap_malloc(scene->heap, 100);
    dvsm_free(low);
    dvsm_free(high); /* merges with the one before */
    free_wrong(high);
}

static void free_a_large_block_twice(struct scene *scene)
{
    dvsm_heap_malloc(scene->heap, 100);
    void *block = dvsm_heap_malloc(scene->heap, MIB);

    scene->address = block;
    dvsm_free(block);
    free_wrong(block);
}

static void free_inside_a_block(struct scene *scene)
{
    char *block = surrounded(scene, 1000);

    memset(block, 0, 1000);
    scene->address = block + 16 * W;
    free_wrong(block + 16 * W);
}

static void free_inside_a_block_with_a_false_header(struct scene *scene)
{
    char *block = surrounded(scene, 1000);

    memset(block, 0, 1000);
    *word_at(block, 15) = 8 * W | 1; /* says that it is a free chunk */
    free_wrong(block + 16 * W);
}

static void free_misaligned(struct scene *scene)
{
    char *block = surrounded(scene, 1000);

    scene->address = block + 1;
    free_wrong(block + 1);
}

static void free_inside_a_large_block(struct scene *scene)
{
    dvsm_heap_malloc(scene->heap, 100);
    char *block = dvsm_heap_malloc(scene->heap, MIB);

    memset(block, 0, MIB);
    scene->address = block + 512 * KIB;
    free_wrong(block + 512 * KIB);
}

/* A large block full of words that could be headers, with a block of a segment behind it. */
static void *large_of_false_headers(struct scene *scene)
{
    dvsm_heap_malloc(scene->heap, 100);
    void *block = dvsm_heap_malloc(scene->heap, MIB);

    dvsm_heap_malloc(scene->heap, 200 * KIB);
    for (size_t i = 0; i < MIB / W; i++)
        *word_at(block, (ptrdiff_t)i) = 8 * W | 3;
    return block;
}

static void free_inside_a_large_block_of_false_headers(struct scene *scene)
{
    char *block = large_of_false_headers(scene);

    scene->address = block + 512 * KIB;
    free_wrong(block + 512 * KIB);
    for (size_t i = 0; i < MIB / W; i++)
        if (*word_at(block, (ptrdiff_t)i) != (8 * W | 3))
            scene->failed = true;
}

static void free_inside_free_memory(struct scene *scene)
{
    char *block = free_chunk(scene, 1000);

    memset(block + 10 * W, 0, 100);
    free_wrong(block + 16 * W);
}

static void free_of_the_stack(struct scene *scene)
{
    int local[8] = {0};

    scene->address = local;
    free_wrong(local);
}

static void free_of_another_malloc(struct scene *scene)
{
    void *foreign = malloc(100);

    scene->address = foreign;
    free_wrong(foreign);
    free(foreign);
}

static void free_of_a_constant(struct scene *scene)
{
    scene->address = (void *)(uintptr_t)16;
    free_wrong((void *)(uintptr_t)16);
}

static void free_of_the_highest_address(struct scene *scene)
{
    (void)scene;
    free_wrong((void *)(UINTPTR_MAX - 15));
}

static void free_in_the_metadata(struct scene *scene)
{
    char *block = surrounded(scene, 100);

    /* The region begins well below the first block, on its own pages. */
    free_wrong((void *)((uintptr_t)block / (64 * KIB) * (64 * KIB) - 4 * KIB));
}

static void free_beyond_what_was_used(struct scene *scene)
{
    char *block = surrounded(scene, 100);

    free_wrong(block + 16 * MIB);
}

static void free_of_a_destroyed_heap(struct scene *scene)
{
    dvsm_heap *other = dvsm_heap_create(NULL);
    void *block = dvsm_heap_malloc(other, 100);

    scene->failed = dvsm_heap_destroy(other) != 0;
    scene->address = block;
    free_wrong(block);
}

static void free_sized_twice(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    dvsm_free_sized(block, 100);
    dvsm_free_sized(hidden(block), 100);
}

static void free_aligned_sized_twice(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    dvsm_free_aligned_sized(block, 16, 100);
    dvsm_free_aligned_sized(hidden(block), 16, 100);
}

static void realloc_after_free(struct scene *scene)
{
    void *block = free_chunk(scene, 100);

    expect_einval(scene, dvsm_realloc(hidden(block), 200) == NULL);
}

static void reallocarray_of_the_stack(struct scene *scene)
{
    int local[8] = {0};

    expect_einval(scene, dvsm_reallocarray(hidden(local), 2, 8) == NULL);
}

static void realloc_in_place_inside_a_block(struct scene *scene)
{
    char *block = memset(surrounded(scene, 1000), 0, 1000);

    expect_einval(scene, dvsm_realloc_in_place(hidden(block + 16 * W), 50) == NULL);
}

static void usable_size_after_free(struct scene *scene)
{
    void *block = free_chunk(scene, 100);

    expect_einval(scene, dvsm_malloc_usable_size(hidden(block)) == 0);
}

static void heap_realloc_after_free(struct scene *scene)
{
    void *block = free_chunk(scene, 100);

    expect_einval(scene, dvsm_heap_realloc(scene->heap, hidden(block), 200) == NULL);
}

static void bulk_free_with_one_twice(struct scene *scene)
{
    void *block = surrounded(scene, 100);
    void *blocks[] = {surrounded(scene, 50), block, surrounded(scene, 200), block,
                      surrounded(scene, 300)};

    expect_einval(scene, dvsm_bulk_free(hidden(blocks), 5) == 1);
    if (blocks[3] != block || blocks[4] != NULL)
        scene->failed = true;
}

/* The block before the wrong one is freed all the same, and there is one fault only. */
static void bulk_free_with_a_free_neighbour(struct scene *scene)
{
    char *low = surrounded(scene, 500);
    char *high = low + chunk_bytes(low); /* the block behind */
    void *blocks[] = {low, high};

    dvsm_heap_malloc(scene->heap, 100);
    dvsm_free(high);
    scene->address = high;
    expect_einval(scene, dvsm_bulk_free(hidden(blocks), 2) == 1);
    if (blocks[0] != NULL || blocks[1] != high)
        scene->failed = true;
}

/* ---- overwritten metadata */

static void header_of_zeroes(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    *word_at(block, -1) = 0;
    free_wrong(block);
}

static void header_of_ones(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    *word_at(block, -1) = SIZE_MAX;
    free_wrong(block);
}

static void header_of_text(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    memset(word_at(block, -1), 'x', W);
    free_wrong(block);
}

static void header_of_a_larger_size(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    *word_at(block, -1) += 16 * W;
    free_wrong(block);
}

/* The string in one block is too long. Which blocks lie side by side is the cache's choice. */
static void header_of_the_next_block(struct scene *scene)
{
    enum { BLOCKS = 50 };
    char *block[BLOCKS];

    for (size_t i = 0; i < BLOCKS; i++)
        block[i] = dvsm_heap_malloc(scene->heap, 100);
    for (size_t i = 0; i < BLOCKS * BLOCKS; i++) {
        char *low = block[i / BLOCKS], *high = block[i % BLOCKS];

        if (high == low + chunk_bytes(low)) {
            memset(low, 0, (size_t)(high - low) + 10);
            free_wrong(high);
            return;
        }
    }
}

static void header_before_realloc(struct scene *scene)
{
    void *block = surrounded(scene, 100);

    *word_at(block, -1) = 0x1234560;
    expect_einval(scene, dvsm_realloc(block, 300) == NULL);
}

static void header_before_bulk_free(struct scene *scene)
{
    void *block = surrounded(scene, 100);
    void *blocks[] = {surrounded(scene, 50), block, surrounded(scene, 200)};

    *word_at(block, -1) = 0x1234560;
    expect_einval(scene, dvsm_bulk_free(hidden(blocks), 3) >= 1);
}

/* Overwrites the size of the free chunk before a block: with it free finds the chunk to merge
 * with. */
static void foot_of_the_block_before(struct scene *scene)
{
    void *block = surrounded(scene, 100);
    size_t size = chunk_bytes(block);
    char *after = (char *)block + size;

    dvsm_free(block);
    *word_at(after, -2) = 0x7fff0; /* the free chunk's size, which is at its end */
    free_wrong(after);
}

static void head_of_a_free_chunk(struct scene *scene)
{
    void *block = free_chunk(scene, 100);

    *word_at(block, -1) = 0x70 * W | 1;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 100) == NULL);
}

/* A write to a freed block overwrites the links of the list that it waits in. */
static void link_fd(struct scene *scene)
{
    void *block = free_chunk(scene, 100);

    *word_at(block, 0) = 0x4141414141414141 & SIZE_MAX;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 100) == NULL);
}

static void link_bk(struct scene *scene)
{
    void *block = free_chunk(scene, 100);

    *word_at(block, 1) = 0;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 100) == NULL);
}

/* The link leads to a place inside the heap that looks like another list. */
static void link_to_a_false_chunk(struct scene *scene)
{
    char *false_chunk = surrounded(scene, 200);
    void *block = free_chunk(scene, 100);

    memset(false_chunk, 0, 200);
    *word_at(block, 0) = (size_t)(uintptr_t)false_chunk;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 100) == NULL);
}

/* The damage is not in the block but in the free chunk that it would move to: that chunk's bin
 * is searched before any larger chunk. */
static void link_met_in_moving(struct scene *scene)
{
    void *block = surrounded(scene, 30), *room = free_chunk(scene, 100);

    *word_at(room, 0) = 0x4141414141414141 & SIZE_MAX;
    expect_einval(scene, dvsm_realloc(block, 100) == NULL);
}

static void link_met_in_merging(struct scene *scene)
{
    char *block = surrounded(scene, 100);
    size_t size = chunk_bytes(block);

    dvsm_free(block);
    *word_at(block, 1) = 0;
    free_wrong(block + size); /* joins the block before */
}

/* Three free chunks of different sizes in one tree: a root with children. */
struct tree {
    void *root, *child;
};

static struct tree plant(struct scene *scene)
{
    struct tree tree = {surrounded(scene, 2500), NULL};
    void *left = surrounded(scene, 2200);

    tree.child = surrounded(scene, 2900);
    dvsm_free(tree.root);
    dvsm_free(left);
    dvsm_free(tree.child);
    return tree;
}

static void tree_child_left(struct scene *scene)
{
    struct tree tree = plant(scene);

    *word_at(tree.root, 2) = 0x4141414141414141 & SIZE_MAX;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 2150) == NULL);
}

static void tree_child_right(struct scene *scene)
{
    struct tree tree = plant(scene);

    *word_at(tree.root, 3) = 8 * W;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 2890) == NULL);
}

/* A link leads back up: without a bound a search would never end. */
static void tree_cycle(struct scene *scene)
{
    struct tree tree = plant(scene);

    *word_at(tree.root, 2) = (size_t)(uintptr_t)tree.root - 2 * W;
    *word_at(tree.root, 3) = (size_t)(uintptr_t)tree.root - 2 * W;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 2150) == NULL);
}

static void tree_cycle_met_in_inserting(struct scene *scene)
{
    struct tree tree = plant(scene);
    void *block = surrounded(scene, 3000);

    *word_at(tree.root, 2) = (size_t)(uintptr_t)tree.root - 2 * W;
    *word_at(tree.root, 3) = (size_t)(uintptr_t)tree.root - 2 * W;
    free_wrong(block);
}

static void tree_parent(struct scene *scene)
{
    struct tree tree = plant(scene);

    *word_at(tree.child, 4) = 0x4141414141414141 & SIZE_MAX;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 2900) == NULL);
}

static void tree_ring(struct scene *scene)
{
    void *one = surrounded(scene, 2500), *other = surrounded(scene, 2500);

    dvsm_free(one);
    dvsm_free(other);
    *word_at(one, 0) = (size_t)(uintptr_t)other + 8 * W;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 2500) == NULL);
}

static void tree_head(struct scene *scene)
{
    void *block = free_chunk(scene, 2500);

    *word_at(block, -1) += 160 * W;
    expect_einval(scene, dvsm_heap_malloc(scene->heap, 2000) == NULL);
}

/* A string that is too long overwrites the header behind the last block, which is top's. */
static void header_of_top(struct scene *scene)
{
    char *last = dvsm_heap_malloc(scene->heap, 100);

    memset(last, 0, 120);
    free_wrong(last);
}

static void header_of_a_large_block(struct scene *scene)
{
    dvsm_heap_malloc(scene->heap, 100);
    void *block = dvsm_heap_malloc(scene->heap, MIB);

    *word_at(block, -1) += 64 * KIB;
    free_wrong(block);
    *word_at(block, -1) -= 64 * KIB;
}

/* The large block's size leads to the segment behind it, as if it were an ordinary block of the
 * same arena that ends where another begins. */
static void header_of_a_large_block_as_of_a_small_one(struct scene *scene)
{
    void *block = large_of_false_headers(scene);

    *word_at(block, -1) |= 3;
    free_wrong(block);
    *word_at(block, -1) &= ~(size_t)3;
}

static void header_that_leads_into_a_large_block(struct scene *scene)
{
    void *block = surrounded(scene, 1000);
    char *large = large_of_false_headers(scene);

    *word_at(block, -1) = (size_t)(large + 64 * KIB - (char *)block) | 3;
    free_wrong(block);
    for (size_t i = 0; i < MIB / W; i++)
        if (*word_at(large, (ptrdiff_t)i) != (8 * W | 3))
            scene->failed = true;
}

#define NO_POINTER "not a pointer from any heap mapped here"

static const struct wrong_use wrong_uses[] = {
    {"free twice", free_twice, "dvsm_free", "double free", false, false, false, false},
    {"free twice, later", free_twice_with_others_between, "dvsm_free", "double free", false, false,
     false, false},
    {"free the last block twice", free_the_last_block_twice, "dvsm_free", "double free", false,
     false, false, false},
    {"free a merged block twice", free_a_merged_block_twice, "dvsm_free", "free", false, false,
     true, false},
    {"free a large block twice", free_a_large_block_twice, "dvsm_free", "not a block of this heap",
     false, false, false, false},
    {"free inside a block", free_inside_a_block, "dvsm_free", "pointer into a block", false, false,
     false, false},
    {"free inside a block, false header", free_inside_a_block_with_a_false_header, "dvsm_free",
     "pointer into a block", false, false, false, false},
    {"free misaligned", free_misaligned, "dvsm_free", "misaligned", false, false, false, false},
    {"free inside a large block", free_inside_a_large_block, "dvsm_free", "", false, false, false,
     false},
    {"free inside a large block of false headers", free_inside_a_large_block_of_false_headers,
     "dvsm_free", "not the start of a large block", false, false, false, false},
    {"free inside free memory", free_inside_free_memory, "dvsm_free", "pointer into free memory",
     false, false, true, false},
    {"free of the stack", free_of_the_stack, "dvsm_free", NO_POINTER, false, true, false, false},
    {"free of another malloc", free_of_another_malloc, "dvsm_free", NO_POINTER, false, true, false,
     false},
    {"free of a constant", free_of_a_constant, "dvsm_free", NO_POINTER, false, true, false, false},
    {"free of the highest address", free_of_the_highest_address, "dvsm_free", NO_POINTER, false,
     true, false, false},
    {"free in the metadata", free_in_the_metadata, "dvsm_free", "not a block of this heap", false,
     false, false, false},
    {"free beyond what was used", free_beyond_what_was_used, "dvsm_free",
     "not a block of this heap", false, false, false, false},
    {"free of a destroyed heap", free_of_a_destroyed_heap, "dvsm_free", NO_POINTER, false, true,
     false, false},
    {"free_sized twice", free_sized_twice, "dvsm_free_sized", "double free", false, false, false,
     false},
    {"free_aligned_sized twice", free_aligned_sized_twice, "dvsm_free_aligned_sized", "double free",
     false, false, false, false},
    {"realloc after free", realloc_after_free, "dvsm_realloc", "double free", false, false, false,
     false},
    {"reallocarray of the stack", reallocarray_of_the_stack, "dvsm_reallocarray", NO_POINTER, false,
     true, false, false},
    {"realloc_in_place inside a block", realloc_in_place_inside_a_block, "dvsm_realloc_in_place",
     "pointer into a block", false, false, false, false},
    {"usable size after free", usable_size_after_free, "dvsm_malloc_usable_size", "double free",
     false, false, false, false},
    {"heap_realloc after free", heap_realloc_after_free, "dvsm_heap_realloc", "double free", false,
     false, false, false},
    {"bulk_free with one twice", bulk_free_with_one_twice, "dvsm_bulk_free", "double free", false,
     false, false, false},
    {"bulk_free with a free neighbour", bulk_free_with_a_free_neighbour, "dvsm_bulk_free", "free",
     false, false, true, false},
    {"header of zeroes", header_of_zeroes, "dvsm_free", "damaged header", true, false, false,
     false},
    {"header of ones", header_of_ones, "dvsm_free", "damaged header", true, false, false, false},
    {"header of text", header_of_text, "dvsm_free", "damaged header", true, false, false, false},
    {"header of a larger size", header_of_a_larger_size, "dvsm_free", "damaged header", true, false,
     false, false},
    {"header of the next block", header_of_the_next_block, "dvsm_free", "damaged header", true,
     false, false, false},
    {"header before realloc", header_before_realloc, "dvsm_realloc", "damaged header", true, false,
     false, false},
    {"header before bulk_free", header_before_bulk_free, "dvsm_bulk_free", "damaged header", true,
     false, false, false},
    {"foot of the block before", foot_of_the_block_before, "dvsm_free", "damaged", true, false,
     true, false},
    {"head of a free chunk", head_of_a_free_chunk, "dvsm_heap_malloc",
     "damaged header of a free chunk", true, false, true, false},
    {"link fd", link_fd, "dvsm_heap_malloc", "damaged free-list link", true, false, true, false},
    {"link bk", link_bk, "dvsm_heap_malloc", "damaged free-list link", true, false, true, false},
    {"link to a false chunk", link_to_a_false_chunk, "dvsm_heap_malloc", "damaged free-list link",
     true, false, true, false},
    {"link met in moving", link_met_in_moving, "dvsm_realloc", "damaged free-list link", true,
     false, true, false},
    {"link met in merging", link_met_in_merging, "dvsm_free", "damaged free-list link", true, false,
     true, false},
    {"tree: left child", tree_child_left, "dvsm_heap_malloc", "damaged free-list link", true, false,
     true, false},
    {"tree: right child", tree_child_right, "dvsm_heap_malloc", "damaged free-list link", true,
     false, true, false},
    {"tree: cycle", tree_cycle, "dvsm_heap_malloc", "damaged free-list link", true, false, true,
     false},
    {"tree: cycle met in inserting", tree_cycle_met_in_inserting, "dvsm_free",
     "damaged free-list link", true, false, true, false},
    {"tree: parent", tree_parent, "dvsm_heap_malloc", "damaged free-list link", true, false, true,
     false},
    {"tree: ring", tree_ring, "dvsm_heap_malloc", "damaged free-list link", true, false, true,
     false},
    {"tree: head", tree_head, "dvsm_heap_malloc", "damaged header", true, false, true, false},
    {"header of top", header_of_top, "dvsm_free", "damaged header", true, false, true, false},
    {"header of a large block", header_of_a_large_block, "dvsm_free", "", false, false, false,
     false},
    {"header of a large block as of a small one", header_of_a_large_block_as_of_a_small_one,
     "dvsm_free", "not the start of a large block", false, false, false, false},
    {"header that leads into a large block", header_that_leads_into_a_large_block, "dvsm_free",
     "damaged header", true, false, false, false},
};

/* ---- playing a case */

static const dvsm_options options = {.size = sizeof options, .name = "scene"};

static dvsm_heap *heap_for(const struct wrong_use *use)
{
    dvsm_options chosen = options;

    chosen.cache_bytes = use->cached ? 0 : SIZE_MAX;
    return dvsm_heap_create(&chosen);
}

static int play(void *context)
{
    const struct wrong_use *use = context;
    struct scene scene = {.heap = heap_for(use)};

    CHILD_CHECK(scene.heap != NULL);
    use->act(&scene);
    return 0;
}

/* What the handler was called with. */
static int faults;
static dvsm_fault last;

static void remember(const dvsm_fault *fault)
{
    faults++;
    last = *fault;
}

/* The heap, with one arena less if that was damaged, works as if nothing had happened. */
static int go_on_allocating(const struct wrong_use *use, dvsm_heap *heap)
{
    dvsm_stats_t stats;
    void *block[500];

    CHILD_CHECK(dvsm_stats(heap, &stats) == 0);
    CHILD_CHECK(stats.arenas_damaged == (use->damage ? 1 : 0));
    CHILD_CHECK(dvsm_check(heap, use->damage ? NULL : stderr) == (use->damage ? 1 : 0));
    for (size_t i = 0; i < 500; i++) {
        block[i] = dvsm_heap_malloc(heap, i * i * 2);
        CHILD_CHECK(block[i] != NULL);
        memset(block[i], (int)i, i * i * 2);
    }
    for (size_t i = 0; i < 500; i += 2) {
        block[i] = dvsm_realloc(block[i], 300);
        CHILD_CHECK(block[i] != NULL);
    }
    CHILD_CHECK(dvsm_check(heap, NULL) == (use->damage ? 1 : 0));
    CHILD_CHECK(dvsm_bulk_free(block, 500) == 0);
    CHILD_CHECK(dvsm_check(heap, NULL) == (use->damage ? 1 : 0));
    return 0;
}

static int play_with_handler(void *context)
{
    const struct wrong_use *use = context;
    struct scene scene = {.heap = heap_for(use)};

    CHILD_CHECK(scene.heap != NULL);
    /* These blocks are older than the fault, and freed after it; their arena may be set aside by
     * then. */
    void *old = dvsm_heap_malloc(scene.heap, 100), *copied = dvsm_heap_strdup(scene.heap, "kept");
    dvsm_heap_malloc(scene.heap, 100);
    CHILD_CHECK(dvsm_set_fault_handler(remember) == NULL);
    faults = 0;
    use->act(&scene);
    CHILD_CHECK(!scene.failed);
    CHILD_CHECK(faults == 1);
    CHILD_CHECK(strstr(last.what, use->what) != NULL);
    CHILD_CHECK(strcmp(last.function, use->function) == 0);
    CHILD_CHECK(strcmp(last.heap, use->no_heap ? "no heap" : "scene") == 0);
    CHILD_CHECK(scene.address == NULL || last.address == scene.address);
    if (go_on_allocating(use, scene.heap) != 0)
        return 1;
    copied = dvsm_realloc(copied, 5000);
    CHILD_CHECK(copied != NULL && strcmp(copied, "kept") == 0);
    dvsm_free(copied);
    dvsm_free(old);
    CHILD_CHECK(faults == 1);
    CHILD_CHECK(dvsm_check(dvsm_heap_default(), stderr) == 0);
    return 0;
}

static void test_default_handler_prints_and_aborts(void **state)
{
    struct wrong_use *use = *state;
    char text[2000], expected[200];
    int status = run_in_child_with_stderr(play, use, text, sizeof text);

    snprintf(expected, sizeof expected, "dvsm: %s: ", use->function);
    if (!WIFSIGNALED(status) || strncmp(text, expected, strlen(expected)) != 0)
        fail_msg("%s: status %x, \"%s\"", use->name, (unsigned)status, text);
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, use->what));
    assert_non_null(strstr(text, " at 0x"));
    assert_non_null(strstr(text, use->no_heap ? "(heap no heap)\n" : "(heap scene)\n"));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
}

static void test_handler_that_returns(void **state)
{
    struct wrong_use *use = *state;
    char text[2000];
    int status = run_in_child_with_stderr(play_with_handler, use, text, sizeof text);

    if (status != 0)
        fail_msg("%s: status %x, \"%s\"", use->name, (unsigned)status, text);
}

/* ---- beyond single cases */

static void ignore(const dvsm_fault *fault)
{
    (void)fault;
}

static void test_set_fault_handler_returns_the_former_one(void **state)
{
    (void)state;
    assert_null(dvsm_set_fault_handler(remember));
    assert_ptr_equal(dvsm_set_fault_handler(ignore), remember);
    assert_ptr_equal(dvsm_set_fault_handler(NULL), ignore);
    assert_null(dvsm_set_fault_handler(NULL));
    assert_null(dvsm_set_fault_handler(ignore));
    assert_ptr_equal(dvsm_set_fault_handler(NULL), ignore);
}

static void test_free_keeps_errno_where_the_handler_returns(void **state)
{
    int local[8];

    (void)state;
    faults = 0;
    dvsm_set_fault_handler(remember);
    errno = ERANGE;
    dvsm_free(hidden(local));
    assert_int_equal(errno, ERANGE);
    assert_int_equal(faults, 1);
    dvsm_set_fault_handler(NULL);
}

/* Damages as many arenas as there can be: then there is no more memory, but still no harm. */
static int damage_all(void *context)
{
    dvsm_heap *heap = dvsm_heap_create(&options);
    dvsm_stats_t stats;
    struct scene scene = {.heap = heap};
    size_t damaged = 0;

    (void)context;
    CHILD_CHECK(heap != NULL);
    dvsm_set_fault_handler(ignore);
    for (; damaged < 5000 && dvsm_heap_malloc(heap, 10) != NULL; damaged++)
        header_of_zeroes(&scene);
    CHILD_CHECK(errno == ENOMEM && damaged >= 64 && damaged < 5000);
    CHILD_CHECK(dvsm_heap_calloc(heap, 1, 1) == NULL && errno == ENOMEM);
    CHILD_CHECK(dvsm_stats(heap, &stats) == 0);
    CHILD_CHECK(stats.arenas == damaged && stats.arenas_damaged == damaged);
    CHILD_CHECK(dvsm_check(heap, NULL) == (int)damaged);
    CHILD_CHECK(dvsm_heap_destroy(heap) == 0);
    return 0;
}

static void test_every_arena_damaged(void **state)
{
    (void)state;
    assert_int_equal(run_in_child(damage_all, NULL), 0);
}

static void allocate_while_walking(const dvsm_chunk *chunk, void *context)
{
    void **block = context;

    if (chunk->state == DVSM_CHUNK_USED && *block == NULL)
        *block = dvsm_heap_malloc(dvsm_heap_of(chunk->block), 100);
}

/* The documentation forbids it, but it does not hang: another arena serves the call. */
static void test_allocating_in_a_visitor_takes_another_arena(void **state)
{
    dvsm_heap *heap = dvsm_heap_create(&options);
    void *first = dvsm_heap_malloc(heap, 100), *second = NULL;
    dvsm_stats_t stats;

    (void)state;
    dvsm_walk(heap, allocate_while_walking, &second);
    assert_non_null(second);
    assert_int_equal(dvsm_stats(heap, &stats), 0);
    assert_int_equal(stats.arenas, 2);
    assert_int_equal(stats.used_blocks, 2);
    dvsm_free(first);
    dvsm_free(second);
    assert_int_equal(dvsm_check(heap, stderr), 0);
    assert_int_equal(dvsm_heap_destroy(heap), 0);
}

enum { USES = sizeof wrong_uses / sizeof wrong_uses[0], OTHERS = 4 };

static struct wrong_use played[2 * USES]; /* without a cache and, where it makes sense, with it */
static char names[4 * USES][100];
static size_t plays;

static void add(struct CMUnitTest *test, struct wrong_use *use, const char *what,
                CMUnitTestFunction function)
{
    char *name = names[plays++];

    snprintf(name, sizeof names[0], "%s%s: %s", use->name, use->cached ? " (cached)" : "", what);
    *test = (struct CMUnitTest){name, function, NULL, NULL, use};
}

int main(void)
{
    static struct CMUnitTest tests[4 * USES + OTHERS] = {
        cmocka_unit_test(test_set_fault_handler_returns_the_former_one),
        cmocka_unit_test(test_free_keeps_errno_where_the_handler_returns),
        cmocka_unit_test(test_every_arena_damaged),
        cmocka_unit_test(test_allocating_in_a_visitor_takes_another_arena),
    };

    for (size_t i = 0; i < 2 * USES; i++) {
        struct wrong_use *use = &played[i];

        *use = wrong_uses[i % USES];
        use->cached = i >= USES;
        if (use->cached && use->arena_only)
            continue;
        add(&tests[OTHERS + plays], use, "aborts", test_default_handler_prints_and_aborts);
        add(&tests[OTHERS + plays], use, "handler returns", test_handler_that_returns);
    }
    return _cmocka_run_group_tests("wrong use", tests, OTHERS + plays, NULL, NULL);
}
