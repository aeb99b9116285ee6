/* bits.h - bit operations under the names the rest of the code uses. */
#ifndef DVSM_BASE_BITS_H
#define DVSM_BASE_BITS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

enum { SIZE_BITS = sizeof(size_t) * CHAR_BIT };

/* Index of the lowest bit set; x is not 0. */
static inline unsigned bits_lowest(size_t x)
{
    return (unsigned)__builtin_ctzl(x);
}

/* Index of the highest bit set; x is not 0. */
static inline unsigned bits_highest(size_t x)
{
    return (unsigned)(SIZE_BITS - 1) - (unsigned)__builtin_clzl(x);
}

/* The bits of `map` above bit `index`. */
static inline size_t bits_above(size_t map, unsigned index)
{
    return map & ~(((size_t)2 << index) - 1);
}

static inline bool bits_is_power_of_two(size_t x)
{
    return x != 0 && (x & (x - 1)) == 0;
}

/* x rounded down and up to a multiple of `unit`, a power of two; up wraps to 0 near SIZE_MAX. */
static inline size_t bits_round_down(size_t x, size_t unit)
{
    return x & ~(unit - 1);
}

static inline size_t bits_round_up(size_t x, size_t unit)
{
    return (x + unit - 1) & ~(unit - 1);
}

/* The smallest power of two that is at least x; 0 where none fits. */
static inline size_t bits_power_of_two_above(size_t x)
{
    if (x <= 1)
        return 1;
    if (x > (size_t)1 << (SIZE_BITS - 1))
        return 0;
    return (size_t)2 << bits_highest(x - 1);
}

/* A number to be summed over the members of a set: two sets with equal sums are the same set,
 * except with a small chance. */
static inline size_t bits_fingerprint(size_t x)
{
    x ^= x >> 15;
    x *= (size_t)0x9E3779B97F4A7C15u;
    x ^= x >> 13;
    return x * x + x;
}

#endif
