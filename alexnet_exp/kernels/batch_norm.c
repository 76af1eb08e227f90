/* Batch norm, ReLU and max pooling in one go, forward and backward, over channels_last maps of float or bfloat16.

   Maps are [n][height][width][channels] of float, or of bfloat16 (as uint16_t) where `half` is not 0; sums and
   constants of a channel are float or better. Every function shares its work among `threads` and gives the same bits
   whatever their number: partial sums are of fixed pieces, and are added in a fixed order.

   A pool takes the first of the largest values of its window, as torch's does, or a NaN. `taken` is the place of that
   value in the window (row * kernel + column), or NONE where it does not pass the ReLU: no gradient goes there.
   `source` is the value of x at that place. The sums of the gradient need g and `source` alone, which are smaller than x
   by the pool. Without a pool (kernel 1, stride 1) `taken` is NULL, and x is its own `source`. */

#include "common.h"

#include <stdlib.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* As wide as a register: gcc computes wider vectors in memory. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

enum {
    WIDTH = VECTOR_BYTES / 4, /* floats in a vector */
    GROUP = 4,                /* vectors of a pixel summed at a time: whole cache lines, and sums stay in registers */
    CHUNK = 256,              /* pixels in a partial sum */
    PIECE = 16,               /* pixels without a pool in work at a time: they stay in the L1 cache */
    NONE = 255,
};

typedef float floats __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint8_t bytes __attribute__((vector_size(VECTOR_BYTES / 4), aligned(1), may_alias));

typedef struct {
    int64_t n, height, width, channels, kernel, stride, rows, columns; /* rows, columns: of the pooled maps */
} Shape;

/* ---- what gcc makes several instructions of where the processor has one: masks, conversions */

#if defined(__AVX512F__)
typedef __mmask16 mask;
INLINE mask greater(floats a, floats b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
INLINE mask at_most_0(floats a) { return _mm512_cmp_ps_mask((__m512)a, _mm512_setzero_ps(), _CMP_LE_OQ); }
INLINE mask is_nan(floats a) { return _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q); }
INLINE mask equal(ints a, int32_t b) { return _mm512_cmpeq_epi32_mask((__m512i)a, _mm512_set1_epi32(b)); }
INLINE ints picked(mask where, ints then, ints otherwise)
{
    return (ints)_mm512_mask_blend_epi32(where, (__m512i)otherwise, (__m512i)then);
}
INLINE floats chosen(mask where, floats then, floats otherwise)
{
    return (floats)_mm512_mask_blend_ps(where, (__m512)otherwise, (__m512)then);
}
INLINE floats kept(mask where, floats values) { return (floats)_mm512_maskz_mov_ps(where, (__m512)values); }
INLINE words wide_halves(halves values) { return (words)_mm512_cvtepu16_epi32((__m256i)values); }
INLINE ints wide_bytes(bytes values) { return (ints)_mm512_cvtepu8_epi32((__m128i)values); }
INLINE halves narrow_halves(words values) { return (halves)_mm512_cvtepi32_epi16((__m512i)values); }
INLINE bytes narrow_bytes(ints values) { return (bytes)_mm512_cvtepi32_epi8((__m512i)values); }
#else
typedef ints mask; /* all ones or all zeros in each lane, as comparisons give it */
INLINE mask greater(floats a, floats b) { return a > b; }
INLINE mask at_most_0(floats a) { return a <= 0; }
INLINE mask is_nan(floats a) { return a != a; }
INLINE mask equal(ints a, int32_t b) { return a == b; }
INLINE ints picked(mask where, ints then, ints otherwise)
{
#if defined(__AVX2__)
    return (ints)_mm256_blendv_epi8((__m256i)otherwise, (__m256i)then, (__m256i)where);
#else
    return (where & then) | (~where & otherwise);
#endif
}
INLINE floats chosen(mask where, floats then, floats otherwise)
{
    return (floats)picked(where, (ints)then, (ints)otherwise);
}
INLINE floats kept(mask where, floats values) { return (floats)(where & (ints)values); }
INLINE halves narrow_halves(words values) { return __builtin_convertvector(values, halves); }
INLINE bytes narrow_bytes(ints values) { return __builtin_convertvector(values, bytes); }
#if defined(__AVX2__)
INLINE words wide_halves(halves values) { return (words)_mm256_cvtepu16_epi32((__m128i)values); }
INLINE ints wide_bytes(bytes values)
{
    int64_t bits;
    memcpy(&bits, &values, sizeof bits);
    return (ints)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bits));
}
#else
INLINE words wide_halves(halves values) { return __builtin_convertvector(values, words); }
INLINE ints wide_bytes(bytes values) { return __builtin_convertvector(values, ints); }
#endif
#endif

