/* drain.c - emptying the cache: depots, and the lanes that can be reached.
 *
 * Any thread can empty a lane that is behind a lock. A lane with sequences can be emptied only from
 * its own CPU. The calling thread stays where it is, with the affinity that the program gave it. To
 * empty all lanes, a thread of the library's own goes to the other CPUs, and ends.
 */
#define _GNU_SOURCE
#include "cache/depot.h"
#include "cache/lane_locked.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

enum { VISITOR_STACK = 128 << 10, MASK_BYTES = (1 << 16) / CHAR_BIT };

/* A sequence that was aborted is tried again, but not for ever: a debugger may step through it. */
enum { SEQUENCE_TRIES = 3 };

/* Takes the lane's magazine to the depot. Whether the lane has none any more. */
static bool unload_class(struct cache *cache, size_t lane, unsigned cls)
{
    struct depot *d = depot_of(cache, cls);
    word w = 0;
    bool done = false;

    if (!depot_enter(cache, cls))
        return false;
    for (int tries = 0; tries < SEQUENCE_TRIES && !done; tries++) {
        w = lane_word(cache, lane, cls);
        done = w == 0 || cache_exchange(cache, cls, lane, w, 0);
    }
    depot_end_transit(d, cls, cpu_group_of(cache_cpu_of(cache, lane)), done ? w : 0);
    depot_leave(d);
    return done;
}

static bool begin_to_empty(const struct cache *cache, size_t lane)
{
    if (cache->table->mode == LANES_LOCKED)
        return lane_locked_begin_to_empty(&cache->table->lanes[lane]);
    for (int tries = 0; tries < SEQUENCE_TRIES; tries++)
        if (lane_begin_to_empty(cache_view_of(cache, lane), (unsigned)cache_cpu_of(cache, lane)))
            return true;
    return false;
}

/* Takes what is loaded there to the depots. Unless lanes are locked, the thread is on the lane's
 * CPU. */
static void unload_lane(struct cache *cache, size_t lane)
{
    uint32_t state = LANE_BEING_EMPTIED;
    bool empty = true;

    if (!lane_is_filled(cache, lane) || !begin_to_empty(cache, lane))
        return;
    for (unsigned cls = 0; cls < cache->table->classes_most; cls++)
        if (lane_word(cache, lane, cls) != 0)
            empty &= unload_class(cache, lane, cls);
    if (empty)
        __atomic_compare_exchange_n(&cache->table->lanes[lane].filled, &state, 0, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* All lanes of the CPU. */
static void unload(struct cache *cache, size_t cpu)
{
    for (size_t lane = cpu; lane < cache_lanes(cache->table); lane += cache->table->cpus)
        unload_lane(cache, lane);
}

/* Goes to each CPU that the thread may run on. The thread was made for this alone. */
static void *visit_cpus(void *context)
{
    struct cache *cache = context;
    size_t bytes = CPU_ALLOC_SIZE(cache->table->cpus);
    char allowed[MASK_BYTES], one[MASK_BYTES];

    if (bytes > sizeof allowed || sched_getaffinity(0, bytes, (cpu_set_t *)(void *)allowed) != 0)
        return NULL;
    for (size_t cpu = 0; cpu < cache->table->cpus; cpu++) {
        if (!CPU_ISSET_S(cpu, bytes, (cpu_set_t *)(void *)allowed))
            continue;
        CPU_ZERO_S(bytes, (cpu_set_t *)(void *)one);
        CPU_SET_S(cpu, bytes, (cpu_set_t *)(void *)one);
        if (sched_setaffinity(0, bytes, (cpu_set_t *)(void *)one) == 0)
            unload(cache, cpu);
    }
    return NULL;
}

/* All signals but those that an instruction itself raises: these cannot be kept for later. */
static void fill_with_signals(sigset_t *set)
{
    static const int synchronous[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};

    sigfillset(set);
    for (size_t i = 0; i < sizeof synchronous / sizeof synchronous[0]; i++)
        sigdelset(set, synchronous[i]);
}

/* The visitor takes no signals: they are the program's. */
static void send_visitor(struct cache *cache)
{
    pthread_attr_t attributes;
    pthread_t visitor;
    sigset_t all, before;
    int state;

    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setstacksize(&attributes, VISITOR_STACK);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    fill_with_signals(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    bool made = pthread_create(&visitor, &attributes, visit_cpus, cache) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (made)
        pthread_join(visitor, NULL);
    pthread_setcancelstate(state, NULL);
    pthread_attr_destroy(&attributes);
}

/* Whether a lane of another CPU may have anything. */
static bool others_have_blocks(const struct cache *cache)
{
    size_t here = cache_cpu(cache);

    for (size_t lane = 0; lane < cache_lanes(cache->table); lane++)
        if (cache_cpu_of(cache, lane) != here && lane_is_filled(cache, lane))
            return true;
    return false;
}

static void unload_lanes(struct cache *cache, enum drain drain)
{
    if (cache->table->mode == LANES_LOCKED) {
        for (size_t cpu = 0; cpu < cache->table->cpus; cpu++)
            unload(cache, cpu);
        return;
    }
    if (cache->view.mode != LANES_SEQUENCES) /* a process without sequences leaves lanes alone */
        return;
    unload(cache, cache_cpu(cache));
    if (drain == DRAIN_ALL && others_have_blocks(cache))
        send_visitor(cache);
}

bool cache_drain(struct cache *cache, enum drain drain, struct fault *fault)
{
    size_t drained = 0;

    if (cache->table->classes_most == 0 || lock_holds_any())
        return false;
    unload_lanes(cache, drain);
    if (word_peek(&cache->table->drained) != 0)
        return false;
    word_show(&cache->table->drained, 1); /* a thread that puts something into a depot clears it */
    for (unsigned cls = 0; cls < CACHE_CLASSES; cls++) {
        drained += stock_drain(cache, cls, SIZE_MAX, fault);
        depot_shrink(cache, cls);
    }
    return drained > 0;
}
