/* The sizes of a convolution by a square window: int64_t [11], as the callers in Python pass them. */

#ifndef ALEXNET_EXP_CONVOLUTION_H
#define ALEXNET_EXP_CONVOLUTION_H

#include "common.h"

typedef struct {
    int64_t n, height, width, in, out_height, out_width, out, kernel, pad, stride, groups;
} Shape;

#endif
