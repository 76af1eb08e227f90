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

#endif
