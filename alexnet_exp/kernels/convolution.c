/* Convolutions of stride 1 over channels_last maps of bfloat16, and their gradients; sums in float32.

   Libraries multiply by the padding's zeros: with a 3x3 window on 5x5 maps a quarter of the work. Here what is computed
   side by side is one pixel of several images, so that a window that hangs over the maps' edge is cut off exactly.
   The processor multiplies bfloat16 in pairs: two maps in of a pixel; for the gradient of the weights, which is summed
   over pixels and images, one pixel of two images. Every value is summed by one thread in one order: the same bits
   whatever the number of threads. */

#include "convolution.h"

#include <stdlib.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <math.h>

enum { MOST = 8, NEAR = 400 * 1024 }; /* NEAR: bytes of maps at hand, in the second cache */

/* One pixel's channels of two images, in pairs; the second may be missing. */
INLINE void interleaved(const uint16_t *first, const uint16_t *second, int64_t channels, uint32_t *pairs)
{
    for (int64_t c = 0; c < channels; c++)
        pairs[c] = (uint32_t)first[c] | (second == NULL ? 0 : (uint32_t)second[c] << 16);
}

/* maps [n][pixels][channels] to [blocks][pairs of images][pixels][size] pairs, zeros behind the last channel */
static void packed(const uint16_t *maps, int64_t n, int64_t pixels, int64_t channels, int64_t size, uint32_t *to, int threads)
{
    int64_t couples = (n + 1) / 2, blocks = (channels + size - 1) / size;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t couple = 0; couple < couples; couple++)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            const uint16_t *first = maps + (2 * couple * pixels + pixel) * channels;
            const uint16_t *second = 2 * couple + 1 < n ? first + pixels * channels : NULL;
            for (int64_t block = 0; block < blocks; block++) {
                uint32_t *place = to + ((block * couples + couple) * pixels + pixel) * size;
                int64_t from = block * size, count = least(size, channels - from);
                if (second == NULL)
                    interleaved(first + from, NULL, count, place);
                else
                    interleaved(first + from, second + from, count, place);
                for (int64_t c = count; c < size; c++)
                    place[c] = 0;
            }
        }
}

/* One tap of the window: `rows` maps out (of a block of `tall`) by `wide` vectors of maps in, over some pairs. */
INLINE void tile(const uint32_t *x, const uint32_t *g, Shape s, int64_t couples, int64_t down, int64_t right,
                 const int tall, const int wide, int64_t rows, float *to, int more)
{
    __m512 sums[MOST][4];
    int64_t top = most(0, s.pad - down), bottom = least(s.out_height, s.height + s.pad - down);
    int64_t left = most(0, s.pad - right), run = least(s.out_width, s.width + s.pad - right) - left;
#pragma GCC unroll 8
    for (int r = 0; r < tall; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++)
            sums[r][v] = _mm512_setzero_ps();
    for (int64_t couple = 0; couple < couples; couple++)
        for (int64_t row = top; row < bottom; row++) {
            const uint32_t *values = x + ((couple * s.height + row + down - s.pad) * s.width + left + right - s.pad) * wide * LANES;
            const uint32_t *gradients = g + ((couple * s.out_height + row) * s.out_width + left) * tall;
            for (int64_t column = 0; column < run; column++, values += wide * LANES, gradients += tall) {
                __m512i value[4];
#pragma GCC unroll 4
                for (int v = 0; v < wide; v++)
                    value[v] = _mm512_loadu_si512(values + v * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < tall; r++) {
                    __m512bh gradient = (__m512bh)_mm512_set1_epi32((int)gradients[r]);
#pragma GCC unroll 4
                    for (int v = 0; v < wide; v++)
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], gradient, (__m512bh)value[v]);
                }
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < tall; r++)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < wide; v++) {
                float *place = to + r * s.kernel * s.kernel * s.in + v * LANES;
                _mm512_storeu_ps(place, more ? _mm512_add_ps(_mm512_loadu_ps(place), sums[r][v]) : sums[r][v]);
            }
}

/* Functions of their own: what is outlined for threads would not see that these sizes are constants. */
typedef void Tile(const uint32_t *, const uint32_t *, Shape, int64_t, int64_t, int64_t, int64_t, float *, int);

static void tile_6_4(const uint32_t *x, const uint32_t *g, Shape s, int64_t couples, int64_t down, int64_t right,
                     int64_t rows, float *to, int more)
{
    tile(x, g, s, couples, down, right, 6, 4, rows, to, more);
}

