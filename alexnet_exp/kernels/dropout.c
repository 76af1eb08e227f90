/* ReLU and dropout in one go, over bfloat16. Which units are dropped follows from the seed and the unit's place alone. */

#include <stdint.h>

/* The last steps of MurmurHash3 (Appleby, public domain): every bit in moves every bit out. */
static inline uint32_t mixed(uint32_t bits)
{
    bits = (bits ^ bits >> 16) * 0x85ebca6bu;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
    return bits ^ bits >> 16;
}

static inline float widened(uint16_t half)
{
    union { uint32_t bits; float value; } wide = {(uint32_t)half << 16};
    return wide.value;
}

static inline uint16_t narrow(float value)
{
    union { float value; uint32_t bits; } wide = {value};
    uint32_t rounded = (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
    return (uint16_t)(value != value ? 0x7fc0 : rounded);
}

/* y = max(0, x) * (0 with the probability drop / 2^32, else scale) */
void relu_dropout(const uint16_t *x, int64_t count, uint32_t drop, float scale, const uint32_t *seed, uint16_t *y, int threads)
{
    uint32_t low = seed[0], high = seed[1];
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        uint32_t drawn = mixed(mixed((uint32_t)i ^ low) + high);
        float value = widened(x[i]);
        y[i] = narrow((value <= 0 ? 0 : value) * (drawn < drop ? 0 : scale));
    }
}

/* dx: the gradient of y where y let something through, times scale */
void relu_dropout_backward(const uint16_t *y, const uint16_t *g, int64_t count, float scale, uint16_t *dx, int threads)
{
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++)
        dx[i] = narrow(widened(y[i]) <= 0 ? 0 : widened(g[i]) * scale);
}
