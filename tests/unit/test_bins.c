/* test_bins.c - the bins alone, over a row of chunks laid out by hand; bins_check after each
 * step.
 *
 * Modes: default
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "bins/bins_internal.h"
#include "support/random.h"

enum { ROW_BYTES = 4 << 20, CHUNKS_MOST = 2000 };

struct row {
    char *memory;
    char *next; /* where the next chunk goes */
    struct bins bins;
    struct journal journal;
    struct fault fault;
};

static int setup(void **state)
{
    struct row *r = calloc(1, sizeof *r);

    assert_non_null(r);
    r->memory = aligned_alloc(4096, ROW_BYTES);
    assert_non_null(r->memory);
    memset(r->memory, 0xa5, ROW_BYTES);
    r->next = r->memory;
    bins_init(&r->bins);
    bins_extend_range(&r->bins, &r->journal, r->memory, ROW_BYTES);
    journal_commit(&r->journal);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct row *r = *state;

    free(r->memory);
    free(r);
    return 0;
}

static int violations(const struct row *r)
{
    struct check check = {0};
    struct bins_totals totals = {0};

    bins_check(&r->bins, NULL, NULL, &check, &totals);
    return check.violations;
}

static size_t binned(const struct row *r)
{
    struct check check = {.report = stderr};
    struct bins_totals totals = {0};

    bins_check(&r->bins, NULL, NULL, &check, &totals);
    assert_int_equal(check.violations, 0);
    return totals.count;
}

/* A free chunk between chunks in use, not in a bin yet. */
static struct chunk *lay(struct row *r, size_t size)
{
    struct chunk *c = chunk_at(r->next, 0), *after = chunk_at(c, size);

    assert_true(r->next + size + 2 * sizeof(struct chunk) < r->memory + ROW_BYTES);
    c->head = size | PINUSE;
    after->prev_foot = size;
    after->head = CHUNK_MIN | CINUSE;
    r->next = (char *)after + CHUNK_MIN;
    return c;
}

static void insert(struct row *r, struct chunk *c)
{
    assert_true(bins_insert(&r->bins, &r->journal, c, chunk_size(c), &r->fault));
    journal_commit(&r->journal);
    assert_int_equal(violations(r), 0);
}

static void remove_chunk(struct row *r, struct chunk *c)
{
    size_t before = binned(r);

    assert_true(bins_remove(&r->bins, &r->journal, c, chunk_size(c), &r->fault));
    journal_commit(&r->journal);
    assert_int_equal(binned(r), before - 1);
}

static struct chunk *add(struct row *r, size_t size)
{
    struct chunk *c = lay(r, size);

    insert(r, c);
    return c;
}

static struct chunk *best(struct row *r, size_t need)
{
    struct chunk *c = bins_best_fit(&r->bins, need, &r->fault);

    assert_int_equal(r->fault.kind, FAULT_NONE);
    return c;
}

static struct chunk *smallest(struct row *r)
{
    struct chunk *c = bins_smallest(&r->bins, &r->fault);

    assert_int_equal(r->fault.kind, FAULT_NONE);
    return c;
}

/* ---- which bin ------------------------------------------------------------------------------- */