/* ---- `count` values from or to `at`: WIDTH, which the compiler knows, or fewer, the rest of the vector zeros.
   Whole vectors are no memcpy: gcc would copy them in halves, through memory. */

#define LOADED(type, name, source, count)                     \
    type name = {0};                                          \
    if ((count) == WIDTH)                                     \
        name = *(const type *)(source);                       \
    else                                                      \
        memcpy(&name, source, (size_t)(count) * sizeof name[0])

#define STORED(type, name, target, count)                     \
    do {                                                      \
        if ((count) == WIDTH)                                 \
            *(type *)(target) = name;                         \
        else                                                  \
            memcpy(target, &name, (size_t)(count) * sizeof name[0]); \
    } while (0)

INLINE floats load(const void *from, int half, int64_t at, int64_t count)
{
    if (!half) {
        LOADED(floats, values, (const float *)from + at, count);
        return values;
    }
    LOADED(halves, upper, (const uint16_t *)from + at, count);
    return (floats)(wide_halves(upper) << 16);
}

INLINE void store(void *to, int half, int64_t at, floats values, int64_t count)
{
    if (!half) {
        STORED(floats, values, (float *)to + at, count);
        return;
    }
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
    halves upper = (halves)_mm512_cvtneps_pbh((__m512)values);
#else
    words bits = (words)values, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    halves upper = narrow_halves((words)picked(is_nan(values), (ints){0} + 0x7fc0, (ints)rounded));
#endif
    STORED(halves, upper, (uint16_t *)to + at, count);
}

INLINE floats constants(const float *of_channels, int64_t c, int64_t count) { return load(of_channels, 0, c, count); }

INLINE ints places(const uint8_t *taken, int64_t at, int64_t count)
{
    LOADED(bytes, found, taken + at, count);
    return wide_bytes(found);
}

/* Runs `statement` for blocks that cover all channels: `vectors` vectors of `count` channels from `c` on. The last block
   overlaps the one before it and computes the same again; only maps of fewer than WIDTH channels have a part of one. */
#define FOR_BLOCKS(channels, group, statement)                                  \
    do {                                                                        \
        const int64_t each_ = (group) * WIDTH;                                  \
        if ((channels) >= each_)                                                \
            for (int64_t from_ = 0; from_ < (channels); from_ += each_) {       \
                const int64_t c = least(from_, (channels) - each_);             \
                const int64_t vectors = (group), count = WIDTH;                 \
                (void)vectors;                                                  \
                statement;                                                      \
            }                                                                   \
        else if ((group) > 1 && (channels) >= WIDTH)                            \
            for (int64_t from_ = 0; from_ < (channels); from_ += WIDTH) {       \
                const int64_t c = least(from_, (channels) - WIDTH);             \
                const int64_t vectors = 1, count = WIDTH;                       \
                (void)vectors;                                                  \
                statement;                                                      \
            }                                                                   \
        else {                                                                  \
            const int64_t c = 0, vectors = 1, count = (channels);               \
            (void)vectors;                                                      \
            statement;                                                          \
        }                                                                       \
    } while (0)

/* Runs `statement` with `half` as a constant. */
#define CALLED(statement, half, kernel, stride)  \
    do {                                         \
        if (half)                                \
            statement(1, kernel, stride);        \
        else                                     \
            statement(0, kernel, stride);        \
    } while (0)

/* ---- statistics ---- */

