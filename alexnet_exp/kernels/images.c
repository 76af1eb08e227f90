/* Crops squares out of images in memory, and standardizes bytes to floats: one pass over the pixels each.
 *
 * All arrays are contiguous. `threads` is torch's number; each image is computed by one thread.
 */

#include "common.h"

/* Below this many bytes of output, starting threads takes longer than they save. */
#define WORTH_THREADS (1 << 18)

static void row_copied(const uint8_t *from, uint8_t *to, int64_t count) { memcpy(to, from, (size_t)count); }

static void row_mirrored(const uint8_t *from, uint8_t *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = from[count - 1 - i];
}

/* Of each image [channels, height, width], with `pad` zeros on all sides, the square whose upper left corner is at
 * top[i], left[i] of the padded image, mirrored left to right where mirrored[i] (NULL: nowhere).
 */
void crop_squares(const uint8_t *images, uint8_t *out, int64_t count, int64_t channels, int64_t height, int64_t width,
                  int64_t pad, int64_t side, const int64_t *top, const int64_t *left, const uint8_t *mirrored,
                  int threads)
{
    const int64_t square = channels * side * side;
#pragma omp parallel for num_threads(threads) if (count * square > WORTH_THREADS)
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *image = images + i * channels * height * width;
        uint8_t *to = out + i * square;
        const int turned = mirrored && mirrored[i];
        const int64_t y = top[i] - pad, x = left[i] - pad;
        /* columns of the square that are inside the image: from `first` to before `last` */
        const int64_t first = x < 0 ? -x : 0, last = x + side > width ? width - x : side;
        const int64_t start = turned ? side - last : first;
        for (int64_t channel = 0; channel < channels; channel++) {
            for (int64_t row = 0; row < side; row++, to += side) {
                const int64_t at = y + row;
                if (at < 0 || at >= height || first >= last) {
                    memset(to, 0, (size_t)side);
                    continue;
                }
                const uint8_t *from = image + (channel * height + at) * width + x + first;
                if (first > 0 || last < side)
                    memset(to, 0, (size_t)side);
                (turned ? row_mirrored : row_copied)(from, to + start, last - first);
            }
        }
    }
}

/* The loops below, once for each kind of number, layout and statistics: the flags are constants in every copy. */
#define EACH_PIXEL(STORE, MEAN, STD)                                                                                   \
    do {                                                                                                               \
        if (last && channels == 3)                                                                                     \
            for (int64_t p = 0; p < pixels; p++)                                                                       \
                for (int64_t c = 0; c < 3; c++)                                                                        \
                    to[p * 3 + c] = STORE(((float)from[c * pixels + p] - (MEAN)) / (STD));                             \
        else                                                                                                           \
            for (int64_t c = 0; c < channels; c++)                                                                     \
                for (int64_t p = 0; p < pixels; p++)                                                                   \
                    to[last ? p * channels + c : c * pixels + p] =                                                     \
                        STORE(((float)from[c * pixels + p] - (MEAN)) / (STD));                                         \
    } while (0)

static void image_to_float(const uint8_t *restrict from, float *restrict to, int64_t channels, int64_t pixels,
                           const float *restrict mean, const float *restrict std, int64_t by_mean, int64_t by_std,
                           int last)
{
#define SAME(value) (value)
    if (by_mean == 1 && by_std == 1)
        EACH_PIXEL(SAME, mean[c], std[c]);
    else
        EACH_PIXEL(SAME, mean[by_mean == 1 ? c : c * pixels + p], std[by_std == 1 ? c : c * pixels + p]);
}

static void image_to_bfloat16(const uint8_t *restrict from, uint16_t *restrict to, int64_t channels, int64_t pixels,
                              const float *restrict mean, const float *restrict std, int64_t by_mean, int64_t by_std,
                              int last)
{
    if (by_mean == 1 && by_std == 1)
        EACH_PIXEL(number_to_bfloat16, mean[c], std[c]);
    else
        EACH_PIXEL(number_to_bfloat16, mean[by_mean == 1 ? c : c * pixels + p], std[by_std == 1 ? c : c * pixels + p]);
}

/* (pixel - mean) / std of uint8 [count, channels, pixels], in float32 or, if `half`, rounded to bfloat16 after that.
 *
 * `mean` and `std` have `by_mean` and `by_std` values a channel: 1, or one a pixel. The result has its channels last in
 * memory if `last`.
 */
void standardize(const uint8_t *images, void *out, int64_t count, int64_t channels, int64_t pixels, const float *mean,
                 const float *std, int64_t by_mean, int64_t by_std, int half, int last, int threads)
{
    const int64_t size = channels * pixels;
#pragma omp parallel for num_threads(threads) if (count * size > WORTH_THREADS)
    for (int64_t i = 0; i < count; i++)
        if (half)
            image_to_bfloat16(images + i * size, (uint16_t *)out + i * size, channels, pixels, mean, std, by_mean,
                              by_std, last);
        else
            image_to_float(images + i * size, (float *)out + i * size, channels, pixels, mean, std, by_mean, by_std,
                           last);
}
