/* ReLU and dropout in one pass over bfloat16. Which units are dropped depends on the seed and the unit's index alone. */

#include "common.h"

/* The last steps of MurmurHash3 (Appleby, public domain): every bit in moves every bit out. */
INLINE uint32_t mixed(uint32_t bits)
{
    bits = (bits ^ bits >> 16) * 0x85ebca6bu;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
    return bits ^ bits >> 16;
}

/* y = max(0, x) * (0 with the probability drop / 2^32, else scale) */
void relu_dropout(const uint16_t *x, int64_t count, uint32_t drop, float scale, const uint32_t *seed, uint16_t *y, int threads)
{
    uint32_t low = seed[0], high = seed[1];
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        uint32_t drawn = mixed(mixed((uint32_t)i ^ low) + high);
        float value = from_bfloat16(x[i]);
        y[i] = to_bfloat16((value <= 0 ? 0 : value) * (drawn < drop ? 0 : scale));
    }
}

/* dx = scale * gradient of y where y > 0, else 0 */
void relu_dropout_backward(const uint16_t *y, const uint16_t *g, int64_t count, float scale, uint16_t *dx, int threads)
{
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++)
        dx[i] = to_bfloat16(from_bfloat16(y[i]) <= 0 ? 0 : from_bfloat16(g[i]) * scale);
}
