/* roots.c - the public functions of roots. */
#include "heap/heap.h"

/* Reads the name; sets errno if it is none. */
static bool is_name(const char *text, struct root_name *name)
{
    return roots_read_name(text, name) || heap_fail(EINVAL) != NULL;
}

int dvsm_root_swap(dvsm_heap *heap, const char *name, void *address, void **former)
{
    struct root_name read;
    word before = 0;

    if (registry_writable(heap) == NULL || !is_name(name, &read))
        return -1;
    int error =
        roots_exchange(&heap->region->roots, &heap->segments, &read, (word)address, &before);
    heap_report_noted(heap, "dvsm_root_swap");
    if (error != 0) {
        errno = error;
        return -1;
    }
    if (former != NULL)
        *former = (void *)before;
    return 0;
}

int dvsm_root_set(dvsm_heap *heap, const char *name, void *address)
{
    return dvsm_root_swap(heap, name, address, NULL);
}

void *dvsm_root_get(dvsm_heap *heap, const char *name)
{
    struct root_name read;
    word value;

    if (registry_checked(heap) == NULL || !is_name(name, &read))
        return NULL;
    return roots_find(&heap->region->roots, &read, &value) ? (void *)value : heap_fail(ENOENT);
}

void *dvsm_root_get_or_init(dvsm_heap *heap, const char *name,
                            void *(*init)(dvsm_heap *heap, void *context), void *context)
{
    struct root_name read;

    if (registry_writable(heap) == NULL || !is_name(name, &read))
        return NULL;
    return init != NULL ? heap_root_made(heap, &read, init, context) : heap_fail(EINVAL);
}