/* Of `rows` pixels from `at` on: the mean, and the sum of the squares of what is left. */
INLINE void block_statistics(const void *x, int half, int64_t at, int64_t rows, int64_t channels, int64_t vectors,
                             int64_t count, float *mean, float *squares)
{
    floats first[GROUP], sum[GROUP], square[GROUP];
    for (int64_t v = 0; v < vectors; v++) {
        first[v] = load(x, half, at + v * WIDTH, count); /* taken off: no digits are lost where the mean is large */
        sum[v] = square[v] = (floats){0};
    }
    for (int64_t row = 1; row < rows; row++)
        for (int64_t v = 0; v < vectors; v++) {
            floats value = load(x, half, at + row * channels + v * WIDTH, count) - first[v];
            sum[v] += value;
            square[v] += value * value;
        }
    for (int64_t v = 0; v < vectors; v++) {
        floats average = sum[v] / (float)rows;
        store(squares, 0, v * WIDTH, square[v] - sum[v] * average, count);
        store(mean, 0, v * WIDTH, average + first[v], count);
    }
}

static void chunk_statistics(const void *x, int half, int64_t first, int64_t rows, int64_t channels, float *part)
{
#define BLOCK(half) \
    block_statistics(x, half, first * channels + c, rows, channels, vectors, count, part + c, part + channels + c)
    if (half)
        FOR_BLOCKS(channels, GROUP, BLOCK(1));
    else
        FOR_BLOCKS(channels, GROUP, BLOCK(0));
#undef BLOCK
}

/* Mean and variance (divided by rows) of each channel of x [rows][channels]; 0, or 1 where memory is short. */
int batch_norm_statistics(const void *x, int half, int64_t rows, int64_t channels, float *mean, float *variance,
                          int threads)
{
    int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    float *parts = malloc((size_t)(chunks * channels * 2) * sizeof(float) + 1);
    if (parts == NULL)
        return 1;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t first = chunk * CHUNK;
            chunk_statistics(x, half, first, least(CHUNK, rows - first), channels, parts + chunk * channels * 2);
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < channels; c++) {
            double average = 0, squares = 0;
            for (int64_t chunk = 0; chunk < chunks; chunk++)
                average += (double)least(CHUNK, rows - chunk * CHUNK) * parts[chunk * channels * 2 + c];
            average /= (double)most(rows, 1);
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const float *part = parts + chunk * channels * 2;
                double apart = part[c] - average;
                squares += part[channels + c] + apart * apart * (double)least(CHUNK, rows - chunk * CHUNK);
            }
            mean[c] = (float)average;
            variance[c] = (float)(squares < 0 ? 0 : squares / (double)most(rows, 1));
        }
    }
    free(parts);
    return 0;
}

/* ---- forward ---- */

typedef struct {
    const void *x;
    const float *gain, *bias;
    void *y, *source; /* source, taken: NULL where no gradient is wanted */
    uint8_t *taken;
    Shape s;
    int half;
} Forward;

/* One block of channels of one pixel of y, `to`, from a window of high * wide pixels of x, the first one at `from`. */
INLINE void forward_window(const Forward *job, int half, int64_t kernel, int64_t high, int64_t wide, int64_t from,
                           int64_t to, floats gain, floats bias, int64_t count)
{
    floats source = load(job->x, half, from, count), best = source * gain + bias;
    ints place = {0};
    for (int64_t i = 0; i < high; i++)
        for (int64_t j = i == 0; j < wide; j++) {
            floats x = load(job->x, half, from + (i * job->s.width + j) * job->s.channels, count);
            floats value = x * gain + bias;
            mask better = greater(value, best) | is_nan(value);
            best = chosen(better, value, best);
            source = chosen(better, x, source);
            place = picked(better, (ints){0} + (int32_t)(i * kernel + j), place);
        }
    mask stopped = at_most_0(best);
    store(job->y, half, to, chosen(stopped, (floats){0}, best), count);
    if (kernel > 1 && job->taken != NULL) {
        bytes taken = narrow_bytes(picked(stopped, (ints){0} + NONE, place));
        STORED(bytes, taken, job->taken + to, count);
        store(job->source, half, to, source, count);
    }
}