static void test_tree_index(void **state)
{
    static const struct {
        size_t size;
        unsigned index;
    } cases[] = {{256, 0},
                 {368, 0},
                 {384, 1},
                 {496, 1},
                 {512, 2},
                 {752, 2},
                 {768, 3},
                 {1024, 4},
                 {1536, 5},
                 {65536, 16},
                 {98304, 17},
                 {8 << 20, 30},
                 {(12 << 20) - 16, 30},
                 {12 << 20, 31},
                 {(16 << 20) - 16, 31},
                 {16 << 20, 31},
                 {(size_t)1 << 30, 31},
                 {SIZE_MAX & ~(size_t)15, 31}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(bins_tree_index(cases[i].size), cases[i].index);
    /* The highest bit that a bin's tree decides on is the one below the bits that all its sizes
     * share. */
    for (unsigned i = 0; i + 1 < BINS_TREE; i++) {
        size_t lowest = ((size_t)(2 | (i & 1)) << (i / 2)) << (BINS_TREE_SHIFT - 1);
        size_t bit = (size_t)1 << (SIZE_BITS - 1) >> bins_tree_shift(i);
        assert_int_equal(bins_tree_index(lowest), i);
        assert_int_equal(bins_tree_index(lowest | bit), i);
        assert_int_not_equal(bins_tree_index(lowest + 2 * bit), i);
    }
    assert_int_equal(bins_tree_shift(BINS_TREE - 1), 0);
}

/* ---- small bins ------------------------------------------------------------------------------ */

static void test_small_bin_gives_the_newest_first(void **state)
{
    struct row *r = *state;
    unsigned index = bins_small_index(64);
    struct chunk *a = add(r, 64), *b = add(r, 64), *c = add(r, 64);

    assert_int_equal(r->bins.small_map, (size_t)1 << index);
    assert_ptr_equal(bins_small_first(&r->bins, index), c);
    remove_chunk(r, b);
    assert_ptr_equal(bins_small_first(&r->bins, index), c);
    remove_chunk(r, c);
    assert_ptr_equal(bins_small_first(&r->bins, index), a);
    remove_chunk(r, a);
    assert_int_equal(r->bins.small_map, 0);
}

static void test_every_small_size_has_its_bin(void **state)
{
    struct row *r = *state;
    struct chunk *chunk[BINS_SMALL];

    for (size_t size = CHUNK_MIN; size < BINS_LARGE_FROM; size += CHUNK_ALIGN)
        chunk[bins_small_index(size)] = add(r, size);
    for (size_t size = CHUNK_MIN; size < BINS_LARGE_FROM; size += CHUNK_ALIGN) {
        assert_ptr_equal(bins_small_first(&r->bins, bins_small_index(size)),
                         chunk[bins_small_index(size)]);
        remove_chunk(r, chunk[bins_small_index(size)]);
    }
    assert_int_equal(r->bins.small_map, 0);
    assert_int_equal(r->bins.tree_map, 0);
}

/* ---- trees: in bin 6 (2048 to 3056) bits 512, 256, 128 ... decide ---------------------------- */

static void test_tree_shape(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *left = add(r, 2064), *right = add(r, 2560);
    struct chunk *right_right = add(r, 2816);

    assert_int_equal(r->bins.tree_map, 1 << 6);
    assert_ptr_equal(r->bins.tree[6], root);
    assert_ptr_equal(root->child[0], left);
    assert_ptr_equal(root->child[1], right);
    assert_ptr_equal(right->child[1], right_right);
    assert_ptr_equal(right_right->parent, right);
}

static void test_equal_sizes_share_a_ring(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *node = add(r, 2560);
    struct chunk *b = add(r, 2560), *c = add(r, 2560);

    assert_ptr_equal(root->child[1], node);
    assert_ptr_equal(node->fd, c); /* inserted right after the node */
    assert_ptr_equal(c->fd, b);
    assert_ptr_equal(b->fd, node);
    assert_null(b->parent);
    remove_chunk(r, c); /* c is in the ring, not in the tree */
    assert_ptr_equal(node->fd, b);
    assert_ptr_equal(root->child[1], node);
}

static void test_a_node_leaves_its_place_to_the_last_of_its_ring(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *node = add(r, 2560);
    struct chunk *left = add(r, 2576), *right = add(r, 2816);
    struct chunk *b = add(r, 2560), *c = add(r, 2560);

    remove_chunk(r, node);
    assert_ptr_equal(root->child[1], b); /* its bk */
    assert_ptr_equal(b->parent, root);
    assert_ptr_equal(b->child[0], left);
    assert_ptr_equal(b->child[1], right);
    assert_ptr_equal(left->parent, b);
    assert_ptr_equal(b->fd, c);
    remove_chunk(r, root); /* an inner node without a ring: its rightmost leaf */
    assert_ptr_equal(r->bins.tree[6], right);
    assert_ptr_equal(right->child[1], b);
    assert_null(b->child[1]);
}

static void test_removing_the_root(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *left = add(r, 2064), *left_left = add(r, 2080);

    remove_chunk(r, root); /* a root with one child: its deepest leaf takes its place */
    assert_ptr_equal(r->bins.tree[6], left_left);
    assert_ptr_equal(left_left->child[0], left);
    remove_chunk(r, left_left);
    assert_ptr_equal(r->bins.tree[6], left);
    remove_chunk(r, left);
    assert_null(r->bins.tree[6]);
    assert_int_equal(r->bins.tree_map, 0);

    struct chunk *a = add(r, 2048), *b = add(r, 2048);
    remove_chunk(r, a); /* a root with a ring */
    assert_ptr_equal(r->bins.tree[6], b);
    remove_chunk(r, b);
    assert_int_equal(r->bins.tree_map, 0);
}

static void test_removing_leaves_and_inner_nodes(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *right = add(r, 2560), *left = add(r, 2064);
    struct chunk *under = add(r, 2576);

    remove_chunk(r, left); /* a left leaf */
    assert_null(root->child[0]);
    remove_chunk(r, right); /* inner, one child */
    assert_ptr_equal(root->child[1], under);
    assert_ptr_equal(under->parent, root);
    remove_chunk(r, under); /* a right leaf */
    assert_null(root->child[1]);
}

/* ---- searching ------------------------------------------------------------------------------- */

static void test_best_fit_in_empty_bins(void **state)
{
    struct row *r = *state;

    assert_null(best(r, 2048));
    assert_null(smallest(r));
    add(r, 64);
    assert_null(best(r, 256));
    assert_null(smallest(r));
}

static void test_best_fit_along_the_path(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2800), *left = add(r, 2064), *right = add(r, 2576);

    assert_ptr_equal(best(r, 2800), root);  /* exact, at once */
    assert_ptr_equal(best(r, 2064), left);  /* exact, further down */
    assert_ptr_equal(best(r, 2048), left);  /* next larger */
    assert_ptr_equal(best(r, 2080), right); /* in a subtree that the search passed by */
    assert_ptr_equal(best(r, 2592), root);
    assert_null(best(r, 2816)); /* its own bin has nothing, nor has a larger one */
    struct chunk *larger = add(r, 5008), *smaller = add(r, 4112);
    assert_ptr_equal(best(r, 2816), smaller); /* the next bin, leftmost */
    remove_chunk(r, smaller);
    assert_ptr_equal(best(r, 2816), larger);
    assert_null(best(r, 5024));
}

