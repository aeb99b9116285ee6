/* text.c - copies of strings. */
#define _GNU_SOURCE
#include <string.h>

#include "heap/fast.h"

static char *copy(struct dvsm_heap *heap, const char *text, size_t length, const char *function)
{
    char *block = heap_malloc_of(heap, length + 1, function);

    if (block == NULL)
        return NULL;
    block[length] = '\0';
    return memcpy(block, text, length);
}

char *dvsm_strdup(const char *string)
{
    return copy(heap_default(), string, strlen(string), "dvsm_strdup");
}

char *dvsm_strndup(const char *string, size_t size)
{
    return copy(heap_default(), string, strnlen(string, size), "dvsm_strndup");
}

char *dvsm_heap_strdup(dvsm_heap *heap, const char *string)
{
    return copy(registry_writable(heap), string, strlen(string), "dvsm_heap_strdup");
}

char *dvsm_heap_strndup(dvsm_heap *heap, const char *string, size_t size)
{
    return copy(registry_writable(heap), string, strnlen(string, size), "dvsm_heap_strndup");
}
