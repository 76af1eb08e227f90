/* Batch norm, ReLU and max pooling in one go, forward and backward, over channels_last maps of bfloat16.

   Maps are [n][height][width][channels]; sums and constants of a channel are float32 or better. Every function shares
   its work among `threads` and gives the same bits whatever their number: partial sums are of fixed pieces, and are
   added in a fixed order.

   A pool takes the first of the largest values of its window, as torch's does, or a NaN. `taken` is the place of that
   value in the window (row * kernel + column), or NONE where it does not pass the ReLU: no gradient goes there. Without
   a pool (kernel 1, stride 1) `taken` is NULL: which values pass is computed anew from x. */

#include "common.h"

#include <stdlib.h>
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

enum { CHUNK = 256, NONE = 255 };

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t u16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t b16 __attribute__((vector_size(16), aligned(1), may_alias));

/* `where` is all ones or all zeros in each lane, as comparisons give it */
INLINE i16 picked(i16 where, i16 then, i16 otherwise) { return (where & then) | (~where & otherwise); }
INLINE v16 chosen(i16 where, v16 then, v16 otherwise) { return (v16)picked(where, (i16)then, (i16)otherwise); }

INLINE v16 widened(const uint16_t *p) { return (v16)(__builtin_convertvector(*(const h16 *)p, u16) << 16); }

INLINE void narrow(uint16_t *p, v16 v)
{
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    u16 bits = (u16)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *(h16 *)p = __builtin_convertvector((u16)picked(v != v, (i16){0} + 0x7fc0, (i16)rounded), h16);
#endif
}

typedef struct {
    int64_t n, height, width, channels, kernel, stride, rows, columns; /* rows, columns: of the pooled maps */
} Shape;

/* What the last channels of a pixel, fewer than LANES, are computed in: a whole vector, the rest of it zeros. */
#define TAIL(name, type, source, count) \
    type name[LANES] = {0};             \
    memcpy(name, source, (size_t)(count) * sizeof(type))

/* ---- statistics ---- */

/* sums: [2][channels] of one chunk: its mean, and the sum of the squares of what is left. */
INLINE void chunk_statistics(const uint16_t *x, int64_t rows, int64_t channels, int64_t count, float *mean, float *squares)
{
    v16 first = {0}, sum = {0}, square = {0};
    for (int64_t row = 0; row < rows; row++) {
        v16 value;
        if (count == LANES) {
            value = widened(x + row * channels);
        } else {
            TAIL(tail, uint16_t, x + row * channels, count);
            value = widened(tail);
        }
        if (row == 0)
            first = value; /* taken off, so that no digits are lost where the mean is large */
        value -= first;
        sum += value;
        square += value * value;
    }
    v16 average = sum / (float)rows, left = square - sum * average;
    average += first;
    memcpy(mean, &average, (size_t)count * sizeof(float));
    memcpy(squares, &left, (size_t)count * sizeof(float));
}

/* Mean and variance (divided by rows) of each channel of x [rows][channels]; 0, or 1 where memory is short. */
int batch_norm_statistics(const uint16_t *x, int64_t rows, int64_t channels, float *mean, float *variance, int threads)
{
    int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    float *parts = malloc((size_t)(chunks * channels * 2) * sizeof(float));
    if (parts == NULL)
        return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const uint16_t *from = x + chunk * CHUNK * channels;
        int64_t count = least(CHUNK, rows - chunk * CHUNK);
        float *part = parts + chunk * channels * 2;
        int64_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            chunk_statistics(from + c, count, channels, LANES, part + c, part + channels + c);
        if (c < channels)
            chunk_statistics(from + c, count, channels, channels - c, part + c, part + channels + c);
    }
    /* Chan, Golub and LeVeque, 1979: the statistics of two parts together */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < channels; c++) {
        double average = parts[c], squares = parts[channels + c], seen = (double)least(CHUNK, rows);
        for (int64_t chunk = 1; chunk < chunks; chunk++) {
            const float *part = parts + chunk * channels * 2;
            double more = (double)least(CHUNK, rows - chunk * CHUNK), apart = part[c] - average, both = seen + more;
            average += apart * more / both;
            squares += part[channels + c] + apart * apart * seen * more / both;
            seen = both;
        }
        mean[c] = (float)average;
        variance[c] = (float)(squares < 0 ? 0 : squares / (double)rows);
    }
    free(parts);
    return 0;
}