static void test_best_fit_prefers_the_deepest_subtree(void **state)
{
    struct row *r = *state;

    add(r, 2048);
    struct chunk *right = add(r, 2608), *deeper = add(r, 2384);
    struct chunk *path = add(r, 2064);
    assert_ptr_equal(r->bins.tree[6]->child[0], deeper);
    assert_ptr_equal(deeper->child[0], path);
    assert_ptr_equal(best(r, 2080), deeper);
    remove_chunk(r, deeper);
    assert_ptr_equal(best(r, 2080), right);
}

static void test_ties_go_to_the_node_in_the_tree(void **state)
{
    struct row *r = *state;
    struct chunk *node = add(r, 2560);

    add(r, 2560);
    add(r, 2560);
    assert_ptr_equal(best(r, 2560), node);
    assert_ptr_equal(best(r, 2304), node);
    assert_ptr_equal(smallest(r), node);
}

static void test_smallest_is_on_the_left_edge_of_the_lowest_tree(void **state)
{
    struct row *r = *state;
    struct chunk *high = add(r, 4096);

    assert_ptr_equal(smallest(r), high);
    struct chunk *root = add(r, 2576);
    assert_ptr_equal(smallest(r), root);
    struct chunk *right = add(r, 2560); /* no left child: the search goes right */
    assert_ptr_equal(smallest(r), right);
    struct chunk *left = add(r, 2064);
    assert_ptr_equal(smallest(r), left);
    struct chunk *lowest = add(r, 256);
    assert_ptr_equal(smallest(r), lowest);
}

