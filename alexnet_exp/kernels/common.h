/* Shared by the kernels: forced inlining, the smaller and the greater of two sizes, and bfloat16.

   A bfloat16 is the upper half of a float; it is kept in memory as uint16_t. */

#ifndef ALEXNET_EXP_COMMON_H
#define ALEXNET_EXP_COMMON_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 }; /* floats in a vector of 512 bits */

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE float from_bfloat16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The bits of the nearest bfloat16, ties to even. The value is no NaN: rounding could carry over into its sign. */
INLINE uint32_t nearest_bfloat16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INLINE uint16_t number_to_bfloat16(float value) { return (uint16_t)nearest_bfloat16(value); }

/* Of any value: every NaN becomes the one NaN 0x7fc0. */
INLINE uint16_t to_bfloat16(float value)
{
    uint32_t rounded = nearest_bfloat16(value);
    return (uint16_t)(value != value ? 0x7fc0 : rounded);
}

#endif
