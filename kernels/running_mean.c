/* The mean of all positions so far: see running_mean.py for the equations. Arrays (B, T, C). */
#include "fused.h"

/* Channels whose sums are kept at hand, in the fastest cache. */
enum { CHANNELS = 512 };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Sequences `first` to `last` of y. */
MULTIVERSION void running_mean_forward(const float *x, float *y, int64_t length, int64_t channels,
                                       int64_t first, int64_t last)
{
    float sum[CHANNELS];
    for (int64_t b = first; b < last; b++)
        for (int64_t c = 0; c < channels; c += CHANNELS) {
            const int64_t count = least(channels - c, CHANNELS);
            memset(sum, 0, sizeof sum);
            for (int64_t t = 0; t < length; t++) {
                const int64_t at = (b * length + t) * channels + c;
                const float positions = (float)(t + 1);
#pragma omp simd
                for (int64_t j = 0; j < count; j++) {
                    sum[j] += x[at + j];
                    y[at + j] = sum[j] / positions;
                }
            }
        }
}

/* Sequences `first` to `last` of grad_x. */
MULTIVERSION void running_mean_backward(const float *grad, float *grad_x, int64_t length,
                                        int64_t channels, int64_t first, int64_t last)
{
    float sum[CHANNELS];
    for (int64_t b = first; b < last; b++)
        for (int64_t c = 0; c < channels; c += CHANNELS) {
            const int64_t count = least(channels - c, CHANNELS);
            memset(sum, 0, sizeof sum);
            for (int64_t t = length - 1; t >= 0; t--) {
                const int64_t at = (b * length + t) * channels + c;
                const float positions = (float)(t + 1);
#pragma omp simd
                for (int64_t j = 0; j < count; j++) {
                    sum[j] += grad[at + j] / positions;
                    grad_x[at + j] = sum[j];
                }
            }
        }
}
