/* classes.c - the classes of the second kind, by size / 128. */
#include "cache/classes.h"

#define EIGHT(first)                                                                               \
    (first), (first) + 1, (first) + 2, (first) + 3, (first) + 4, (first) + 5, (first) + 6,         \
        (first) + 7
#define TIMES2(x) x, x
#define TIMES4(x) x, x, x, x
#define TIMES8(x) TIMES4(x), TIMES4(x)
#define TIMES16(x) TIMES8(x), TIMES8(x)
#define EIGHT_OF(times, first)                                                                     \
    times(first), times((first) + 1), times((first) + 2), times((first) + 3), times((first) + 4),  \
        times((first) + 5), times((first) + 6), times((first) + 7)

/* Below 1152 bytes nothing; then a step of 128, of 256, ... of 2048. */
const unsigned char class_coarse_table[CLASS_MOST / 128 + 1] = {
    [9] = 65,
    66,
    67,
    68,
    69,
    70,
    71,
    EIGHT_OF(TIMES2, 72),
    EIGHT_OF(TIMES4, 80),
    EIGHT_OF(TIMES8, 88),
    EIGHT_OF(TIMES16, 96),
    104,
};
