/* random.h - the same pseudo-random requests for every allocator. */
#ifndef BENCHMARKS_RANDOM_H
#define BENCHMARKS_RANDOM_H

#include <array>
#include <cmath>
#include <cstdint>

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"). */
class Random
{
  public:
    explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u + 1)
    {
    }
    uint32_t next()
    {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return uint32_t((state * 0x2545f4914f6cdd1du) >> 32);
    }
    /* Below `bound`, by Lemire's multiplication. */
    uint32_t below(uint32_t bound)
    {
        return uint32_t((uint64_t(next()) * bound) >> 32);
    }
    uint32_t between(uint32_t low, uint32_t high)
    {
        return low + below(high - low + 1);
    }

  private:
    uint64_t state;
};

/* Sizes from 16 bytes to 64 KiB of which a share of x^-1.2 is larger than 16 x: as 1,024
 * quantiles, so that a draw costs one load. */
class PowerLaw
{
  public:
    PowerLaw()
    {
        const double shape = 1.2, low = 16, high = 65536;
        const double reach = 1 - std::pow(low / high, shape);
        for (size_t i = 0; i < quantiles.size(); i++) {
            double share = reach * (double(i) + 0.5) / double(quantiles.size());
            quantiles[i] = uint32_t(low * std::pow(1 - share, -1 / shape));
        }
    }
    uint32_t draw(Random &random) const
    {
        return quantiles[random.next() % quantiles.size()];
    }

  private:
    std::array<uint32_t, 1024> quantiles;
};

#endif
