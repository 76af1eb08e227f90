/* The convolutions of convolution.c on processors with AMX: products of tiles of 16 rows of 64 bytes.

   What is computed side by side is one pixel of 32 images, as there: a tile has 16 images of one pixel as its rows, read
   where they are in the maps, and 32 maps in as its columns; for the gradient of the weights 32 images are its columns.
   So a window that hangs over the maps' edge is cut off exactly, and no window is copied. The order of the sums does not
   depend on the threads. */

#define _GNU_SOURCE
#include "convolution.h"

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ROWS = 16, SIDE = 2 * ROWS, BLOCK = SIDE * SIDE, REQUEST = 0x1023, TILE_DATA = 18, NEAR = 400 * 1024 };

/* Whether the system lets this process use tiles. */
static int permitted(void)
{
    static int known; /* 1: yes, -1: no; all threads find the same */
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (found == 0) {
        found = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0 ? 1 : -1;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found == 1;
}

HIDDEN int amx_takes(int64_t in, int64_t out) { return in % SIDE == 0 && out % SIDE == 0 && permitted(); }

/* Tiles 0 to 3 are sums, [2][2]; 4 and 5 their rows, of which the second may be missing; 6 and 7 their columns. */
static void configure(int64_t rows)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[ROWS];
        uint8_t rows[ROWS];
    } tiles = {.palette = 1};
    uint8_t count[] = {(uint8_t)least(ROWS, rows), (uint8_t)most(1, rows - ROWS)};
    for (int tile = 0; tile < 8; tile++) {
        tiles.bytes[tile] = 64;
        tiles.rows[tile] = tile < 4 ? count[tile / 2] : tile < 6 ? count[tile - 4] : ROWS;
    }
    __asm__ volatile("" : : "r"(&tiles) : "memory"); /* the next line alone would tell some compilers of 8 bytes */
    _tile_loadconfig(&tiles);
}

/* One more product for all sums. */
#define MULTIPLY(left, left_stride, below, right, right_stride, both) \
    do {                                                              \
        _tile_loadd(4, left, left_stride);                            \
        _tile_loadd(6, right, right_stride);                          \
        _tile_loadd(7, (const char *)(right) + 64, right_stride);     \
        _tile_dpbf16ps(0, 4, 6);                                      \
        _tile_dpbf16ps(1, 4, 7);                                      \
        if (both) {                                                   \
            _tile_loadd(5, below, left_stride);                       \
            _tile_dpbf16ps(2, 5, 6);                                  \
            _tile_dpbf16ps(3, 5, 7);                                  \
        }                                                             \
    } while (0)

#define CLEAR()         \
    do {                \
        _tile_zero(0);  \
        _tile_zero(1);  \
        _tile_zero(2);  \
        _tile_zero(3);  \
    } while (0)

/* One pixel of up to 32 images, 32 maps out, from w [taps][in / 2][32] pairs; sums [32][32]. */
INLINE void pixel_sums(const uint16_t *x, const uint32_t *w, Shape s, int64_t row, int64_t column, const int both, float *sums)
{
    int64_t image = s.height * s.width * s.in, bytes = image * (int64_t)sizeof *x;
    int64_t left = most(0, s.pad - column), right = least(s.kernel, s.width + s.pad - column);
    CLEAR();
    for (int64_t i = most(0, s.pad - row); i < least(s.kernel, s.height + s.pad - row); i++)
        for (int64_t j = left; j < right; j++) {
            const uint32_t *weights = w + (i * s.kernel + j) * s.in / 2 * SIDE;
            const uint16_t *values = x + ((row + i - s.pad) * s.width + column + j - s.pad) * s.in;
            for (int64_t c = 0; c < s.in; c += SIDE, values += SIDE, weights += ROWS * SIDE)
                MULTIPLY(values, bytes, values + ROWS * image, weights, 2 * 64, both);
        }
    _tile_stored(0, sums, 2 * 64);
    _tile_stored(1, sums + ROWS, 2 * 64);
    if (both) {
        _tile_stored(2, sums + ROWS * SIDE, 2 * 64);
        _tile_stored(3, sums + ROWS * SIDE + ROWS, 2 * 64);
    }
}