/* One block of channels of one line of y: what belongs to a channel stays in registers along the line. Windows are cut
   off at the edges of the maps. */
INLINE void forward_block(const Forward *job, int half, int64_t kernel, int64_t stride, int64_t line, int64_t c,
                          int64_t count)
{
    const Shape s = job->s;
    const floats gain = constants(job->gain, c, count), bias = constants(job->bias, c, count);
    int64_t top = line % s.rows * stride, high = least(kernel, s.height - top);
    int64_t from = (line / s.rows * s.height + top) * s.width * s.channels + c, to = line * s.columns * s.channels + c;
    for (int64_t column = 0; column < s.columns; column++, from += stride * s.channels, to += s.channels) {
        int64_t wide = least(kernel, s.width - column * stride);
        if (high == kernel && wide == kernel) /* of a size that is known: unrolled */
            forward_window(job, half, kernel, kernel, kernel, from, to, gain, bias, count);
        else
            forward_window(job, half, kernel, high, wide, from, to, gain, bias, count);
    }
}

/* One line of y. A function of its own: in one that is outlined for threads the sizes would be no constants. */
static void forward_line(const Forward *job, int64_t line)
{
    int64_t kernel = job->s.kernel, stride = job->s.stride;
#define LINE(half, kernel, stride) \
    FOR_BLOCKS(job->s.channels, 1, forward_block(job, half, kernel, stride, line, c, count))
    if (kernel == 1) {
        CALLED(LINE, job->half, 1, 1);
    } else if (kernel == 3 && stride == 2) {
        CALLED(LINE, job->half, 3, 2);
    } else {
        CALLED(LINE, job->half, kernel, stride);
    }
#undef LINE
}

/* y = max over each window of max(0, gain * x + bias); `taken` and `source` as above, or both NULL. */
void batch_norm_forward(const void *x, int half, const int64_t *shape, const float *gain, const float *bias, void *y,
                        uint8_t *taken, void *source, int threads)
{
    Forward job = {.x = x, .gain = gain, .bias = bias, .y = y, .source = source, .taken = taken, .half = half};
    memcpy(&job.s, shape, sizeof job.s);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t line = 0; line < job.s.n * job.s.rows; line++)
        forward_line(&job, line);
}

/* ---- backward ---- */

/* The gradient g of y as it passes the ReLU, `x` being the value that was taken. */
INLINE floats passed(floats x, floats g, floats gain, floats bias)
{
    return chosen(at_most_0(x * gain + bias), (floats){0}, g);
}

typedef struct {
    const void *source, *g;
    const float *gain, *bias, *mean;
    int64_t channels;
} Sums;

INLINE void block_sums(const Sums *job, int half, int64_t first, int64_t rows, int64_t c, int64_t vectors, int64_t count,
                       float *part)
{
    floats sum[GROUP], product[GROUP];
    for (int64_t v = 0; v < vectors; v++)
        sum[v] = product[v] = (floats){0};
    for (int64_t row = first; row < first + rows; row++)
        for (int64_t v = 0; v < vectors; v++) {
            int64_t channel = c + v * WIDTH, at = row * job->channels + channel;
            floats x = load(job->source, half, at, count), g = load(job->g, half, at, count);
            g = passed(x, g, constants(job->gain, channel, count), constants(job->bias, channel, count));
            sum[v] += g;
            product[v] += g * (x - constants(job->mean, channel, count));
        }
    for (int64_t v = 0; v < vectors; v++) {
        store(part, 0, c + v * WIDTH, sum[v], count);
        store(part, 0, job->channels + c + v * WIDTH, product[v], count);
    }
}

static void chunk_sums(const Sums *job, int half, int64_t first, int64_t rows, float *part)
{
    if (half)
        FOR_BLOCKS(job->channels, GROUP, block_sums(job, 1, first, rows, c, vectors, count, part));
    else
        FOR_BLOCKS(job->channels, GROUP, block_sums(job, 0, first, rows, c, vectors, count, part));
}