/* Size of the smallest tree chunk of at least `need` bytes; 0 if there is none. */
static size_t smallest_of(struct chunk *const *chunk, size_t count, size_t need)
{
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        size_t size = chunk_size(chunk[i]);
        if (size >= BINS_LARGE_FROM && size >= need && (found == 0 || size < found))
            found = size;
    }
    return found;
}

static void test_random_insertions_and_removals(void **state)
{
    struct row *r = *state;
    struct random_source random = {4711};
    struct chunk *chunk[CHUNKS_MOST];
    size_t count = 0;

    while (r->next < r->memory + ROW_BYTES - 20000) {
        if (count > 0 && random_once_in(&random, 3)) {
            size_t i = random_below(&random, count);
            remove_chunk(r, chunk[i]);
            chunk[i] = chunk[--count];
            continue;
        }
        size_t most = random_once_in(&random, 2) ? 700 : 9000;
        chunk[count++] =
            add(r, CHUNK_MIN + bits_round_down(random_below(&random, most), CHUNK_ALIGN));
        assert_int_equal(binned(r), count);
        size_t need = bits_round_up(BINS_LARGE_FROM + random_below(&random, 9000), CHUNK_ALIGN);
        struct chunk *fit = best(r, need);
        assert_int_equal(fit == NULL ? 0 : chunk_size(fit), smallest_of(chunk, count, need));
        fit = smallest(r);
        assert_int_equal(fit == NULL ? 0 : chunk_size(fit), smallest_of(chunk, count, 0));
    }
    while (count > 0)
        remove_chunk(r, chunk[--count]);
    assert_int_equal(r->bins.small_map | r->bins.tree_map, 0);
}

/* ---- roll back ------------------------------------------------------------------------------- */

static void test_every_change_can_be_rolled_back(void **state)
{
    struct row *r = *state;
    struct chunk *fresh[] = {lay(r, 64), lay(r, 2048), lay(r, 2560), lay(r, 2816), lay(r, 2320)};
    struct chunk *old[] = {add(r, 64),   add(r, 64),   add(r, 2048), add(r, 2064),
                           add(r, 2560), add(r, 2560), add(r, 2576), add(r, 2304)};
    char *image = malloc(ROW_BYTES);
    struct bins bins = r->bins;

    assert_non_null(image);
    memcpy(image, r->memory, ROW_BYTES);
    for (size_t i = 0; i < sizeof fresh / sizeof *fresh; i++) {
        assert_true(bins_insert(&r->bins, &r->journal, fresh[i], chunk_size(fresh[i]), &r->fault));
        journal_roll_back(&r->journal);
        assert_memory_equal(image, r->memory, ROW_BYTES);
        assert_memory_equal(&bins, &r->bins, sizeof bins);
    }
    for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
        assert_true(bins_remove(&r->bins, &r->journal, old[i], chunk_size(old[i]), &r->fault));
        journal_roll_back(&r->journal);
        assert_memory_equal(image, r->memory, ROW_BYTES);
        assert_memory_equal(&bins, &r->bins, sizeof bins);
    }
    free(image);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* The full check sees the damage, and removal reports the right fault and changes nothing;
 * without the damage all is well again. */
static void assert_damage_seen(struct row *r, void *field, uintptr_t value, struct chunk *removed)
{
    word *place = field, old = *place;
    struct bins bins = r->bins;

    *place = value;
    assert_true(violations(r) > 0);
    assert_false(bins_remove(&r->bins, &r->journal, removed, chunk_size(removed), &r->fault));
    journal_roll_back(&r->journal);
    assert_memory_equal(&bins, &r->bins, sizeof bins);
    assert_int_equal(r->fault.kind, FAULT_DAMAGE);
    assert_string_equal(r->fault.what, "damaged free-list link");
    r->fault = (struct fault){0};
    *place = old;
    assert_int_equal(violations(r), 0);
}