/* ---- forward ---- */

INLINE void pooled_pixel(const uint16_t *x, Shape s, int64_t high, int64_t wide, int64_t count, v16 gain, v16 bias,
                         uint16_t *y, uint8_t *taken)
{
    v16 best = {0};
    i16 place = {0};
    for (int64_t i = 0; i < high; i++)
        for (int64_t j = 0; j < wide; j++) {
            const uint16_t *at = x + (i * s.width + j) * s.channels;
            v16 value;
            if (count == LANES) {
                value = widened(at);
            } else {
                TAIL(tail, uint16_t, at, count);
                value = widened(tail);
            }
            value = value * gain + bias;
            if (i == 0 && j == 0) {
                best = value;
            } else {
                i16 better = (value > best) | (value != value);
                best = chosen(better, value, best);
                place = picked(better, (i16){0} + (int32_t)(i * s.kernel + j), place);
            }
        }
    i16 stopped = best <= 0;
    best = chosen(stopped, (v16){0}, best);
    b16 places = __builtin_convertvector(picked(stopped, (i16){0} + NONE, place), b16);
    if (count == LANES) {
        narrow(y, best);
        if (taken != NULL)
            *(b16 *)taken = places;
    } else {
        uint16_t tail[LANES];
        narrow(tail, best);
        memcpy(y, tail, (size_t)count * sizeof(uint16_t));
        if (taken != NULL)
            memcpy(taken, &places, (size_t)count);
    }
}

/* One line of the pooled maps. */
INLINE void forward_line(const uint16_t *x, Shape s, const float *gain, const float *bias, uint16_t *y, uint8_t *taken,
                         int64_t line)
{
    int64_t image = line / s.rows, row = line % s.rows, top = row * s.stride;
    int64_t high = least(s.kernel, s.height - top);
    for (int64_t column = 0; column < s.columns; column++) {
        int64_t left = column * s.stride, wide = least(s.kernel, s.width - left), c = 0;
        const uint16_t *from = x + ((image * s.height + top) * s.width + left) * s.channels;
        int64_t to = (line * s.columns + column) * s.channels;
        uint8_t *place = taken == NULL ? NULL : taken + to;
#define PIXEL(high, wide, count, gain, bias) \
    pooled_pixel(from + c, s, high, wide, count, gain, bias, y + to + c, place == NULL ? NULL : place + c)
        if (high == s.kernel && wide == s.kernel) /* of a size that is known: unrolled */
            for (; c + LANES <= s.channels; c += LANES)
                PIXEL(s.kernel, s.kernel, LANES, *(const v16 *)(gain + c), *(const v16 *)(bias + c));
        else
            for (; c + LANES <= s.channels; c += LANES)
                PIXEL(high, wide, LANES, *(const v16 *)(gain + c), *(const v16 *)(bias + c));
        if (c < s.channels) {
            TAIL(g, float, gain + c, s.channels - c);
            TAIL(b, float, bias + c, s.channels - c);
            PIXEL(high, wide, s.channels - c, *(v16 *)g, *(v16 *)b);
        }
#undef PIXEL
    }
}

/* Functions of their own for the usual windows: what is outlined for threads would not see that sizes are constants. */
typedef void ForwardLine(const uint16_t *, Shape, const float *, const float *, uint16_t *, uint8_t *, int64_t);