/* Of the gradient g of y [rows][channels], as it comes to the batch norm: sums [2][channels], of it and of it times
   (source - mean); 0, or 1 where memory is short. */
int batch_norm_sums(const void *source, const void *g, int half, int64_t rows, int64_t channels, const float *gain,
                    const float *bias, const float *mean, float *sums, int threads)
{
    Sums job = {source, g, gain, bias, mean, channels};
    int64_t chunks = (rows + CHUNK - 1) / CHUNK, size = channels * 2;
    float *parts = malloc((size_t)(chunks * size) * sizeof(float) + 1);
    if (parts == NULL)
        return 1;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            chunk_sums(&job, half, chunk * CHUNK, least(CHUNK, rows - chunk * CHUNK), parts + chunk * size);
#pragma omp for schedule(static)
        for (int64_t c = 0; c < size; c++) {
            double total = 0;
            for (int64_t chunk = 0; chunk < chunks; chunk++)
                total += parts[chunk * size + c];
            sums[c] = (float)total;
        }
    }
    free(parts);
    return 0;
}

typedef struct {
    const void *x, *g;
    const uint8_t *taken;
    const float *gain, *bias, *scale, *slope, *offset;
    void *dx;
    Shape s;
    int half;
} Backward;

/* dx of a block of channels; its constants stay in registers. */
typedef struct {
    floats scale, slope, offset;
} Factors;

INLINE Factors factors(const Backward *job, int64_t c, int64_t count)
{
    return (Factors){constants(job->scale, c, count), constants(job->slope, c, count),
                     constants(job->offset, c, count)};
}

INLINE void finish(const Backward *job, int half, int64_t at, floats x, floats gradient, const Factors *by,
                   int64_t count)
{
    store(job->dx, half, at, gradient * by->scale + (x * by->slope + by->offset), count);
}

/* ---- without a pool: one block of channels of `rows` pixels from `first` on */
INLINE void pixels_block(const Backward *job, int half, int64_t first, int64_t rows, int64_t c, int64_t count)
{
    const Factors by = factors(job, c, count);
    const floats gain = constants(job->gain, c, count), bias = constants(job->bias, c, count);
    for (int64_t row = first; row < first + rows; row++) {
        int64_t at = row * job->s.channels + c;
        floats x = load(job->x, half, at, count), g = load(job->g, half, at, count);
        finish(job, half, at, x, passed(x, g, gain, bias), &by, count);
    }
}

/* ---- pools of any size: one block of channels of one line of x, in which each pixel asks all windows over it */
INLINE void line_block(const Backward *job, int half, int64_t line, int64_t c, int64_t count)
{
    const Shape s = job->s;
    const Factors by = factors(job, c, count);
    int64_t y = line % s.height, top = y < s.kernel ? 0 : (y - s.kernel) / s.stride + 1; /* the windows over it */
    int64_t bottom = least(y / s.stride, s.rows - 1), left = 0, right = 0;
    for (int64_t column = 0; column < s.width; column++) {
        left += left * s.stride + s.kernel <= column;
        right += (right + 1) * s.stride <= column && right + 1 < s.columns;
        floats gradient = {0};
        for (int64_t i = top; i <= bottom; i++)
            for (int64_t j = left; j <= right; j++) {
                int64_t window = ((line / s.height * s.rows + i) * s.columns + j) * s.channels + c;
                int64_t tap = (y - i * s.stride) * s.kernel + column - j * s.stride;
                mask here = equal(places(job->taken, window, count), (int32_t)tap);
                gradient += kept(here, load(job->g, half, window, count));
            }
        int64_t at = (line * s.width + column) * s.channels + c;
        finish(job, half, at, load(job->x, half, at, count), gradient, &by, count);
    }
}

/* ---- pools of at most two windows over a pixel in each direction: one block of channels of one line of x. `high` rows
   of windows are over it, from `top` on. Each window is read once, and kept while the next one is computed. */

typedef struct {
    ints taken; /* counted from the first place of the window in this line of x */
    floats g;
} Window;

