/* root_maker.c - a root that is made by whoever needs it first. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "heap/heap.h"

/* A thread that makes a root of one heap waits no longer than this to make one of another: somebody
 * might be doing the reverse. */
enum { WITHIN_MS = 1000 };

/* A root that this thread is just making. */
struct making {
    const struct dvsm_heap *heap;
    const struct root_name *name;
    pid_t process;
    const struct making *outer; /* what was being made when this one was begun; NULL: nothing */
};

static __thread const struct making *now_making __attribute__((tls_model("initial-exec")));

/* What this thread makes of the heap, of that name if `name` is not NULL. What the parent of this
 * process was making does not count. */
static const struct making *find_making(const struct dvsm_heap *heap, const struct root_name *name)
{
    const struct making *m = now_making;

    while (m != NULL && (m->heap != heap || m->process != getpid() ||
                         (name != NULL && memcmp(m->name, name, sizeof *name) != 0)))
        m = m->outer;
    return m;
}

/* Calls the program's function and sets the root, with the makers' lock held. If somebody has set
 * the root meanwhile, that one stands. *forked: this is a child that the function forked, and the
 * lock is not its own. */
static void *make(struct dvsm_heap *heap, const struct root_name *name, heap_root_init init,
                  void *context, bool *forked)
{
    struct making making = {heap, name, getpid(), now_making};
    word there = 0;

    now_making = &making;
    void *address = init(heap, context);
    now_making = making.outer;
    *forked = getpid() != making.process;
    if (address == NULL || *forked)
        return NULL;
    int error = roots_add(&heap->region->roots, &heap->segments, name, (word)address, &there);
    if (error != 0)
        return heap_fail(error);
    return there != 0 ? (void *)there : address;
}

/* False: the lock is not to be had. If its holder died, that one had made nothing that anybody can
 * find. */
static bool enter(struct lock *lock)
{
    enum lock_state state =
        now_making == NULL ? lock_acquire(lock) : lock_acquire_within(lock, WITHIN_MS);

    if (state == LOCK_OWNER_DIED)
        lock_repaired(lock);
    return state == LOCK_ACQUIRED || state == LOCK_OWNER_DIED;
}

void *heap_root_made(struct dvsm_heap *heap, const struct root_name *name, heap_root_init init,
                     void *context)
{
    struct root_table *table = &heap->region->roots;
    bool has_lock = find_making(heap, NULL) != NULL, forked = false;
    word value;

    if (roots_find(table, name, &value))
        return (void *)value;
    if (find_making(heap, name) != NULL || (!has_lock && !enter(&table->makers)))
        return heap_fail(EDEADLK);
    void *address =
        roots_find(table, name, &value) ? (void *)value : make(heap, name, init, context, &forked);
    if (forked)
        return heap_fail(EDEADLK); /* its parent is still making the root */
    if (!has_lock)
        lock_release(&table->makers);
    return address;
}