static void forward_line_any(const uint16_t *x, Shape s, const float *gain, const float *bias, uint16_t *y,
                             uint8_t *taken, int64_t line)
{
    forward_line(x, s, gain, bias, y, taken, line);
}

static void forward_line_3_2(const uint16_t *x, Shape s, const float *gain, const float *bias, uint16_t *y,
                             uint8_t *taken, int64_t line)
{
    s.kernel = 3, s.stride = 2;
    forward_line(x, s, gain, bias, y, taken, line);
}

static void forward_line_1_1(const uint16_t *x, Shape s, const float *gain, const float *bias, uint16_t *y,
                             uint8_t *taken, int64_t line)
{
    (void)taken, s.kernel = 1, s.stride = 1;
    forward_line(x, s, gain, bias, y, NULL, line);
}

/* y = max over each window of max(0, gain * x + bias); `taken` as above. Windows are cut off at the maps' edges. */
void batch_norm_forward(const uint16_t *x, const int64_t *shape, const float *gain, const float *bias, uint16_t *y,
                        uint8_t *taken, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    ForwardLine *forward = s.kernel == 1 ? forward_line_1_1 : forward_line_any;
    if (s.kernel == 3 && s.stride == 2)
        forward = forward_line_3_2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t line = 0; line < s.n * s.rows; line++)
        forward(x, s, gain, bias, y, taken, line);
}

/* ---- backward ---- */

/* The gradient behind the pool and the ReLU that falls to one pixel, of one block of channels. */
INLINE v16 gradient_at(const uint16_t *g, const uint8_t *taken, int64_t tap, int64_t count)
{
    v16 gradient;
    i16 places;
    if (count == LANES) {
        gradient = widened(g);
        places = __builtin_convertvector(*(const b16 *)taken, i16);
    } else {
        TAIL(tail, uint16_t, g, count);
        gradient = widened(tail);
        TAIL(place, uint8_t, taken, count);
        places = __builtin_convertvector(*(b16 *)place, i16);
    }
    return chosen(places == (i16){0} + (int32_t)tap, gradient, (v16){0});
}

INLINE v16 value_at(const uint16_t *x, int64_t count)
{
    if (count == LANES)
        return widened(x);
    TAIL(tail, uint16_t, x, count);
    return widened(tail);
}

INLINE v16 floats_at(const float *x, int64_t count)
{
    if (count == LANES)
        return *(const v16 *)x;
    TAIL(tail, float, x, count);
    return *(v16 *)tail;
}

INLINE void add_to(float *x, v16 more, int64_t count)
{
    if (count == LANES) {
        *(v16 *)x += more;
        return;
    }
    for (int64_t i = 0; i < count; i++)
        x[i] += ((float *)&more)[i];
}

/* One pixel of the pooled maps, one block of channels: adds g and g * (x - mean), x being the value that was taken. */
INLINE void add_sums(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, int64_t high, int64_t wide,
                     const float *gain, const float *bias, const float *mean, float *sums, int64_t count)
{
    v16 gradient, value;
    if (taken == NULL) {
        value = value_at(x, count);
        i16 stopped = value * floats_at(gain, count) + floats_at(bias, count) <= 0;
        gradient = chosen(stopped, (v16){0}, value_at(g, count));
    } else {
        i16 places;
        if (count == LANES) {
            places = __builtin_convertvector(*(const b16 *)taken, i16);
        } else {
            TAIL(place, uint8_t, taken, count);
            places = __builtin_convertvector(*(b16 *)place, i16);
        }
        gradient = chosen(places == NONE, (v16){0}, value_at(g, count));
        value = value_at(x, count);
        for (int64_t i = 0; i < high; i++)
            for (int64_t j = 0; j < wide; j++) {
                if (i == 0 && j == 0)
                    continue;
                i16 here = places == (i16){0} + (int32_t)(i * s.kernel + j);
                value = chosen(here, value_at(x + (i * s.width + j) * s.channels, count), value);
            }
    }
    add_to(sums, gradient, count);
    add_to(sums + s.channels, gradient * (value - floats_at(mean, count)), count);
}

