/* environment.c - the default heap's options from the environment. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap/heap.h"
#include "shm/shm.h"

/* Parses a decimal number, with K, M, G or T for a power of 1024, and nothing else around it. */
static bool parse_bytes(const char *text, size_t *bytes)
{
    static const char units[] = "KMGT";
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || number > SIZE_MAX)
        return false;

    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    int shift = unit != NULL ? 10 * (int)(unit - units + 1) : 0;
    if (unit != NULL)
        end++;
    *bytes = (size_t)number;
    for (; shift > 0; shift--)
        if (__builtin_mul_overflow(*bytes, (size_t)2, bytes))
            return false;
    return *end == '\0';
}

static bool read_backend(const char *text, struct environment *environment)
{
    environment->options.backend = shm_backend_named(text);
    return environment->options.backend != NULL;
}

static bool read_reserve(const char *text, struct environment *environment)
{
    return parse_bytes(text, &environment->options.reserve);
}

static bool read_limit(const char *text, struct environment *environment)
{
    return parse_bytes(text, &environment->options.limit);
}

static bool read_arenas(const char *text, struct environment *environment)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || number > UINT_MAX)
        return false;
    environment->options.arenas = (unsigned)number;
    return true;
}

/* Here 0 means no cache; in the options it means the default. */
static bool read_cache(const char *text, struct environment *environment)
{
    size_t bytes;

    if (!parse_bytes(text, &bytes))
        return false;
    environment->options.cache_bytes = bytes == 0 ? SIZE_MAX : bytes;
    return true;
}

static bool read_stats(const char *text, struct environment *environment)
{
    environment->stats = strcmp(text, "1") == 0;
    return environment->stats || strcmp(text, "0") == 0;
}

static bool read_flag(const char *text, struct environment *environment, unsigned flag)
{
    if (strcmp(text, "1") == 0)
        environment->options.flags |= flag;
    return strcmp(text, "1") == 0 || strcmp(text, "0") == 0;
}

static bool read_lazy(const char *text, struct environment *environment)
{
    return read_flag(text, environment, DVSM_LAZY);
}

static bool read_harden(const char *text, struct environment *environment)
{
    return read_flag(text, environment, DVSM_HARDEN);
}

/* A name, or "fd:" and a number, as dvsm_heap_inherit() writes it. */
static bool read_join(const char *text, struct environment *environment)
{
    bool is_fd = strncmp(text, "fd:", 3) == 0 && text[3] >= '0' && text[3] <= '9' &&
                 strspn(text + 3, "0123456789") == strlen(text + 3) && strlen(text) < 12;

    if (!is_fd && (shm_check_name(text) != 0 || strlen(text) >= HEAP_LABEL))
        return false;
    snprintf(environment->join, sizeof environment->join, "%s", text);
    return true;
}

static const struct variable {
    const char *name;
    bool (*read)(const char *text, struct environment *environment);
    const char *expected;
} variables[] = {
    {"DVSM_HEAP", read_join, "a name that begins with /, or fd: and a number"},
    {"DVSM_BACKEND", read_backend, "anon, shm_open or memfd"},
    {"DVSM_RESERVE", read_reserve, "bytes, with K, M, G or T"},
    {"DVSM_LIMIT", read_limit, "bytes, with K, M, G or T"},
    {"DVSM_ARENAS", read_arenas, "a number"},
    {"DVSM_CACHE", read_cache, "bytes, with K, M, G or T"},
    {"DVSM_STATS", read_stats, "0 or 1"},
    {"DVSM_LAZY", read_lazy, "0 or 1"},
    {"DVSM_HARDEN", read_harden, "0 or 1"},
};

/* A variable that is set but empty counts as not set. A value that does not parse leaves its field
 * alone. */
void environment_read(struct environment *environment)
{
    *environment = (struct environment){0};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        const char *text = secure_getenv(variables[i].name);
        struct environment attempt = *environment;

        if (text == NULL || *text == '\0')
            continue;
        if (variables[i].read(text, &attempt))
            *environment = attempt;
        else
            fprintf(stderr, "dvsm: %s=%s: expected %s; the default is used\n", variables[i].name,
                    text, variables[i].expected);
    }
}
