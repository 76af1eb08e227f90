/* Local response normalization across maps, and its gradient, each in one pass over memory.
 *
 *     b_i = a_i * d_i^-beta        d_i = k + alpha * (sum of a_j^2, j from i - reach to i + reach)
 *     gradient of a: g_i * d_i^-beta - 2 * alpha * beta * a_i * (sum of g_j * b_j / d_j over the same j)
 *
 * A tensor is a dense [outer, maps, inner] array of float, or of bfloat16 as uint16_t. Of NCHW, inner = H * W; of NHWC,
 * inner = 1 and the pixels belong to `outer`. Maps of several columns are so many times `outer`. Maps outside count as
 * 0 in both sums. All is computed in float, the gradient from a and g alone: to compute d anew takes less time than to
 * read it.
 *
 * Sums are added up from i - reach to i + reach, in every layout and for any number of threads. Nothing is subtracted
 * from them: a running sum would keep the rounding of a large value after that has left it.
 */
#include "common.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define VECTORS _Pragma("omp simd")

enum {
    PIXELS = 1024,   /* of a map, in work at a time: few long runs of memory, and rows that stay in the caches */
    VALUES = 512,    /* of whole NHWC pixels in work at a time: their rows stay in the L1 cache */
    LINE = 64,       /* bytes of a cache line */
    ALONE = 1 << 15, /* values below which one thread is enough */
    SHARES = 16,     /* portions of the work for each thread to take: another program may hold one of them up */
};

typedef struct {
    const void *a, *g; /* g is NULL where b is wanted, else the gradient of b */
    void *out;
    int64_t outer, maps, inner, reach;
    float alpha, beta, k;
    int half; /* bfloat16 */
} Job;

/* Rows of floats for one thread's block: as many as its layout says. */
typedef struct {
    float *squares, *terms, *direct, *total, *zeros;
    const float **window;
} Rows;

INLINE float load(const void *from, int half, int64_t at)
{
    if (!half)
        return ((const float *)from)[at];
    return from_bfloat16(((const uint16_t *)from)[at]);
}

INLINE void store(void *to, int half, int64_t at, float value)
{
    if (!half)
        ((float *)to)[at] = value;
    else
        ((uint16_t *)to)[at] = to_bfloat16(value);
}

/* d^-0.75 and 1 / d without root or division, which take several times as long. y, about d^-1/4: first from the bits of
 * d, to 3 %, then by a step along h = 1 - d * y^4 whose two coefficients are fitted, to 1.1e-4. Both powers follow as
 * series in h, to 1.4 units in the last place. Of an infinite d both are 0, of NaN both are NaN. */
INLINE void powers(float d, float *scale, float *inverse)
{
    const int finite = !(d > FLT_MAX); /* or NaN */
    d = finite ? d : FLT_MAX;
    uint32_t bits;
    memcpy(&bits, &d, sizeof bits);
    bits = 0x4f588000 - (bits >> 2);
    float y;
    memcpy(&y, &bits, sizeof y);
    float y2 = y * y, h = 1 - d * y2 * y2;
    y += y * (h * (0.251f + 0.155f * h));
    y = finite ? y : 0;
    y2 = y * y;
    h = 1 - d * y2 * y2;
    float y3 = y2 * y, y4 = y2 * y2;
    *scale = y3 + y3 * (h * (0.75f + 0.65625f * h));
    *inverse = y4 + y4 * (h + h * h);
}

INLINE void scales(const Job *job, int chain, float total, float *scale, float *inverse)
{
    float d = job->k + job->alpha * total;
    if (chain) {
        powers(d, scale, inverse);
    } else {
        *scale = powf(d, -job->beta);
        *inverse = 1 / d;
    }
}

/* total[e] = the sum of rows[0][e] to rows[count - 1][e] */
static void add(const float *const *rows, int64_t count, float *restrict total, int64_t n)
{
    const float *restrict r0 = rows[0];
    if (count == 5) { /* the paper's: in registers */
        const float *restrict r1 = rows[1], *restrict r2 = rows[2], *restrict r3 = rows[3], *restrict r4 = rows[4];
        VECTORS
        for (int64_t e = 0; e < n; e++)
            total[e] = r0[e] + r1[e] + r2[e] + r3[e] + r4[e];
        return;
    }
    memcpy(total, r0, n * sizeof(float));
    for (int64_t j = 1; j < count; j++) {
        const float *restrict row = rows[j];
        VECTORS
        for (int64_t e = 0; e < n; e++)
            total[e] += row[e];
    }
}