static void tile_8_3(const uint32_t *x, const uint32_t *g, Shape s, int64_t couples, int64_t down, int64_t right,
                     int64_t rows, float *to, int more)
{
    tile(x, g, s, couples, down, right, 8, 3, rows, to, more);
}

static void all_tiles(const uint32_t *x, const uint32_t *g, Shape s, int tall, int wide, float *to, int threads)
{
    Tile *tile = wide == 4 ? tile_6_4 : tile_8_3;
    int64_t couples = (s.n + 1) / 2, size = wide * LANES, blocks = s.in / size, out_blocks = (s.out + tall - 1) / tall;
    int64_t pixels = s.height * s.width, out_pixels = s.out_height * s.out_width;
    int64_t step = most(1, NEAR / (pixels * size * (int64_t)sizeof(uint32_t)));
#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < couples; first += step) {
        int64_t count = least(step, couples - first);
#pragma omp for schedule(static) nowait /* the same tiles fall to the same thread every time */
        for (int64_t each = 0; each < blocks * out_blocks; each++) {
            int64_t block = each / out_blocks, out_block = each % out_blocks;
            const uint32_t *values = x + (block * couples + first) * pixels * size;
            const uint32_t *gradients = g + (out_block * couples + first) * out_pixels * tall;
            for (int64_t tap = 0; tap < s.kernel * s.kernel; tap++)
                tile(values, gradients, s, count, tap / s.kernel, tap % s.kernel,
                     least(tall, s.out - out_block * tall),
                     to + (out_block * tall * s.kernel * s.kernel + tap) * s.in + block * size, first > 0);
        }
    }
}

static void bias_gradient(const uint16_t *g, Shape s, float *to, int threads)
{
    int64_t pixels = s.out_height * s.out_width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < s.out; from += LANES) {
        int64_t count = least(LANES, s.out - from);
        __mmask16 mask = (__mmask16)((1u << count) - 1);
        double total[LANES] = {0};
        for (int64_t image = 0; image < s.n; image++) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t pixel = 0; pixel < pixels; pixel++) {
                __m256i half = _mm256_maskz_loadu_epi16(mask, g + (image * pixels + pixel) * s.out + from);
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)));
            }
            for (int64_t c = 0; c < count; c++)
                total[c] += ((float *)&sum)[c];
        }
        for (int64_t c = 0; c < count; c++)
            to[from + c] = (float)total[c];
    }
}

/* ---- forward, and the gradient of the input, which is a convolution too ---- */

/* One pixel of `tall` images, `wide` vectors of maps out, from w [taps][in / 2][wide * LANES] pairs. */
INLINE void pixel_tile(const uint16_t *x, const uint32_t *w, Shape s, int64_t row, int64_t column, const int tall,
                       const int wide, const float *bias, int relu, uint16_t *to)
{
    __m512 sums[MOST][4];
    int64_t image = s.height * s.width * s.in, pairs = s.in / 2;
#pragma GCC unroll 8
    for (int r = 0; r < tall; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++)
            sums[r][v] = bias == NULL ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + v * LANES);
    int64_t left = most(0, s.pad - column), right = least(s.kernel, s.width + s.pad - column);
    for (int64_t i = most(0, s.pad - row); i < least(s.kernel, s.height + s.pad - row); i++)
        for (int64_t j = left; j < right; j++) {
            const uint32_t *weights = w + (i * s.kernel + j) * pairs * wide * LANES;
            const uint16_t *values = x + ((row + i - s.pad) * s.width + column + j - s.pad) * s.in;
            for (int64_t pair = 0; pair < pairs; pair++, weights += wide * LANES, values += 2) {
                __m512i weight[4];
#pragma GCC unroll 4
                for (int v = 0; v < wide; v++)
                    weight[v] = _mm512_loadu_si512(weights + v * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < tall; r++) {
                    int32_t both;
                    memcpy(&both, values + r * image, sizeof both);
                    __m512bh value = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 4
                    for (int v = 0; v < wide; v++)
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], value, (__m512bh)weight[v]);
                }
            }
        }
    __m512 lowest = _mm512_set1_ps(relu ? 0 : -INFINITY);
#pragma GCC unroll 8
    for (int r = 0; r < tall; r++)
#pragma GCC unroll 4
        for (int v = 0; v < wide; v++) /* the second operand where one is a NaN */
            _mm256_storeu_si256((__m256i *)(to + r * s.out_height * s.out_width * s.out + v * LANES),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_max_ps(lowest, sums[r][v])));
}

typedef void PixelTile(const uint16_t *, const uint32_t *, Shape, int64_t, int64_t, const float *, int, uint16_t *);