/* y from weights [blocks of out][taps][in / 2][32] pairs. */
HIDDEN void amx_convolved(const uint16_t *x, const uint32_t *w, const Shape *of, const float *bias, int relu, uint16_t *y, int threads)
{
    Shape s = *of;
    int64_t pixels = s.out_height * s.out_width;
    __m512 lowest = _mm512_set1_ps(relu ? 0 : -INFINITY);
#pragma omp parallel num_threads(threads)
    {
        for (int64_t from = 0; from < s.n; from += SIDE) {
            int64_t count = least(SIDE, s.n - from);
            configure(count);
#pragma omp for schedule(static) nowait
            for (int64_t each = 0; each < s.out / SIDE * pixels; each++) {
                int64_t block = each / pixels, pixel = each % pixels, row = pixel / s.out_width, column = pixel % s.out_width;
                const uint16_t *maps = x + from * s.height * s.width * s.in;
                const uint32_t *weights = w + block * s.kernel * s.kernel * (s.in / 2) * SIDE;
                float sums[BLOCK] __attribute__((aligned(64)));
                if (count > ROWS)
                    pixel_sums(maps, weights, s, row, column, 1, sums);
                else
                    pixel_sums(maps, weights, s, row, column, 0, sums);
                __m512 first = bias == NULL ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + block * SIDE);
                __m512 second = bias == NULL ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + block * SIDE + ROWS);
                for (int64_t image = 0; image < count; image++) { /* max: the second operand where one is a NaN */
                    __m512 low = _mm512_max_ps(lowest, _mm512_add_ps(first, _mm512_load_ps(sums + image * SIDE)));
                    __m512 high = _mm512_max_ps(lowest, _mm512_add_ps(second, _mm512_load_ps(sums + image * SIDE + ROWS)));
                    _mm512_storeu_si512(y + ((from + image) * pixels + pixel) * s.out + block * SIDE,
                                        (__m512i)_mm512_cvtne2ps_pbh(high, low));
                }
            }
        }
        _tile_release();
    }
}

/* 32 channels of two images, the second may be missing, in pairs. */
INLINE void pairs_of(const uint16_t *maps, int64_t image, int64_t count, uint32_t *to)
{
    for (int64_t c = 0; c < SIDE; c++)
        to[c] = (count > 0 ? (uint32_t)maps[c] : 0) | (count > 1 ? (uint32_t)maps[image + c] << 16 : 0);
}

/* maps [n][pixels][channels] to [blocks of channels][parts of 32 images][pixels] times [pairs of images][32 channels], or if
   `across` [32 channels][pairs of images]; zeros for the images that are missing. */
static void packed(const uint16_t *maps, int64_t n, int64_t pixels, int64_t channels, int across, uint32_t *to, int threads)
{
    int64_t parts = (n + SIDE - 1) / SIDE, blocks = channels / SIDE, image = pixels * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t each = 0; each < parts * pixels; each++)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t part = each / pixels;
            const uint16_t *from = maps + part * SIDE * image + each % pixels * channels + block * SIDE;
            uint32_t *place = to + (block * parts * pixels + each) * ROWS * SIDE;
            for (int64_t pair = 0; pair < ROWS; pair++) {
                int64_t count = n - part * SIDE - 2 * pair;
                uint32_t line[SIDE], *pairs = across ? line : place + pair * SIDE;
                if (count > 1)
                    pairs_of(from + 2 * pair * image, image, 2, pairs);
                else
                    pairs_of(from + 2 * pair * image, image, count, pairs);
                if (across)
                    for (int64_t c = 0; c < SIDE; c++)
                        place[c * ROWS + pair] = line[c];
            }
        }
}