/* Asks for n values of the input before they are needed: memory works while the processor computes. A hint, which may
 * reach behind the end. */
INLINE void fetch(const Job *job, int half, int64_t at, int64_t n)
{
    int64_t size = half ? sizeof(uint16_t) : sizeof(float);
    for (int64_t byte = 0; byte < n * size; byte += LINE) {
        __builtin_prefetch((const char *)job->a + at * size + byte);
        if (job->g)
            __builtin_prefetch((const char *)job->g + at * size + byte);
    }
}

/* ---- n values from `at` on, of one map (NCHW) or one pixel (NHWC) */

INLINE void square(const Job *job, int half, int64_t at, int64_t n, float *restrict squares)
{
    VECTORS
    for (int64_t e = 0; e < n; e++) {
        float a = load(job->a, half, at + e);
        squares[e] = a * a;
    }
}

INLINE void normalize(const Job *job, int half, int chain, int64_t at, int64_t n, const float *restrict total)
{
    VECTORS
    for (int64_t e = 0; e < n; e++) {
        float scale, inverse;
        scales(job, chain, total[e], &scale, &inverse);
        store(job->out, half, at + e, load(job->a, half, at + e) * scale);
    }
}

/* direct = g * d^-beta, and the term of the sum: g * b / d */
INLINE void terms(const Job *job, int half, int chain, int64_t at, int64_t n, const float *restrict total,
                  float *restrict direct, float *restrict term)
{
    VECTORS
    for (int64_t e = 0; e < n; e++) {
        float scale, inverse;
        scales(job, chain, total[e], &scale, &inverse);
        float scaled = load(job->g, half, at + e) * scale;
        direct[e] = scaled;
        term[e] = scaled * load(job->a, half, at + e) * inverse;
    }
}

INLINE void combine(const Job *job, int half, int64_t at, int64_t n, const float *restrict direct,
                    const float *restrict total)
{
    const float factor = -2 * job->alpha * job->beta;
    VECTORS
    for (int64_t e = 0; e < n; e++)
        store(job->out, half, at + e, direct[e] + factor * load(job->a, half, at + e) * total[e]);
}

/* ---- NCHW: n pixels of all maps, a map behind another; rows as long as a window is high are kept in rings */

INLINE const float *const *around(const Job *job, const Rows *rows, const float *ring, int64_t map, int64_t n)
{
    int64_t high = 2 * job->reach + 1;
    for (int64_t j = 0, at = map - job->reach; j < high; j++, at++)
        rows->window[j] = at < 0 || at >= job->maps ? rows->zeros : ring + at % high * n;
    return rows->window;
}

INLINE void pixels(const Job *job, const Rows *rows, int half, int chain, int64_t start, int64_t n)
{
    int64_t high = 2 * job->reach + 1, maps = job->maps, wide = (n + 15) / 16 * 16;
    for (int64_t newest = 0; newest < maps + (job->g ? 2 : 1) * job->reach; newest++) {
        int64_t middle = newest - job->reach, oldest = middle - job->reach;
        if (newest + 1 < maps)
            fetch(job, half, start + (newest + 1) * job->inner, n);
        if (newest < maps)
            square(job, half, start + newest * job->inner, n, rows->squares + newest % high * wide);
        if (middle >= 0 && middle < maps) {
            int64_t at = start + middle * job->inner, place = middle % high * wide;
            add(around(job, rows, rows->squares, middle, wide), high, rows->total, n);
            if (job->g)
                terms(job, half, chain, at, n, rows->total, rows->direct + place, rows->terms + place);
            else
                normalize(job, half, chain, at, n, rows->total);
        }
        if (job->g && oldest >= 0) {
            add(around(job, rows, rows->terms, oldest, wide), high, rows->total, n);
            combine(job, half, start + oldest * job->inner, n, rows->direct + oldest % high * wide, rows->total);
        }
    }
}

/* ---- NHWC: all maps of n pixels, `reach` zeros before, between and behind the pixels, which stay 0 */

INLINE const float *const *shifted(const Job *job, const Rows *rows, const float *padded)
{
    for (int64_t j = 0; j < 2 * job->reach + 1; j++)
        rows->window[j] = padded + j;
    return rows->window;
}

