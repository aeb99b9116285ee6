/* anon.c - shared memory that has no file. */
#include "shm/shm_internal.h"

static int anon_reserve(const dvsm_backend *self, dvsm_mapping *mapping)
{
    (void)self;
    return shm_map_anonymous(mapping);
}

const dvsm_backend dvsm_backend_anon = {
    .size = sizeof(dvsm_backend),
    .name = "anon",
    .reserve = anon_reserve,
    .commit = shm_commit,
    .release = shm_release,
    .unmap = shm_unmap,
};
