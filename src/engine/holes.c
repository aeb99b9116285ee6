/* holes.c - giving the pages inside free chunks back to the system, and filling them again.
 *
 *     free chunk   | fields .. | hole | hole | ... | hole |  ..  | next: foot, head
 *                  ^ page      ^ page                     ^ page
 *
 * A free chunk's fields and foot, which the engine needs, lie outside the holes. So only code that
 * cuts from the chunk must know of holes.
 */
#include "engine/arena_internal.h"

/* This tree and those above it hold chunks of 4 KiB and more; no page is smaller than 4 KiB. */
enum { TREE_OF_PAGES = 2 * (12 - BINS_TREE_SHIFT) };

static bool fill(struct arena_call *call, const char *start, size_t bytes)
{
    return call->source->fill(call->source, call->arena, (char *)(uintptr_t)start,
                              (char *)(uintptr_t)start + bytes);
}

/* How much of the low end of `size` free bytes is touched when `need` bytes are cut from it: these,
 * and the fields of the free chunk behind them. */
static size_t touched_bytes(size_t size, size_t need)
{
    size_t least = need + sizeof(struct chunk);

    return least > size || least < need ? size : least;
}

NOINLINE bool arena_fill_slowly(struct arena_call *call, const void *c, size_t size, size_t need)
{
    size_t least = touched_bytes(size, need), ahead;

    if (call->source == NULL || call->source->fill == NULL)
        return true;
    ahead = size - least < POLICY_FILL_AHEAD ? size : least + POLICY_FILL_AHEAD;
    return fill(call, c, ahead) || fill(call, c, least);
}

/* A chunk in the trees may be looked at: it is one, and no more than `left` are met in one walk,
 * which in a damaged tree would not end. */
static bool meet(struct arena_call *call, const struct chunk *c, size_t *left)
{
    const struct bins *b = &call->arena->bins;

    if (unlikely(*left == 0 || !bins_in_range(b, c) || !bins_is_sound(b, c)))
        return fault_raise(&call->fault, FAULT_DAMAGE, "damaged header of a free chunk", c);
    --*left;
    return true;
}

/* Whether `need` bytes can be cut from c's low end without filling a hole. */
static bool is_filled(const struct arena_call *call, const struct chunk *c, size_t need)
{
    const char *start = (const char *)c;

    return !call->source->has_holes(call->source, start,
                                    start + touched_bytes(chunk_size(c), need));
}

/* Looks for a filled chunk among those of the node's size. `left`: how many chunks may still be
 * met. */
static struct chunk *find_filled_in_ring(struct arena_call *call, struct chunk *node, size_t need,
                                         size_t *left)
{
    struct chunk *c = node;

    do {
        if (!meet(call, c, left))
            return NULL;
        if (is_filled(call, c, need))
            return c;
        c = c->fd;
    } while (c != node);
    return NULL;
}

struct chunk *arena_find_filled(struct arena_call *call, size_t need)
{
    const struct bins *b = &call->arena->bins;
    size_t left = b->span / CHUNK_MIN, size = need < BINS_LARGE_FROM ? BINS_LARGE_FROM : need;
    struct chunk *found = NULL, *c;

    if (call->arena->holes == 0 || call->source == NULL || call->source->has_holes == NULL)
        return NULL;
    while (found == NULL && b->tree_map != 0 && !arena_faulted(call) &&
           (c = bins_best_fit(b, size, &call->fault)) != NULL) {
        found = find_filled_in_ring(call, c, need, &left);
        size = chunk_size(c) + CHUNK_ALIGN;
    }
    return found;
}

/* ---- giving back ----------------------------------------------------------------------------- */

/* The state of one arena_punch(). */
struct punching {
    struct arena_call *call;
    size_t left; /* chunks that may still be met, so that a walk in a damaged tree ends */
    size_t bytes;
};

/* Gives back the pages of c, except those with its first `keep` bytes and its fields. */
static void punch(struct punching *p, struct chunk *c, size_t size, size_t keep)
{
    const struct arena_source *source = p->call->source;

    if (keep < sizeof *c)
        keep = sizeof *c;
    if (keep < size)
        p->bytes += source->punch(source, p->call->arena, (char *)c + keep, (char *)c + size);
}

static bool punch_binned(struct punching *p, struct chunk *c)
{
    if (!meet(p->call, c, &p->left))
        return false;
    punch(p, c, chunk_size(c), 0);
    return true;
}

/* Punches the chunks of a node's size. */
static bool punch_ring(struct punching *p, struct chunk *node)
{
    struct chunk *c = node;

    do {
        if (!punch_binned(p, c))
            return false;
        c = c->fd;
    } while (c != node);
    return true;
}

/* Punches a whole tree. The stack has room for the path of a sound tree. */
static bool punch_tree(struct punching *p, struct chunk *root)
{
    struct chunk *waiting[SIZE_BITS + 1];
    size_t n = 0;

    for (waiting[n++] = root; n > 0;) {
        struct chunk *node = waiting[--n];

        if (!punch_ring(p, node))
            return false;
        for (unsigned side = 0; side < 2; side++) {
            if (node->child[side] == NULL)
                continue;
            if (unlikely(n > SIZE_BITS))
                return fault_raise(&p->call->fault, FAULT_DAMAGE, "damaged free-list link", node);
            waiting[n++] = node->child[side];
        }
    }
    return true;
}

bool arena_punch(struct arena_call *call, size_t pad)
{
    struct arena *a = call->arena;
    struct punching p = {.call = call, .left = a->bins.span / CHUNK_MIN};

    if (a->damaged || a->top_size == 0 || call->source == NULL || call->source->punch == NULL)
        return false;
    punch(&p, a->top, a->top_size, pad);
    if (a->dv_size != 0)
        punch(&p, a->dv, a->dv_size, 0);
    for (unsigned i = TREE_OF_PAGES; i < BINS_TREE; i++)
        if (a->bins.tree[i] != NULL && !punch_tree(&p, a->bins.tree[i]))
            break;
    arena_finish(call);
    __atomic_store_n(&a->unpunched, arena_free_memory(a, call->source->page), __ATOMIC_RELAXED);
    return p.bytes > 0;
}