/* The gradient of the weights of one tap, 32 maps out and 32 in, of `parts` times 32 images. */
static void tap_sums(const uint32_t *x, const uint32_t *g, Shape s, int64_t parts, int64_t down, int64_t right, float *to, int more)
{
    int64_t stride = s.kernel * s.kernel * s.in, bytes = stride * (int64_t)sizeof *to, size = ROWS * SIDE;
    int64_t top = most(0, s.pad - down), bottom = least(s.out_height, s.height + s.pad - down);
    int64_t left = most(0, s.pad - right), run = least(s.out_width, s.width + s.pad - right) - left;
    if (more) {
        _tile_loadd(0, to, bytes);
        _tile_loadd(1, to + ROWS, bytes);
        _tile_loadd(2, to + ROWS * stride, bytes);
        _tile_loadd(3, to + ROWS * stride + ROWS, bytes);
    } else
        CLEAR();
    for (int64_t part = 0; part < parts; part++)
        for (int64_t row = top; row < bottom; row++) {
            const uint32_t *values = x + ((part * s.height + row + down - s.pad) * s.width + left + right - s.pad) * size;
            const uint32_t *gradients = g + ((part * s.out_height + row) * s.out_width + left) * size;
            for (int64_t column = 0; column < run; column++, values += size, gradients += size)
                MULTIPLY(gradients, 64, gradients + ROWS * ROWS, values, 2 * 64, 1);
        }
    _tile_stored(0, to, bytes);
    _tile_stored(1, to + ROWS, bytes);
    _tile_stored(2, to + ROWS * stride, bytes);
    _tile_stored(3, to + ROWS * stride + ROWS, bytes);
}

/* weights [out][kernel][kernel][in]; 1 where memory is short. */
HIDDEN int amx_weight_gradient(const uint16_t *x, const uint16_t *g, const Shape *of, float *weights, int threads)
{
    Shape s = *of;
    int64_t parts = (s.n + SIDE - 1) / SIDE, in_pixels = s.height * s.width, out_pixels = s.out_height * s.out_width;
    int64_t size = ROWS * SIDE, step = most(1, NEAR / (in_pixels * size * (int64_t)sizeof(uint32_t)));
    uint32_t *values = malloc((size_t)(parts * in_pixels * s.in * ROWS) * sizeof(uint32_t));
    uint32_t *gradients = malloc((size_t)(parts * out_pixels * s.out * ROWS) * sizeof(uint32_t));
    int failed = values == NULL || gradients == NULL;
    if (!failed) {
        packed(x, s.n, in_pixels, s.in, 0, values, threads);
        packed(g, s.n, out_pixels, s.out, 1, gradients, threads);
#pragma omp parallel num_threads(threads)
        {
            configure(SIDE);
            for (int64_t first = 0; first < parts; first += step) {
                int64_t blocks = s.in / SIDE;
#pragma omp for schedule(static) nowait /* the same sums fall to the same thread every time */
                for (int64_t each = 0; each < s.out / SIDE * blocks; each++) {
                    int64_t out_block = each / blocks, block = each % blocks;
                    for (int64_t tap = 0; tap < s.kernel * s.kernel; tap++)
                        tap_sums(values + (block * parts + first) * in_pixels * size,
                                 gradients + (out_block * parts + first) * out_pixels * size, s, least(step, parts - first),
                                 tap / s.kernel, tap % s.kernel,
                                 weights + (out_block * SIDE * s.kernel * s.kernel + tap) * s.in + block * SIDE, first > 0);
                }
            }
            _tile_release();
        }
    }
    free(values);
    free(gradients);
    return failed;
}

#else

HIDDEN int amx_takes(int64_t in, int64_t out) { return (void)in, (void)out, 0; }

HIDDEN void amx_convolved(const uint16_t *x, const uint32_t *w, const Shape *of, const float *bias, int relu, uint16_t *y, int threads)
{
    (void)x, (void)w, (void)of, (void)bias, (void)relu, (void)y, (void)threads;
}

HIDDEN int amx_weight_gradient(const uint16_t *x, const uint16_t *g, const Shape *of, float *weights, int threads)
{
    return (void)x, (void)g, (void)of, (void)weights, (void)threads, 1;
}

#endif