INLINE void whole_pixels(const Job *job, const Rows *rows, int half, int chain, int64_t start, int64_t n)
{
    int64_t maps = job->maps, reach = job->reach, high = 2 * reach + 1, apart = maps + reach;
    fetch(job, half, start + n * maps, n * maps);
    for (int64_t p = 0; p < n; p++)
        square(job, half, start + p * maps, maps, rows->squares + reach + p * apart);
    add(shifted(job, rows, rows->squares), high, rows->total, n * apart - reach);
    for (int64_t p = 0; p < n; p++) {
        int64_t at = start + p * maps, place = p * apart;
        if (job->g)
            terms(job, half, chain, at, maps, rows->total + place, rows->direct + place, rows->terms + reach + place);
        else
            normalize(job, half, chain, at, maps, rows->total + place);
    }
    if (!job->g)
        return;
    add(shifted(job, rows, rows->terms), high, rows->total, n * apart - reach);
    for (int64_t p = 0; p < n; p++)
        combine(job, half, start + p * maps, maps, rows->direct + p * apart, rows->total + p * apart);
}

/* ---- blocks, shared out among the threads */

INLINE void block(const Job *job, const Rows *rows, int half, int chain, int64_t index, int64_t length, int64_t blocks)
{
    if (job->inner == 1) {
        int64_t first = index * length, left = job->outer - first;
        whole_pixels(job, rows, half, chain, first * job->maps, left < length ? left : length);
    } else {
        int64_t first = index % blocks * length, left = job->inner - first;
        int64_t start = index / blocks * job->maps * job->inner + first;
        pixels(job, rows, half, chain, start, left < length ? left : length);
    }
}

static void any_block(const Job *job, const Rows *rows, int64_t index, int64_t length, int64_t blocks)
{
    int chain = job->beta == 0.75f;
    if (job->half && chain)
        block(job, rows, 1, 1, index, length, blocks);
    else if (job->half)
        block(job, rows, 1, 0, index, length, blocks);
    else if (chain)
        block(job, rows, 0, 1, index, length, blocks);
    else
        block(job, rows, 0, 0, index, length, blocks);
}

/* Returns 0, or 1 where there is no memory for a few rows of each thread. */
static int run(const Job *job, int threads)
{
    int64_t high = 2 * job->reach + 1, apart = job->maps + job->reach;
    int64_t length, blocks, all, ring;
    if (job->inner == 1) {
        length = apart < VALUES ? VALUES / apart : 1;
        blocks = (job->outer + length - 1) / length;
        all = blocks;
        ring = (length * apart + job->reach + 15) / 16 * 16;
    } else {
        blocks = (job->inner + PIXELS - 1) / PIXELS;
        length = ((job->inner + blocks - 1) / blocks + 15) / 16 * 16; /* nearly equal ones */
        blocks = (job->inner + length - 1) / length;
        all = job->outer * blocks;
        ring = high * length;
    }
    int64_t row = job->inner == 1 ? ring : length;
    size_t bytes = (3 * ring + 2 * row) * sizeof(float) + high * sizeof(float *);
    int failed = 0;
    if (job->outer * job->maps * job->inner < ALONE)
        threads = 1;
    int64_t share = all / (threads * SHARES) + 1;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *memory = aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);
        failed = memory == NULL;
        if (!failed)
            memset(memory, 0, bytes);
        Rows rows = {.squares = memory,
                     .terms = memory + ring,
                     .direct = memory + 2 * ring,
                     .total = memory + 3 * ring,
                     .zeros = memory + 3 * ring + row,
                     .window = (const float **)(memory + 3 * ring + 2 * row)};
#pragma omp for schedule(dynamic, share)
        for (int64_t index = 0; index < all; index++)
            if (!failed)
                any_block(job, &rows, index, length, blocks);
        free(memory);
    }
    return failed;
}

/* out = b where g is NULL, else the gradient of a where g is that of b. `half`: all three are bfloat16, else float. */
int lrn(const void *a, const void *g, void *out, int64_t outer, int64_t maps, int64_t inner, int64_t reach, float alpha,
        float beta, float k, int half, int threads)
{
    Job job = {a, g, out, outer, maps, inner, reach < maps ? reach : maps - 1, alpha, beta, k, half};
    return outer * maps * inner == 0 ? 0 : run(&job, threads);
}