#define PIXEL_TILE(tall, wide)                                                                                       \
    static void pixel_tile_##tall##_##wide(const uint16_t *x, const uint32_t *w, Shape s, int64_t row, int64_t column, \
                                           const float *bias, int relu, uint16_t *to)                                \
    {                                                                                                                \
        pixel_tile(x, w, s, row, column, tall, wide, bias, relu, to);                                                \
    }
PIXEL_TILE(1, 4) PIXEL_TILE(2, 4) PIXEL_TILE(3, 4) PIXEL_TILE(4, 4) PIXEL_TILE(5, 4) PIXEL_TILE(6, 4)
PIXEL_TILE(1, 3) PIXEL_TILE(2, 3) PIXEL_TILE(3, 3) PIXEL_TILE(4, 3) PIXEL_TILE(5, 3) PIXEL_TILE(6, 3)
PIXEL_TILE(7, 3) PIXEL_TILE(8, 3)

static PixelTile *const TILES_4[] = {NULL, pixel_tile_1_4, pixel_tile_2_4, pixel_tile_3_4,
                                     pixel_tile_4_4, pixel_tile_5_4, pixel_tile_6_4};
static PixelTile *const TILES_3[] = {NULL, pixel_tile_1_3, pixel_tile_2_3, pixel_tile_3_3, pixel_tile_4_3,
                                     pixel_tile_5_3, pixel_tile_6_3, pixel_tile_7_3, pixel_tile_8_3};

/* weights [out][taps][in] to [blocks of out][taps][in / 2][size], pairs of maps in. */
static void packed_forward(const float *weights, int64_t out, int64_t taps, int64_t in, int64_t size, uint32_t *to, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t each = 0; each < out / size * taps; each++) {
        int64_t block = each / taps, tap = each % taps;
        uint32_t *place = to + each * in / 2 * size;
        for (int64_t first = 0; first < in; first += LANES) { /* so far as a line of the cache goes */
            int64_t count = least(LANES, in - first);
            for (int64_t o = 0; o < size; o++) {
                uint32_t pairs[LANES / 2];
                __mmask16 mask = (__mmask16)((1u << count) - 1);
                __m512 line = _mm512_maskz_loadu_ps(mask, weights + ((block * size + o) * taps + tap) * in + first);
                _mm256_storeu_si256((__m256i *)pairs, (__m256i)_mm512_cvtneps_pbh(line));
                for (int64_t pair = 0; pair < count / 2; pair++)
                    place[(first / 2 + pair) * size + o] = pairs[pair];
            }
        }
    }
}

/* weights [out][taps][in] to [blocks of in][taps, last first][out / 2][size], pairs of maps out: what spreads the
   gradient of the maps out over those in. */
static void packed_backward(const float *weights, int64_t out, int64_t taps, int64_t in, int64_t size, uint32_t *to, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t each = 0; each < in / size * taps; each++) {
        int64_t block = each / taps, tap = taps - 1 - each % taps;
        for (int64_t pair = 0; pair < out / 2; pair++)
            for (int64_t i = 0; i < size; i += LANES) {
                const float *first = weights + (2 * pair * taps + tap) * in + block * size + i;
                __m256i low = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(first));
                __m256i high = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(first + taps * in));
                __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                _mm512_storeu_si512(to + (each * (out / 2) + pair) * size + i, both);
            }
    }
}

static int widest(int64_t maps) { return maps % (4 * LANES) == 0 ? 4 : 3; }

/* The maps of a block of packed weights. */
static int64_t block_size(int64_t from, int64_t to) { return amx_takes(from, to) ? AMX_BLOCK : widest(to) * LANES; }

static void convolved(const uint16_t *x, const uint32_t *w, Shape s, const float *bias, int relu, uint16_t *y, int threads)
{
    if (amx_takes(s.in, s.out)) {
        amx_convolved(x, w, &s, bias, relu, y, threads);
        return;
    }
    int wide = widest(s.out), size = wide * LANES;
    int64_t tallest = wide == 4 ? 6 : 8, parts = (s.n + tallest - 1) / tallest, pixels = s.out_height * s.out_width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t each = 0; each < s.out / size * pixels; each++) {
        int64_t block = each / pixels, pixel = each % pixels, row = pixel / s.out_width, column = pixel % s.out_width;
        const uint32_t *weights = w + block * s.kernel * s.kernel * (s.in / 2) * size;
        for (int64_t part = 0; part < parts; part++) { /* of about as many images each */
            int64_t from = part * s.n / parts, count = (part + 1) * s.n / parts - from;
            (wide == 4 ? TILES_4 : TILES_3)[count](
                x + from * s.height * s.width * s.in, weights, s, row, column, bias == NULL ? NULL : bias + block * size, relu,
                y + ((from * s.out_height + row) * s.out_width + column) * s.out + block * size);
        }
    }
}

