/* A square of an image that is resized, bilinear and antialiased: the bytes of torch's F.interpolate(antialias=True) on
 * uint8, without computing the pixels outside the square.
 *
 * Each output pixel is a weighted sum of input pixels, along the rows first and then along the columns. Weights have 16
 * bits, and the result is rounded to a byte after each of the two passes.
 */

#include "common.h"

#include <stdlib.h>

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>

/* For each of `count` outputs: the first input it is made of, and the weights of that and the following ones. */
typedef struct {
    int64_t taps, precision;
    int32_t *start;
    int16_t *weights; /* [count][taps], zeros behind the last one that counts */
} Weights;

static double triangle(double x)
{
    x = x < 0 ? -x : x;
    return x < 1 ? 1 - x : 0;
}

static int weighted(Weights *found, int64_t from, int64_t to, int64_t offset, int64_t count)
{
    const double scale = (double)from / (double)to, support = scale >= 1 ? scale : 1, inverse = 1 / support;
    int64_t most = (int64_t)support;
    most = 2 * (most + (most < support)) + 1;
    double *exact = malloc((size_t)(to * most) * sizeof *exact);
    found->start = malloc((size_t)count * sizeof *found->start);
    if (!exact || !found->start) {
        free(exact);
        return 0;
    }
    int64_t used = 0;
    double largest = 0; /* of the whole width: it decides how many bits the weights have */
    for (int64_t i = 0; i < to; i++) {
        const double centre = scale * ((double)i + 0.5);
        int64_t first = (int64_t)(centre - support + 0.5), size = (int64_t)(centre + support + 0.5);
        first = first < 0 ? 0 : first;
        size = (size > from ? from : size) - first;
        size = size > most ? most : size;
        used = size > used ? size : used;
        double total = 0;
        for (int64_t k = 0; k < size; k++)
            total += exact[i * most + k] = triangle(((double)(k + first) - centre + 0.5) * inverse);
        for (int64_t k = 0; k < most; k++) {
            exact[i * most + k] = k < size ? exact[i * most + k] / total : 0;
            largest = exact[i * most + k] > largest ? exact[i * most + k] : largest;
        }
        if (i >= offset && i < offset + count)
            found->start[i - offset] = (int32_t)first;
    }
    for (found->precision = 0; found->precision < 22; found->precision++)
        if ((int)(0.5 + largest * (1 << (found->precision + 1))) >= 1 << 15)
            break;
    found->taps = used + (used & 1); /* they are multiplied in pairs */
    found->weights = calloc((size_t)(count * found->taps), sizeof *found->weights);
    for (int64_t i = 0; found->weights && i < count; i++)
        for (int64_t k = 0; k < used; k++)
            found->weights[i * found->taps + k] =
                (int16_t)(0.5 + exact[(i + offset) * most + k] * (1 << found->precision));
    free(exact);
    return found->weights != NULL;
}

#define WINDOW 128

/* 16 neighbouring outputs of one channel: where in a row their inputs lie, and in which order they are taken. */
typedef struct {
    int64_t at;
    uint8_t *order;   /* [taps / 2][32]: of each output two inputs, as places in the window */
    int16_t *weights; /* [taps / 2][32] */
} Block;

/* Rows of `blocks` * 16 bytes from interleaved rows; `end` is the end of the image in memory. */
static void row_weighted(const uint8_t *row, const uint8_t *end, uint8_t *to, const Block *blocks, int64_t count,
                         int64_t pairs, int64_t precision)
{
    const __m512i half = _mm512_set1_epi32(1 << (precision - 1));
    const __m128i shift = _mm_cvtsi64_si128(precision);
    for (int64_t b = 0; b < count; b++) {
        const uint8_t *from = row + blocks[b].at;
        const int64_t left = end - from;
        __m512i first, second;
        if (left >= WINDOW) {
            first = _mm512_loadu_si512(from);
            second = _mm512_loadu_si512(from + 64);
        } else {
            first = _mm512_maskz_loadu_epi8(left >= 64 ? ~0ULL : (1ULL << left) - 1, from);
            second = _mm512_maskz_loadu_epi8(left > 64 ? (1ULL << (left - 64)) - 1 : 0, from + 64);
        }
        __m512i sum = half;
        for (int64_t k = 0; k < pairs; k++) {
            const __m512i order = _mm512_castsi256_si512(
                _mm256_loadu_si256((const __m256i *)(blocks[b].order + k * 2 * LANES)));
            const __m256i bytes = _mm512_castsi512_si256(_mm512_permutex2var_epi8(first, order, second));
            const __m512i weights = _mm512_loadu_si512(blocks[b].weights + k * 2 * LANES);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_cvtepu8_epi16(bytes), weights));
        }
        sum = _mm512_max_epi32(_mm512_sra_epi32(sum, shift), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(to + b * LANES), _mm512_cvtusepi32_epi8(sum));
    }
}