static void assert_link_guarded(struct row *r, void *link, struct chunk *removed)
{
    char *end = r->memory + ROW_BYTES;
    uintptr_t wrong[] = {0,
                         16,
                         UINTPTR_MAX,
                         *(word *)link + WORD,
                         (uintptr_t)r->memory - CHUNK_ALIGN,
                         (uintptr_t)end,
                         (uintptr_t)end - CHUNK_ALIGN, /* in the memory, but its fields are not */
                         (uintptr_t)r->memory + ROW_BYTES / 2};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_damage_seen(r, link, wrong[i], removed);
}

static void test_damaged_small_links(void **state)
{
    struct row *r = *state;

    add(r, 64);
    struct chunk *b = add(r, 64);
    add(r, 64);
    assert_link_guarded(r, &b->fd, b);
    assert_link_guarded(r, &b->bk, b);
    assert_damage_seen(r, &b->fd, (uintptr_t)b, b);
    assert_damage_seen(r, &b->bk, (uintptr_t)b, b);
}

static void test_damaged_ring_links(void **state)
{
    struct row *r = *state;
    struct chunk *a = add(r, 2560), *b = add(r, 2560);

    add(r, 2560);
    assert_link_guarded(r, &b->fd, b);
    assert_link_guarded(r, &b->bk, b);
    assert_link_guarded(r, &a->fd, a);
    assert_damage_seen(r, &b->fd, (uintptr_t)b, b);
    assert_damage_seen(r, &b->bk, (uintptr_t)b, b);
    assert_damage_seen(r, &b->parent, (uintptr_t)a, b);
}

static void test_damaged_tree_links(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *inner = add(r, 2560);

    add(r, 2064);
    add(r, 2576);
    add(r, 2816);
    assert_link_guarded(r, &inner->parent, inner);
    assert_link_guarded(r, &root->parent, root);
    for (unsigned side = 0; side < 2; side++) {
        word *link = (word *)(void *)&inner->child[side];
        assert_damage_seen(r, link, UINTPTR_MAX, inner);
        assert_damage_seen(r, link, *link + WORD, inner);
        assert_damage_seen(r, link, (uintptr_t)(r->memory + ROW_BYTES - CHUNK_ALIGN), inner);
    }
    assert_damage_seen(r, &inner->child[1], (uintptr_t)inner, inner); /* a circle */
    assert_damage_seen(r, &root->child[1], (uintptr_t)r->memory + ROW_BYTES / 2, inner);
    /* A node without a parent looks like a ring's member, but still has children. */
    add(r, 2560);
    assert_damage_seen(r, &inner->parent, 0, inner);
}

static void assert_search_faults(struct row *r, const char *what)
{
    assert_true(violations(r) > 0);
    assert_null(bins_best_fit(&r->bins, 2800, &r->fault));
    assert_int_equal(r->fault.kind, FAULT_DAMAGE);
    assert_string_equal(r->fault.what, what);
    r->fault = (struct fault){0};
}

static void test_damage_met_in_searching(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *right = add(r, 2816);
    uintptr_t wrong[] = {UINTPTR_MAX, 16, (uintptr_t)right + WORD, (uintptr_t)root,
                         (uintptr_t)(r->memory + ROW_BYTES - CHUNK_ALIGN)};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        root->child[1] = (struct chunk *)wrong[i];
        /* A circle, even for a search that has run out of bits. */
        root->child[0] = (struct chunk *)wrong[i];
        assert_search_faults(r, "damaged free-list link");
    }
    root->child[0] = NULL;
    root->child[1] = right;
    size_t heads[] = {3000 | PINUSE, 4096 | PINUSE, 2816, 2816 | CINUSE | PINUSE, ~(size_t)14};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        right->head = heads[i];
        assert_search_faults(r, "damaged header of a free chunk");
    }
    right->head = 2816 | PINUSE;
    assert_ptr_equal(best(r, 2800), right);
}

