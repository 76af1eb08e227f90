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
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
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

/* `where` is all ones or all zeros in each lane, as comparisons give it */
INLINE ints picked(ints where, ints then, ints otherwise) { return (where & then) | (~where & otherwise); }
INLINE floats chosen(ints where, floats then, floats otherwise)
{
    return (floats)picked(where, (ints)then, (ints)otherwise);
}

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
    return (floats)(__builtin_convertvector(upper, words) << 16);
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
    halves upper = __builtin_convertvector((words)picked(values != values, (ints){0} + 0x7fc0, (ints)rounded), halves);
#endif
    STORED(halves, upper, (uint16_t *)to + at, count);
}

INLINE floats constants(const float *of_channels, int64_t c, int64_t count) { return load(of_channels, 0, c, count); }

INLINE ints places(const uint8_t *taken, int64_t at, int64_t count)
{
    LOADED(bytes, found, taken + at, count);
    return __builtin_convertvector(found, ints);
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
INLINE void forward_block(const Forward *job, int half, int64_t kernel, int64_t high, int64_t wide, int64_t from,
                          int64_t to, int64_t c, int64_t count)
{
    floats gain = constants(job->gain, c, count), bias = constants(job->bias, c, count);
    floats source = load(job->x, half, from + c, count), best = source * gain + bias;
    ints place = {0};
    for (int64_t i = 0; i < high; i++)
        for (int64_t j = i == 0; j < wide; j++) {
            floats x = load(job->x, half, from + (i * job->s.width + j) * job->s.channels + c, count);
            floats value = x * gain + bias;
            ints better = (value > best) | (value != value);
            best = chosen(better, value, best);
            source = chosen(better, x, source);
            place = picked(better, (ints){0} + (int32_t)(i * kernel + j), place);
        }
    ints stopped = best <= 0;
    store(job->y, half, to + c, chosen(stopped, (floats){0}, best), count);
    if (kernel > 1 && job->taken != NULL) {
        bytes taken = __builtin_convertvector(picked(stopped, (ints){0} + NONE, place), bytes);
        STORED(bytes, taken, job->taken + to + c, count);
        store(job->source, half, to + c, source, count);
    }
}

/* One line of y. Windows are cut off at the edges of the maps. */
INLINE void forward_line(const Forward *job, int half, int64_t kernel, int64_t stride, int64_t line)
{
    const Shape s = job->s;
    int64_t image = line / s.rows, top = line % s.rows * stride, high = least(kernel, s.height - top);
    for (int64_t column = 0; column < s.columns; column++) {
        int64_t left = column * stride, wide = least(kernel, s.width - left);
        int64_t from = ((image * s.height + top) * s.width + left) * s.channels;
        int64_t to = (line * s.columns + column) * s.channels;
        if (high == kernel && wide == kernel) /* of a size that is known: unrolled */
            FOR_BLOCKS(s.channels, 1, forward_block(job, half, kernel, kernel, kernel, from, to, c, count));
        else
            FOR_BLOCKS(s.channels, 1, forward_block(job, half, kernel, high, wide, from, to, c, count));
    }
}

/* A function of its own: in one that is outlined for threads the sizes would be no constants. */
static void forward_any_line(const Forward *job, int64_t line)
{
    int64_t kernel = job->s.kernel, stride = job->s.stride;
#define LINE(half)                                   \
    if (kernel == 1)                                 \
        forward_line(job, half, 1, 1, line);         \
    else if (kernel == 3 && stride == 2)             \
        forward_line(job, half, 3, 2, line);         \
    else                                             \
        forward_line(job, half, kernel, stride, line)
    if (job->half) {
        LINE(1);
    } else {
        LINE(0);
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
        forward_any_line(&job, line);
}

/* ---- backward ---- */

/* The gradient g of y as it passes the ReLU, `x` being the value that was taken. */
INLINE floats passed(floats x, floats g, floats gain, floats bias)
{
    return chosen(x * gain + bias <= 0, (floats){0}, g);
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

/* One block of channels of one pixel, `at`, which `high` * `wide` windows meet: the first one gave y its pixel `to`, and
   has this pixel at the place `tap`. */
INLINE void backward_block(const Backward *job, int half, int pooled, int64_t high, int64_t wide, int64_t at, int64_t to,
                           int64_t tap, int64_t c, int64_t count)
{
    floats x = load(job->x, half, at + c, count), gradient = {0};
    if (pooled) {
        for (int64_t i = 0; i < high; i++)
            for (int64_t j = 0; j < wide; j++) {
                int64_t pixel = to + (i * job->s.columns + j) * job->s.channels + c;
                ints here = (ints){0} + (int32_t)(tap - (i * job->s.kernel + j) * job->s.stride);
                here = places(job->taken, pixel, count) == here;
                gradient += (floats)(here & (ints)load(job->g, half, pixel, count));
            }
    } else {
        floats gain = constants(job->gain, c, count), bias = constants(job->bias, c, count);
        gradient = passed(x, load(job->g, half, at + c, count), gain, bias);
    }
    floats rest = x * constants(job->slope, c, count) + constants(job->offset, c, count);
    store(job->dx, half, at + c, gradient * constants(job->scale, c, count) + rest, count);
}

/* One line of x. */
INLINE void backward_line(const Backward *job, int half, int64_t line)
{
    const Shape s = job->s;
    int64_t image = line / s.height, y = line % s.height;
    int64_t top = y < s.kernel ? 0 : (y - s.kernel) / s.stride + 1; /* the windows over it: rows from top on */
    int64_t high = least(y / s.stride, s.rows - 1) - top + 1, left = 0, right = 0;
    for (int64_t column = 0; column < s.width; column++) {
        left += left * s.stride + s.kernel <= column;
        right += (right + 1) * s.stride <= column && right + 1 < s.columns;
        int64_t wide = right - left + 1, at = (line * s.width + column) * s.channels;
        int64_t to = ((image * s.rows + top) * s.columns + left) * s.channels;
        int64_t tap = (y - top * s.stride) * s.kernel + column - left * s.stride;
#define PIXEL(pooled, high, wide) \
    FOR_BLOCKS(s.channels, 1, backward_block(job, half, pooled, high, wide, at, to, tap, c, count))
        if (s.kernel == 1) /* counts that are known: unrolled */
            PIXEL(0, 1, 1);
        else if (high == 1 && wide == 1)
            PIXEL(1, 1, 1);
        else if (high == 1 && wide == 2)
            PIXEL(1, 1, 2);
        else if (high == 2 && wide == 1)
            PIXEL(1, 2, 1);
        else if (high == 2 && wide == 2)
            PIXEL(1, 2, 2);
        else
            PIXEL(1, high, wide);
#undef PIXEL
    }
}

static void backward_any_line(const Backward *job, int64_t line)
{
    if (job->half)
        backward_line(job, 1, line);
    else
        backward_line(job, 0, line);
}

/* dx = scale * g + slope * x + offset, g being the gradient of y as it comes to each pixel. */
void batch_norm_backward(const void *x, const void *g, const uint8_t *taken, int half, const int64_t *shape,
                         const float *gain, const float *bias, const float *scale, const float *slope,
                         const float *offset, void *dx, int threads)
{
    Backward job = {x, g, taken, gain, bias, scale, slope, offset, dx, .half = half};
    memcpy(&job.s, shape, sizeof job.s);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t line = 0; line < job.s.n * job.s.height; line++)
        backward_any_line(&job, line);
}