INLINE void sums_of_line(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, const float *gain,
                         const float *bias, const float *mean, float *part, int64_t line)
{
    int64_t image = line / s.rows, top = line % s.rows * s.stride, high = least(s.kernel, s.height - top);
    memset(part, 0, (size_t)(s.channels * 2) * sizeof(float));
    for (int64_t column = 0; column < s.columns; column++) {
        int64_t left = column * s.stride, wide = least(s.kernel, s.width - left), c = 0;
        const uint16_t *from = x + ((image * s.height + top) * s.width + left) * s.channels;
        int64_t at = (line * s.columns + column) * s.channels;
        const uint8_t *place = taken == NULL ? NULL : taken + at;
#define ADD(high, wide, count)                                                                                        \
    add_sums(from + c, g + at + c, place == NULL ? NULL : place + c, s, high, wide, gain + c, bias + c, mean + c, part + c, \
             count)
        if (high == s.kernel && wide == s.kernel)
            for (; c + LANES <= s.channels; c += LANES)
                ADD(s.kernel, s.kernel, LANES);
        else
            for (; c + LANES <= s.channels; c += LANES)
                ADD(high, wide, LANES);
        if (c < s.channels)
            ADD(high, wide, s.channels - c);
#undef ADD
    }
}

typedef void SumsOfLine(const uint16_t *, const uint16_t *, const uint8_t *, Shape, const float *, const float *,
                        const float *, float *, int64_t);

static void sums_of_line_any(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, const float *gain,
                             const float *bias, const float *mean, float *part, int64_t line)
{
    sums_of_line(x, g, taken, s, gain, bias, mean, part, line);
}

static void sums_of_line_3_2(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, const float *gain,
                             const float *bias, const float *mean, float *part, int64_t line)
{
    s.kernel = 3, s.stride = 2;
    sums_of_line(x, g, taken, s, gain, bias, mean, part, line);
}

/* Of the gradient g of y, as it comes to the batch norm: sums [2][channels], of it and of it times (x - mean). */
int batch_norm_sums(const uint16_t *x, const uint16_t *g, const uint8_t *taken, const int64_t *shape, const float *gain,
                    const float *bias, const float *mean, float *sums, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    int64_t lines = s.n * s.rows;
    float *parts = malloc((size_t)(lines * s.channels * 2) * sizeof(float));
    if (parts == NULL)
        return 1;
    SumsOfLine *sums_of = s.kernel == 3 && s.stride == 2 ? sums_of_line_3_2 : sums_of_line_any;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t line = 0; line < lines; line++)
        sums_of(x, g, taken, s, gain, bias, mean, parts + line * s.channels * 2, line);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < s.channels * 2; block += LANES) {
        int64_t count = least(LANES, s.channels * 2 - block);
        double total[LANES] = {0};
        for (int64_t line = 0; line < lines; line++)
            for (int64_t c = 0; c < count; c++)
                total[c] += parts[line * s.channels * 2 + block + c];
        for (int64_t c = 0; c < count; c++)
            sums[block + c] = (float)total[c];
    }
    free(parts);
    return 0;
}

INLINE void backward_block(const uint16_t *x, const uint16_t *const *g, const uint8_t *const *taken, const int64_t *taps,
                           int64_t windows, int64_t c, const float *gain, const float *bias, const float *scale,
                           const float *slope, const float *offset, uint16_t *dx, int64_t count)
{
    v16 gradient = {0}, value = value_at(x + c, count);
    if (taps == NULL) {
        i16 stopped = value * floats_at(gain + c, count) + floats_at(bias + c, count) <= 0;
        gradient = chosen(stopped, (v16){0}, value_at(g[0] + c, count));
    } else {
        for (int64_t i = 0; i < windows; i++)
            gradient += gradient_at(g[i] + c, taken[i] + c, taps[i], count);
    }
    gradient = gradient * floats_at(scale + c, count) + (value * floats_at(slope + c, count) + floats_at(offset + c, count));
    if (count == LANES) {
        narrow(dx + c, gradient);
    } else {
        uint16_t tail[LANES];
        narrow(tail, gradient);
        memcpy(dx + c, tail, (size_t)count * sizeof(uint16_t));
    }
}