static void test_smallest_never_gives_less_than_a_tree_chunk(void **state)
{
    struct row *r = *state;
    struct chunk *c = add(r, 2048), *false_next = chunk_at(c, 48);

    c->head = 48 | PINUSE; /* and boundary tags that agree */
    false_next->prev_foot = 48;
    false_next->head = CHUNK_MIN | CINUSE;
    assert_null(bins_smallest(&r->bins, &r->fault));
    assert_int_equal(r->fault.kind, FAULT_DAMAGE);
    assert_true(violations(r) > 0);
}

static void test_inserting_ends_in_a_circle_of_links(void **state)
{
    struct row *r = *state;
    struct chunk *root = add(r, 2048), *c = lay(r, 2816);

    root->child[0] = root->child[1] = root;
    assert_false(bins_insert(&r->bins, &r->journal, c, 2816, &r->fault));
    assert_int_equal(r->fault.kind, FAULT_DAMAGE);
    journal_roll_back(&r->journal);
    root->child[0] = root->child[1] = (struct chunk *)UINTPTR_MAX;
    r->fault = (struct fault){0};
    assert_false(bins_insert(&r->bins, &r->journal, c, 2816, &r->fault));
    assert_int_equal(r->fault.kind, FAULT_DAMAGE);
    root->child[0] = root->child[1] = NULL;
    root->fd = c;
    r->fault = (struct fault){0};
    assert_false(bins_insert(&r->bins, &r->journal, lay(r, 2048), 2048, &r->fault));
    assert_int_equal(r->fault.kind, FAULT_DAMAGE);
}

/* Damage that only the full check finds. */
static void test_check_finds_what_no_link_shows(void **state)
{
    struct row *r = *state;
    struct chunk *small = add(r, 64), *root = add(r, 2048), *left = add(r, 2064);
    struct chunk *right = add(r, 2560), *ring = add(r, 2560);
    struct {
        void *field;
        uintptr_t value;
    } damage[] = {
        {&r->bins.small_map, 0},
        {&r->bins.small_map, r->bins.small_map | 1 << 4},
        {&r->bins.tree_map, 0},
        {&r->bins.tree_map, r->bins.tree_map | 1 << 9},
        {&small->head, 80 | PINUSE},
        {&small->head, 64},
        {&chunk_next(small)->prev_foot, 48},
        {&left->head, 2080 | PINUSE},
        {&right->head, 0},
        {&ring->head, 2576 | PINUSE},
        {&root->child[0], (uintptr_t)right},
        {&left->child[1], (uintptr_t)root},
        {&r->bins.small[bins_small_index(64)].bk, (uintptr_t)root},
        {&r->bins.tree[7], (uintptr_t)root},
    };

    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        word *field = damage[i].field, old = *field;
        *field = damage[i].value;
        assert_true(violations(r) > 0);
        *field = old;
        assert_int_equal(violations(r), 0);
    }
    /* A chunk in the wrong bin, whose boundary tags agree with its size. */
    struct chunk *after = chunk_at(left, 1040);
    left->head = 1040 | PINUSE;
    after->prev_foot = 1040;
    after->head = CHUNK_MIN | CINUSE;
    assert_true(violations(r) > 0);
}

/* The full check ends whatever the chunks contain. */
static void test_check_ends_on_any_damage(void **state)
{
    struct row *r = *state;
    struct random_source random = {99};
    struct chunk *chunk[300];
    size_t count = sizeof chunk / sizeof *chunk;

    for (size_t i = 0; i < count; i++)
        chunk[i] = add(r, CHUNK_MIN + CHUNK_ALIGN * random_below(&random, 200));
    for (int round = 0; round < 20000; round++) {
        word *fields = (word *)chunk[random_below(&random, count)];
        word *field = &fields[random_below(&random, sizeof(struct chunk) / WORD)], old = *field;
        uintptr_t near = (uintptr_t)chunk[random_below(&random, count)];
        uintptr_t wrong[] = {0,
                             UINTPTR_MAX,
                             near,
                             near + WORD,
                             (uintptr_t)random_next(&random),
                             (uintptr_t)(r->memory + ROW_BYTES - CHUNK_ALIGN)};
        *field = wrong[random_below(&random, sizeof wrong / sizeof *wrong)];
        violations(r);
        if (round % 10 != 0) /* every tenth stays damaged */
            *field = old;
    }
    assert_true(violations(r) > 0);
}