INLINE void overlapped_block(const Backward *job, int half, int64_t kernel, int64_t stride, int64_t high, int64_t top,
                             int64_t line, int64_t c, int64_t count)
{
    const Shape s = job->s;
    const Factors by = factors(job, c, count);
    const Window none = {(ints){0} + NONE, (floats){0}};
    Window before[2] = {none, none}, now[2] = {none, none};
    int64_t window = (line / s.height * s.rows + top) * s.columns * s.channels + c;
    int64_t at = line * s.width * s.channels + c, place = (line % s.height - top * stride) * kernel;
    for (int64_t column = 0, left = 0; left < s.width; column++, left += stride, window += s.channels) {
        for (int64_t i = 0; i < high; i++) {
            int64_t from = window + i * s.columns * s.channels;
            now[i] = none;
            if (column < s.columns) {
                now[i].taken = places(job->taken, from, count) - (int32_t)(place - i * stride * kernel);
                now[i].g = load(job->g, half, from, count);
            }
        }
        for (int64_t j = 0; j < stride && left + j < s.width; j++, at += s.channels) {
            floats gradient = {0};
            for (int64_t i = 0; i < high; i++) {
                if (j + stride < kernel)
                    gradient += kept(equal(before[i].taken, (int32_t)(j + stride)), before[i].g);
                gradient += kept(equal(now[i].taken, (int32_t)j), now[i].g);
            }
            finish(job, half, at, load(job->x, half, at, count), gradient, &by, count);
        }
        before[0] = now[0];
        before[1] = now[1];
    }
}

INLINE void overlapped_line(const Backward *job, int half, int64_t kernel, int64_t stride, int64_t line)
{
    int64_t y = line % job->s.height, top = y < kernel ? 0 : (y - kernel) / stride + 1;
    int64_t high = least(y / stride, job->s.rows - 1) - top + 1;
#define LINE(high) \
    FOR_BLOCKS(job->s.channels, 1, overlapped_block(job, half, kernel, stride, high, top, line, c, count))
    if (high == 2) /* counts that are known: unrolled */
        LINE(2);
    else if (high == 1)
        LINE(1);
    else
        LINE(0);
#undef LINE
}

/* Functions of their own, as `forward_line` is. */
static void backward_line(const Backward *job, int64_t line)
{
#define OVERLAPPED(half, kernel, stride) overlapped_line(job, half, kernel, stride, line)
#define ANY(half, kernel, stride) FOR_BLOCKS(job->s.channels, 1, line_block(job, half, line, c, count))
    if (job->s.kernel == 3 && job->s.stride == 2) {
        CALLED(OVERLAPPED, job->half, 3, 2);
    } else if (job->s.kernel == 2 && job->s.stride == 2) {
        CALLED(OVERLAPPED, job->half, 2, 2);
    } else {
        CALLED(ANY, job->half, 0, 0);
    }
#undef OVERLAPPED
#undef ANY
}

static void backward_pixels(const Backward *job, int64_t first, int64_t rows)
{
#define PIXELS(half, kernel, stride) FOR_BLOCKS(job->s.channels, 1, pixels_block(job, half, first, rows, c, count))
    CALLED(PIXELS, job->half, 1, 1);
#undef PIXELS
}

/* dx = scale * g + slope * x + offset, g being the gradient of y as it comes to each pixel. */
void batch_norm_backward(const void *x, const void *g, const uint8_t *taken, int half, const int64_t *shape,
                         const float *gain, const float *bias, const float *scale, const float *slope,
                         const float *offset, void *dx, int threads)
{
    Backward job = {x, g, taken, gain, bias, scale, slope, offset, dx, .half = half};
    memcpy(&job.s, shape, sizeof job.s);
    int64_t pixels = job.s.n * job.s.height * job.s.width;
    if (job.s.kernel == 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t first = 0; first < pixels; first += PIECE)
            backward_pixels(&job, first, least(PIECE, pixels - first));
    } else {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t line = 0; line < job.s.n * job.s.height; line++)
            backward_line(&job, line);
    }
}