/* One line of the maps that came in. */
INLINE void backward_line(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, const float *gain,
                          const float *bias, const float *scale, const float *slope, const float *offset, uint16_t *dx,
                          int64_t line)
{
    int64_t each = (s.kernel + s.stride - 1) / s.stride; /* windows over a pixel, along a side */
    const uint16_t *gradients[each * each];
    const uint8_t *places[each * each];
    int64_t taps[each * each];
    int64_t image = line / s.height, y = line % s.height, last_row = least(y / s.stride, s.rows - 1);
    int64_t first_row = y < s.kernel ? 0 : (y - s.kernel) / s.stride + 1;
    for (int64_t column = 0; column < s.width; column++) {
        int64_t last_column = least(column / s.stride, s.columns - 1), windows = 0, c = 0;
        int64_t first_column = column < s.kernel ? 0 : (column - s.kernel) / s.stride + 1;
        for (int64_t i = first_row; i <= last_row; i++)
            for (int64_t j = first_column; j <= last_column; j++) {
                int64_t at = ((image * s.rows + i) * s.columns + j) * s.channels;
                gradients[windows] = g + at;
                places[windows] = taken == NULL ? NULL : taken + at;
                taps[windows++] = (y - i * s.stride) * s.kernel + column - j * s.stride;
            }
        int64_t at = (line * s.width + column) * s.channels;
        const int64_t *known = taken == NULL ? NULL : taps;
#define BLOCKS(windows)                        \
    for (; c + LANES <= s.channels; c += LANES) \
    BLOCK(windows, LANES)
#define BLOCK(windows, count) \
    backward_block(x + at, gradients, places, known, windows, c, gain, bias, scale, slope, offset, dx + at, count)
        if (windows == 1) /* counts that are known: unrolled */
            BLOCKS(1);
        else if (windows == 2)
            BLOCKS(2);
        else if (windows == 4)
            BLOCKS(4);
        else
            BLOCKS(windows);
        if (c < s.channels)
            BLOCK(windows, s.channels - c);
#undef BLOCK
#undef BLOCKS
    }
}

typedef void BackwardLine(const uint16_t *, const uint16_t *, const uint8_t *, Shape, const float *, const float *,
                          const float *, const float *, const float *, uint16_t *, int64_t);

static void backward_line_any(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, const float *gain,
                              const float *bias, const float *scale, const float *slope, const float *offset,
                              uint16_t *dx, int64_t line)
{
    backward_line(x, g, taken, s, gain, bias, scale, slope, offset, dx, line);
}

static void backward_line_3_2(const uint16_t *x, const uint16_t *g, const uint8_t *taken, Shape s, const float *gain,
                              const float *bias, const float *scale, const float *slope, const float *offset,
                              uint16_t *dx, int64_t line)
{
    s.kernel = 3, s.stride = 2;
    backward_line(x, g, taken, s, gain, bias, scale, slope, offset, dx, line);
}

/* dx = scale * g + slope * x + offset, g being the gradient of y as it comes to each pixel. */
void batch_norm_backward(const uint16_t *x, const uint16_t *g, const uint8_t *taken, const int64_t *shape,
                         const float *gain, const float *bias, const float *scale, const float *slope,
                         const float *offset, uint16_t *dx, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    BackwardLine *backward = s.kernel == 3 && s.stride == 2 ? backward_line_3_2 : backward_line_any;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t line = 0; line < s.n * s.height; line++)
        backward(x, g, taken, s, gain, bias, scale, slope, offset, dx, line);
}