/* Counts more chunks than fit into the bits that are left beside the sum of their sizes. */
static void test_the_count_goes_on_where_its_bits_end(void **state)
{
    struct row *r = *state;
    size_t most = ((size_t)1 << BINS_COUNT_BITS) - 1;
    struct chunk *first = lay(r, 64), *second = lay(r, 1024), *third = lay(r, 48);

    r->bins.content = most << BINS_BYTES_BITS;
    assert_int_equal(bins_count(&r->bins), most);
    assert_int_equal(bins_bytes(&r->bins), 0);
    assert_true(bins_insert(&r->bins, &r->journal, first, 64, &r->fault));
    assert_int_equal(bins_count(&r->bins), most + 1);
    assert_true(bins_insert(&r->bins, &r->journal, second, 1024, &r->fault));
    assert_true(bins_insert(&r->bins, &r->journal, third, 48, &r->fault));
    assert_int_equal(bins_count(&r->bins), most + 3);
    assert_int_equal(bins_bytes(&r->bins), 64 + 1024 + 48);
    assert_true(bins_remove(&r->bins, &r->journal, second, 1024, &r->fault));
    assert_true(bins_remove(&r->bins, &r->journal, first, 64, &r->fault));
    assert_int_equal(bins_count(&r->bins), most + 1);
    assert_true(bins_remove(&r->bins, &r->journal, third, 48, &r->fault));
    assert_int_equal(bins_count(&r->bins), most);
    assert_int_equal(bins_bytes(&r->bins), 0);
    journal_roll_back(&r->journal);
    assert_int_equal(r->bins.content_wraps, 0);
}

/* First one chunk too many is counted; then the number is right, and the bytes are one too few. */
static void test_check_finds_a_wrong_count(void **state)
{
    struct row *r = *state;

    add(r, 64);
    assert_int_equal(violations(r), 0);
    r->bins.content += (size_t)1 << BINS_BYTES_BITS;
    assert_int_equal(violations(r), 1);
    r->bins.content -= ((size_t)1 << BINS_BYTES_BITS) + 1;
    assert_int_equal(violations(r), 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_index),
        TEST(test_small_bin_gives_the_newest_first),
        TEST(test_every_small_size_has_its_bin),
        TEST(test_tree_shape),
        TEST(test_equal_sizes_share_a_ring),
        TEST(test_a_node_leaves_its_place_to_the_last_of_its_ring),
        TEST(test_removing_the_root),
        TEST(test_removing_leaves_and_inner_nodes),
        TEST(test_best_fit_in_empty_bins),
        TEST(test_best_fit_along_the_path),
        TEST(test_best_fit_prefers_the_deepest_subtree),
        TEST(test_ties_go_to_the_node_in_the_tree),
        TEST(test_smallest_is_on_the_left_edge_of_the_lowest_tree),
        TEST(test_random_insertions_and_removals),
        TEST(test_every_change_can_be_rolled_back),
        TEST(test_damaged_small_links),
        TEST(test_damaged_ring_links),
        TEST(test_damaged_tree_links),
        TEST(test_damage_met_in_searching),
        TEST(test_smallest_never_gives_less_than_a_tree_chunk),
        TEST(test_inserting_ends_in_a_circle_of_links),
        TEST(test_check_finds_what_no_link_shows),
        TEST(test_check_ends_on_any_damage),
        TEST(test_the_count_goes_on_where_its_bits_end),
        TEST(test_check_finds_a_wrong_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
