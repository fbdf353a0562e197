/* The mean of all positions so far: see running_mean.py for the equations. Arrays (B, T, C). */
#include "fused.h"
#include "spread.h"

typedef struct {
    const float *from;
    float *to;
    int64_t length, channels;
} Sequences;

/* Channels whose sums are kept at hand, in the fastest cache. */
enum { CHANNELS = 512 };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

MULTIVERSION static void forward(void *job, int64_t first, int64_t last)
{
    const Sequences *const a = job;
    const int64_t length = a->length, channels = a->channels;
    const float *const x = a->from;
    float *const y = a->to;
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

MULTIVERSION static void backward(void *job, int64_t first, int64_t last)
{
    const Sequences *const a = job;
    const int64_t length = a->length, channels = a->channels;
    const float *const grad = a->from;
    float *const grad_x = a->to;
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

void running_mean_forward(const float *x, float *y, int64_t sequences, int64_t length,
                          int64_t channels, int64_t threads)
{
    spread(forward, &(Sequences){x, y, length, channels}, sequences, threads);
}

void running_mean_backward(const float *grad, float *grad_x, int64_t sequences, int64_t length,
                           int64_t channels, int64_t threads)
{
    spread(backward, &(Sequences){grad, grad_x, length, channels}, sequences, threads);
}
