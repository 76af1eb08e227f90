/* The windows of a convolution over channels_last maps as the rows of a matrix, and the sums that lead back.

   A row has one output pixel's window: [kernel][kernel][channels of its group], zeros where it is over the edge of the maps. Values
   are copied or added as they are, in a fixed order: the same bits whatever the number of threads. */

#include "convolution.h"

/* The columns j of a window at `column` that are within the maps: [left, right); none where the window is outside. */
INLINE void within(int64_t at, int64_t size, int64_t kernel, int64_t *left, int64_t *right)
{
    *left = least(kernel, most(0, -at));
    *right = most(*left, least(kernel, size - at));
}

/* The windows of `count` rows of output pixels from row `first` on, the rows of all images counted through.
   x: the first channel of the group; item: bytes of a value; to [count][out_width][kernel][kernel][channels]. */
void convolution_windows(const char *x, const int64_t *shape, int64_t first, int64_t count, int64_t item, char *to, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    int64_t pixel = s.in * item, part = s.in / s.groups * item, line = s.kernel * part, window = s.kernel * line;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t each = 0; each < count; each++) {
        int64_t image = (first + each) / s.out_height, top = (first + each) % s.out_height * s.stride - s.pad;
        for (int64_t column = 0; column < s.out_width; column++) {
            char *row = to + (each * s.out_width + column) * window;
            int64_t start = column * s.stride - s.pad, left, right;
            within(start, s.width, s.kernel, &left, &right);
            for (int64_t i = 0; i < s.kernel; i++, row += line) {
                if (top + i < 0 || top + i >= s.height || left == right) {
                    memset(row, 0, (size_t)line);
                    continue;
                }
                const char *from = x + ((image * s.height + top + i) * s.width + start + left) * pixel;
                memset(row, 0, (size_t)(left * part));
                if (part == pixel)
                    memcpy(row + left * part, from, (size_t)((right - left) * part));
                else
                    for (int64_t j = left; j < right; j++)
                        memcpy(row + j * part, from + (j - left) * pixel, (size_t)part);
                memset(row + right * part, 0, (size_t)((s.kernel - right) * part));
            }
        }
    }
}

/* Adds the `count` values of one tap to sums in float. */
INLINE void add(const char *from, int64_t count, int64_t item, float *sums)
{
    if (item == sizeof(float))
        for (int64_t c = 0; c < count; c++)
            sums[c] += ((const float *)from)[c];
    else
        for (int64_t c = 0; c < count; c++)
            sums[c] += from_bfloat16(((const uint16_t *)from)[c]);
}

/* The reverse: each input pixel is the sum of its places in the windows, summed in float and rounded once.
   windows [n][out_height][out_width][kernel][kernel][channels] to x [n][height][width][in], whose other groups stay as they
   are; of float (item 4) or bfloat16 (item 2). */
void convolution_windows_sum(const char *windows, const int64_t *shape, int64_t item, char *x, int threads)
{
    Shape s;
    memcpy(&s, shape, sizeof s);
    int64_t channels = s.in / s.groups, part = channels * item;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t each = 0; each < s.n * s.height; each++) {
        int64_t image = each / s.height, row = each % s.height;
        for (int64_t column = 0; column < s.width; column++)
            for (int64_t from = 0; from < channels; from += 4 * LANES) {
                int64_t count = least(4 * LANES, channels - from);
                float sums[4 * LANES] = {0};
                for (int64_t i = 0; i < s.kernel; i++) {
                    int64_t down = row + s.pad - i, y = down / s.stride;
                    if (down < 0 || down % s.stride || y >= s.out_height)
                        continue;
                    for (int64_t j = 0; j < s.kernel; j++) {
                        int64_t right = column + s.pad - j, z = right / s.stride;
                        if (right < 0 || right % s.stride || z >= s.out_width)
                            continue;
                        int64_t place = (((image * s.out_height + y) * s.out_width + z) * s.kernel + i) * s.kernel + j;
                        add(windows + place * part + from * item, count, item, sums);
                    }
                }
                char *to = x + ((each * s.width + column) * s.in + from) * item;
                if (item == sizeof(float))
                    memcpy(to, sums, (size_t)count * sizeof(float));
                else
                    for (int64_t c = 0; c < count; c++)
                        ((uint16_t *)to)[c] = to_bfloat16(sums[c]);
            }
    }
}
