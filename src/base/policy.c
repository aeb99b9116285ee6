/* policy.c - the numbers that a heap begins with. */
#include "base/policy.h"

enum { KIB = 1 << 10, MIB = 1 << 20, GRANULES_A_MIB = 16 };

void policy_set_defaults(struct policy *policy)
{
    *policy = (struct policy){
        .retain_granules = POLICY_BY_USE,
        .retain_least_granules = 16 * GRANULES_A_MIB,
        .retain_limit_part = 4,
        .retain_use_part = 2,

        .trim_threshold = POLICY_TRIM_THRESHOLD,
        .granularity = POLICY_GRANULARITY,
        .large_threshold = POLICY_LARGE_THRESHOLD,
        .growth_most = 2 * MIB,

        .own_from = 64 * KIB,
        .uneven_least = 64 * KIB,
        .uneven_part = 8,
        .detour_uses = 1024,

        .cpu_bytes = 32 * MIB,
        .cached_limit_part = 8,
        .small_limit = 32 * MIB,
        .fill_bytes = 32 * KIB,
        .reduce_least = 256 * KIB,
        .reduce_part = 32,
        .reduce_most = 4 * MIB,
        .below_bound_part = 32,
        .large_bound = 16 * MIB,
        .fed_magazines = 4,
        .fed_exchanges = 16,
        .tight_requests = 1024,
    };
}
