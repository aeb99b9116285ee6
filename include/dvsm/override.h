/* dvsm/override.h - the standard names mean the dvsm_ ones in the file that includes this.
 *
 *     #include <dvsm/override.h>
 *     ...
 *     char *line = malloc(80);       dvsm_malloc(80)
 *     list_destroy(list, free);      list_destroy(list, dvsm_free)
 *
 * It may come before or after the standard headers. Every use of one of the names changes, also as
 * the name of a member or variable. What your file declares changes consistently. What an earlier
 * header declared under such a name no longer matches, and the compiler reports that.
 *
 * NB: memory that libc itself allocates (getline, asprintf, realpath, open_memstream, ...) is still
 * libc's. Free it by dvsm_libc_free(), not by what free() now means.
 */
#ifndef DVSM_OVERRIDE_H
#define DVSM_OVERRIDE_H

/* All headers that declare one of the names. They are read now, so that they are not read after the
 * defines. */
#ifdef __cplusplus
#include <cstdlib>
#include <cstring>
#endif
#include <stdlib.h>
#include <string.h>
#ifdef __has_include
#if __has_include(<malloc.h>)
#include <malloc.h>
#endif
#endif

#include "dvsm.h"

/* Frees what libc allocated. */
static inline void dvsm_libc_free(void *block)
{
    free(block);
}

/* A standard header may have defined them as macros. */
#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
#undef free
#undef free_sized
#undef free_aligned_sized
#undef aligned_alloc
#undef posix_memalign
#undef memalign
#undef valloc
#undef pvalloc
#undef malloc_usable_size
#undef strdup
#undef strndup
#undef malloc_trim
#undef mallopt
#undef mallinfo
#undef mallinfo2
#undef malloc_stats

#define malloc dvsm_malloc
#define calloc dvsm_calloc
#define realloc dvsm_realloc
#define reallocarray dvsm_reallocarray
#define free dvsm_free
#define free_sized dvsm_free_sized
#define free_aligned_sized dvsm_free_aligned_sized
#define aligned_alloc dvsm_aligned_alloc
#define posix_memalign dvsm_posix_memalign
#define memalign dvsm_memalign
#define valloc dvsm_valloc
#define pvalloc dvsm_pvalloc
#define malloc_usable_size dvsm_malloc_usable_size
#define strdup dvsm_strdup
#define strndup dvsm_strndup
#define malloc_trim dvsm_malloc_trim
#define mallopt dvsm_mallopt
#define mallinfo dvsm_mallinfo
#define mallinfo2 dvsm_mallinfo
#define malloc_stats dvsm_malloc_stats

/* dlmalloc's further names. */
#define realloc_in_place dvsm_realloc_in_place
#define independent_calloc dvsm_independent_calloc
#define independent_comalloc dvsm_independent_comalloc
#define bulk_free dvsm_bulk_free
#define malloc_footprint dvsm_malloc_footprint
#define malloc_max_footprint dvsm_malloc_max_footprint
#define malloc_footprint_limit dvsm_malloc_footprint_limit
#define malloc_set_footprint_limit dvsm_malloc_set_footprint_limit
#define malloc_inspect_all dvsm_malloc_inspect_all

#ifdef __cplusplus
namespace std
{
using ::dvsm_calloc;
using ::dvsm_free;
using ::dvsm_malloc;
using ::dvsm_realloc;
#if __cplusplus >= 201703L
using ::dvsm_aligned_alloc;
#endif
} // namespace std
#endif

#endif
