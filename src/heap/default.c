/* default.c - the default heap. It is made before main(), so that every later fork shares it.
 *
 * A constructor makes it, or the first call does if some other constructor allocates earlier. If
 * that fails, each later call tries again. heap_replace_default() can replace it as long as nothing
 * has been allocated.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap/hardened.h"
#include "sync/cancel.h"

/* If a backend cannot reserve this much, another backend is tried first: a large anonymous heap is
 * better than a tiny file (RLIMIT_FSIZE). */
#define COMFORTABLE ((size_t)256 << 20)

/* What the default heap is made with. Private to the process. */
struct setup {
    dvsm_options options;
    bool strict; /* dvsm_init() was given a reserve: that or nothing */
    char name[HEAP_LABEL];
};

static struct environment environment;
static struct setup setup;
static bool environment_known;
static pid_t creator; /* the process whose exit prints the statistics */

static void set_up(struct setup *s, const dvsm_options *options, bool strict)
{
    s->options = *options;
    s->strict = strict;
    if (options->name != NULL) {
        snprintf(s->name, sizeof s->name, "%s", options->name);
        s->options.name = s->name;
    }
}

/* The heap that DVSM_HEAP names: joined, or made if it is a name and nothing has it. A line on
 * stderr says why it cannot be; then there is no default heap. */
static struct dvsm_heap *join(int *error)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    dvsm_options options = environment.options;
    struct dvsm_heap *heap;

    options.backend = &dvsm_backend_shm_open;
    options.name = environment.join;
    if (environment.join[0] == '/')
        heap = heap_make(&options, HEAP_DEFAULT, 0, error);
    else
        heap = heap_attach_fd(atoi(environment.join + 3), false, error);
    if (heap == NULL && !atomic_flag_test_and_set(&told)) {
        int cancel = cancel_put_off();

        fprintf(stderr, "dvsm: DVSM_HEAP: %s; there is no default heap\n",
                heap_message()[0] != '\0' ? heap_message() : strerror(*error));
        cancel_restore(cancel);
    }
    return heap;
}

static bool is_joined(void)
{
    return environment.join[0] != '\0';
}

static void know_environment(void)
{
    if (environment_known)
        return;
    environment_known = true;

    int cancel = cancel_put_off(); /* it may print a message */
    environment_read(&environment);
    cancel_restore(cancel);
    set_up(&setup, &environment.options, false);
    creator = getpid();
}

/* If the user chose a backend, no other is tried. A reserve from the environment may be halved, as
 * the default may: before main() nobody could be told of a failure, and the program would have no
 * heap. */
static struct dvsm_heap *make(const struct setup *s, int *error)
{
    const dvsm_backend *const backends[] = {&dvsm_backend_memfd, &dvsm_backend_anon};
    const size_t least[] = {COMFORTABLE, 0};
    struct dvsm_heap *heap = NULL;
    dvsm_options options = s->options;

    if (s->options.backend != NULL)
        return heap_make(&options, HEAP_DEFAULT, s->strict ? options.reserve : 0, error);
    for (int attempt = 0; heap == NULL && attempt < 4; attempt++) {
        size_t enough = s->strict ? options.reserve : least[attempt / 2];

        options.backend = backends[attempt % 2];
        heap = heap_make(&options, HEAP_DEFAULT, enough, error);
    }
    return heap;
}

NOINLINE struct dvsm_heap *heap_make_default(void)
{
    struct dvsm_heap *there = NULL;
    int error;

    know_environment();
    struct dvsm_heap *heap = is_joined() ? join(&error) : make(&setup, &error);
    if (heap == NULL)
        return heap_fail(ENOMEM);
    if (atomic_compare_exchange_strong(&heap_the_default, &there, heap)) {
        view_show(heap);
        return heap;
    }
    heap_unmake(heap, !is_joined() && setup.options.name == NULL); /* another thread was faster */
    return there;
}

/* 101 is the first priority that is not reserved for the C library. */
__attribute__((constructor(101))) static void make_before_main(void)
{
    int saved = errno;

    heap_default();
    errno = saved;
}

static void check_at_exit(struct dvsm_heap *heap)
{
    if (heap->creator == getpid())
        hardened_check(heap, "exit");
}

__attribute__((destructor(101))) static void look_at_exit(void)
{
    struct dvsm_heap *heap = atomic_load(&heap_the_default);

    registry_each(check_at_exit);
    if (environment.stats && heap != NULL && getpid() == creator)
        heap_print_stats(heap, "exit");
}

static bool was_used(const struct dvsm_heap *heap)
{
    for (size_t i = 0; i < region_arena_count(heap->region); i++)
        if (region_arena(heap->region, i)->arena.footprint_most != 0)
            return true;
    return false;
}

/* Fields that `options` leaves at zero are taken from the environment; flags of both apply. */
static void fill_from_environment(dvsm_options *options)
{
    const dvsm_options *given = &environment.options;

    if (options->backend == NULL)
        options->backend = given->backend;
    if (options->reserve == 0)
        options->reserve = given->reserve;
    if (options->limit == 0)
        options->limit = given->limit;
    if (options->arenas == 0)
        options->arenas = given->arenas;
    if (options->cache_bytes == 0)
        options->cache_bytes = given->cache_bytes;
    options->flags |= given->flags;
}

/* The old heap is destroyed first: there might not be address space for two. If it cannot be
 * destroyed, it stays. */
static int replace(const struct setup *wanted)
{
    view_hide();
    struct dvsm_heap *old = atomic_exchange(&heap_the_default, NULL);
    bool own = old != NULL && old->creator != 0 && atomic_load(&old->joined) == 1;
    int error = old != NULL ? heap_unmake(old, own) : 0, ignored;

    if (error != 0 && registry_checked(old) != NULL) {
        atomic_store(&heap_the_default, old);
        view_show(old);
        return error;
    }
    struct dvsm_heap *heap = make(wanted, &error);
    if (heap != NULL) {
        set_up(&setup, &wanted->options, wanted->strict);
        error = 0;
    } else {
        heap = make(&setup, &ignored);
    }
    atomic_store(&heap_the_default, heap);
    if (heap != NULL)
        view_show(heap);
    return error;
}

int heap_replace_default(const dvsm_options *options)
{
    struct setup wanted;
    dvsm_options complete;

    know_environment();
    if (!options_read(options, &complete))
        return EINVAL;

    struct dvsm_heap *heap = atomic_load(&heap_the_default);
    bool strict = complete.reserve != 0;

    fill_from_environment(&complete);
    set_up(&wanted, &complete, strict);
    return is_joined() || (heap != NULL && was_used(heap)) ? EBUSY : replace(&wanted);
}
