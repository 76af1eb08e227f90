/* The sizes of a convolution by a square window: int64_t [11], as the callers in Python pass them. */

#ifndef ALEXNET_EXP_CONVOLUTION_H
#define ALEXNET_EXP_CONVOLUTION_H

#include "common.h"

typedef struct {
    int64_t n, height, width, in, out_height, out_width, out, kernel, pad, stride, groups;
} Shape;

/* The functions of convolution_amx.c are for convolution.c only, and not exported. */
#define HIDDEN __attribute__((visibility("hidden")))

enum { AMX_BLOCK = 32 }; /* maps of a block of packed weights */

/* Whether this machine has the products of tiles, and they apply to these numbers of maps. */
HIDDEN int amx_takes(int64_t in, int64_t out);

HIDDEN void amx_convolved(const uint16_t *x, const uint32_t *w, const Shape *of, const float *bias, int relu, uint16_t *y,
                          int threads);

HIDDEN int amx_weight_gradient(const uint16_t *x, const uint16_t *g, const Shape *of, float *weights, int threads);

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>

/* Rows and columns of 16 x 16 values of 32 bits change places. */
INLINE void transpose(__m512i rows[LANES])
{
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* now the quarters of 128 bits */
        t[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        rows[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        rows[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}
#endif

#endif