/* One output row from `taps` rows of `length` bytes. */
static void column_weighted(const uint8_t *restrict rows, uint8_t *restrict to, int64_t length, const int16_t *weights,
                            int64_t taps, int64_t precision)
{
    for (int64_t start = 0; start < length; start += 256) {
        int32_t sums[256];
        const int64_t size = length - start < 256 ? length - start : 256;
        for (int64_t j = 0; j < size; j++)
            sums[j] = 1 << (precision - 1);
        for (int64_t k = 0; k < taps; k++)
            for (int64_t j = 0; j < size; j++)
                sums[j] += weights[k] * rows[k * length + start + j];
        for (int64_t j = 0; j < size; j++) {
            const int32_t value = sums[j] >> precision;
            to[start + j] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
}

static int square(const uint8_t *image, int64_t height, int64_t width, int64_t channels, int64_t tall, int64_t wide,
                  int64_t top_at, int64_t left_at, int64_t size, uint8_t *out, Weights *across, Weights *down,
                  void **memory)
{
    const int64_t groups = size / LANES, count = channels * groups;
    if (!weighted(across, width, wide, left_at, size) || !weighted(down, height, tall, top_at, size))
        return 0;
    const int64_t pairs = across->taps / 2, each = pairs * 2 * LANES;
    const int64_t top = down->start[0];
    const int64_t bottom = down->start[size - 1] + down->taps < height ? down->start[size - 1] + down->taps : height;
    const int64_t length = channels * size, tallest = bottom - top + down->taps; /* some rows of zeros below */
    Block *blocks = memory[0] = malloc((size_t)count * sizeof *blocks);
    uint8_t *orders = memory[1] = malloc((size_t)(count * each));
    int16_t *weights = memory[2] = malloc((size_t)(count * each) * sizeof *weights);
    uint8_t *rows = memory[3] = malloc((size_t)(tallest * length));
    uint8_t *planes = memory[4] = malloc((size_t)length);
    if (!blocks || !orders || !weights || !rows || !planes)
        return 0;
    for (int64_t b = 0; b < count; b++) {
        const int64_t channel = b / groups, x = b % groups * LANES;
        Block *block = blocks + b;
        *block = (Block){across->start[x] * channels, orders + b * each, weights + b * each};
        if ((across->start[x + LANES - 1] - across->start[x] + across->taps) * channels > WINDOW)
            return 0;
        for (int64_t lane = 0; lane < LANES; lane++)
            for (int64_t k = 0; k < across->taps; k++) {
                const int64_t place = k / 2 * 2 * LANES + lane * 2 + k % 2;
                block->order[place] =
                    (uint8_t)((across->start[x + lane] - across->start[x] + k) * channels + channel);
                block->weights[place] = across->weights[(x + lane) * across->taps + k];
            }
    }
    const uint8_t *end = image + height * width * channels;
    for (int64_t y = top; y < bottom; y++)
        row_weighted(image + y * width * channels, end, rows + (y - top) * length, blocks, count, pairs,
                     across->precision);
    memset(rows + (bottom - top) * length, 0, (size_t)(down->taps * length));
    for (int64_t y = 0; y < size; y++) {
        column_weighted(rows + (down->start[y] - top) * length, planes, length, down->weights + y * down->taps,
                        down->taps, down->precision);
        for (int64_t channel = 0; channel < channels; channel++)
            memcpy(out + (channel * size + y) * size, planes + channel * size, (size_t)size);
    }
    return 1;
}

/* Writes the `size` x `size` pixels at `top`, `left` [channels, size, size] of the image [height, width, channels]
 * resized to `tall` x `wide`. Returns 0 and writes nothing where it does not apply: a size that is
 * no multiple of 16, a square that is not inside, an image that shrinks to less than half, no memory.
 */
int resize_square(const uint8_t *image, int64_t height, int64_t width, int64_t channels, int64_t tall, int64_t wide,
                  int64_t top, int64_t left, int64_t size, uint8_t *out)
{
    Weights across = {0}, down = {0};
    void *memory[5] = {0};
    if (size < 1 || size % LANES || tall == height || wide == width)
        return 0;
    if (height < 1 || width < 1 || channels < 1 || top < 0 || left < 0 || top > tall - size || left > wide - size)
        return 0;
    const int made = square(image, height, width, channels, tall, wide, top, left, size, out, &across, &down, memory);
    for (int i = 0; i < 5; i++)
        free(memory[i]);
    free(across.start), free(across.weights), free(down.start), free(down.weights);
    return made;
}

#else

int resize_square(const uint8_t *image, int64_t height, int64_t width, int64_t channels, int64_t tall, int64_t wide,
                  int64_t top, int64_t left, int64_t size, uint8_t *out)
{
    (void)image, (void)height, (void)width, (void)channels, (void)tall, (void)wide;
    (void)top, (void)left, (void)size, (void)out;
    return 0;
}

#endif