/* y [n][out_height][out_width][out] from x [n][height][width][in], weights [out][kernel][kernel][in] and bias [out],
   both float32 and the weights rounded here; with `relu` nothing
   below 0. 0, or 1 where memory is short. */
int convolution_forward(const uint16_t *x, const float *weights, const float *bias, const int64_t *shape, int relu,
                        uint16_t *y, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    uint32_t *w = malloc((size_t)(s.out * s.kernel * s.kernel * s.in / 2) * sizeof(uint32_t));
    if (w == NULL)
        return 1;
    packed_forward(weights, s.out, s.kernel * s.kernel, s.in, block_size(s.in, s.out), w, threads);
    convolved(x, w, s, bias, relu, y, threads);
    free(w);
    return 0;
}

/* dx, as x is, from g, as y is; the shape is that of the forward convolution. */
int convolution_input_gradient(const uint16_t *g, const float *weights, const int64_t *shape, uint16_t *dx, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    uint32_t *w = malloc((size_t)(s.out * s.kernel * s.kernel * s.in / 2) * sizeof(uint32_t));
    if (w == NULL)
        return 1;
    packed_backward(weights, s.out, s.kernel * s.kernel, s.in, block_size(s.out, s.in), w, threads);
    Shape back = {s.n, s.out_height, s.out_width, s.out, s.height, s.width, s.in, s.kernel, s.kernel - 1 - s.pad, 1, 1};
    convolved(g, w, back, NULL, 0, dx, threads);
    free(w);
    return 0;
}

/* Whether this processor has the products, and a vector's width, or AMX's blocks, divide the numbers of maps. */
int convolution_takes(int64_t in, int64_t out)
{
    int vectors = (in % (4 * LANES) == 0 || in % (3 * LANES) == 0) && (out % (4 * LANES) == 0 || out % (3 * LANES) == 0);
    return vectors || amx_takes(in, out);
}

/* weights [out][kernel][kernel][in] and bias [out] (or NULL) from x [n][height][width][in] and g [n][out_height]
   [out_width][out]; 0, or 1 where memory is short. */
int convolution_weight_gradient(const uint16_t *x, const uint16_t *g, const int64_t *shape, float *weights, float *bias,
                                int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    if (amx_takes(s.in, s.out)) {
        if (bias != NULL)
            bias_gradient(g, s, bias, threads);
        return amx_weight_gradient(x, g, &s, weights, threads);
    }
    int wide = widest(s.in), tall = wide == 4 ? 6 : 8;
    int64_t couples = (s.n + 1) / 2, in_pixels = s.height * s.width, out_pixels = s.out_height * s.out_width;
    int64_t out = (s.out + tall - 1) / tall * tall;
    uint32_t *values = malloc((size_t)(couples * in_pixels * s.in) * sizeof(uint32_t));
    uint32_t *gradients = malloc((size_t)(couples * out_pixels * out) * sizeof(uint32_t));
    int failed = values == NULL || gradients == NULL;
    if (!failed) {
        packed(x, s.n, in_pixels, s.in, wide * LANES, values, threads);
        packed(g, s.n, out_pixels, s.out, tall, gradients, threads);
        all_tiles(values, gradients, s, tall, wide, weights, threads);
        if (bias != NULL)
            bias_gradient(g, s, bias, threads);
    }
    free(values);
    free(gradients);
    return failed;
}

#else

int convolution_takes(int64_t in, int64_t out) { return (void)in, (void)out, 0; }

int convolution_forward(const uint16_t *x, const float *weights, const float *bias, const int64_t *shape, int relu,
                        uint16_t *y, int threads)
{
    return (void)x, (void)weights, (void)bias, (void)shape, (void)relu, (void)y, (void)threads, 1;
}

int convolution_input_gradient(const uint16_t *g, const float *weights, const int64_t *shape, uint16_t *dx, int threads)
{
    return (void)g, (void)weights, (void)shape, (void)dx, (void)threads, 1;
}

int convolution_weight_gradient(const uint16_t *x, const uint16_t *g, const int64_t *shape, float *weights, float *bias,
                                int threads)
{
    return (void)x, (void)g, (void)shape, (void)weights, (void)bias, (void)threads, (void)sizeof(Shape), 1;
}

#endif
