/* The mean of all positions so far: see reference.py for the equations. And the sum of them: see
 * reduce.py. Arrays (B, T, C). */
#include <stdatomic.h>
#include <stdlib.h>

#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    const float *from;
    float *to;
    int64_t length, channels;
    atomic_int failed;
} Sequences;

/* Channels whose sums are kept at hand, in the fastest cache; positions that are added up in single
 * precision, before these sums are in double precision; and sequences that are walked together, so
 * that an addition need not wait for the last. */
enum { CHANNELS = 512, STRETCH = 32, TOGETHER = 8 };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct {
    double totals[CHANNELS];               /* of all stretches before */
    float before[CHANNELS], sum[CHANNELS]; /* the totals, and what the stretch has added */
} Walk;

INLINE void end_stretch(Walk *at, int64_t count)
{
#pragma omp simd
    for (int64_t j = 0; j < count; j++) {
        at->totals[j] += (double)at->sum[j];
        at->before[j] = (float)at->totals[j];
        at->sum[j] = 0;
    }
}

/* Forward walks from the first position to the last and divides sums; backward walks from the last
 * to the first and adds up what is divided already. */
INLINE void walk(const Sequences *a, int64_t first, int64_t last, int forwards)
{
    const int64_t length = a->length, channels = a->channels;
    const float *const x = a->from;
    float *const y = a->to;
    Walk at;
    for (int64_t b = first; b < last; b++)
        for (int64_t c = 0; c < channels; c += CHANNELS) {
            const int64_t count = least(channels - c, CHANNELS);
            memset(&at, 0, sizeof at);
            for (int64_t step = 0; step < length; step++) {
                const int64_t t = forwards ? step : length - 1 - step;
                const int64_t place = (b * length + t) * channels + c;
                const float positions = (float)(t + 1);
#pragma omp simd
                for (int64_t j = 0; j < count; j++) {
                    at.sum[j] += forwards ? x[place + j] : x[place + j] / positions;
                    const float sum = at.before[j] + at.sum[j];
                    y[place + j] = forwards ? sum / positions : sum;
                }
                if (t % STRETCH == (forwards ? STRETCH - 1 : 0))
                    end_stretch(&at, count);
            }
        }
}

MULTIVERSION static void forward(void *job, int64_t first, int64_t last)
{
    walk(job, first, last, 1);
}

MULTIVERSION static void backward(void *job, int64_t first, int64_t last)
{
    walk(job, first, last, 0);
}

/* The sums of sequences of which each position is one number: TOGETHER of them at a time. */
MULTIVERSION static void sums_of_elements(void *job, int64_t first, int64_t last)
{
    const Sequences *const a = job;
    const int64_t length = a->length;
    for (int64_t b = first; b < last; b += TOGETHER) {
        const int64_t count = least(last - b, TOGETHER);
        const float *const x = a->from + b * length;
        float *const y = a->to + b * length;
        double totals[TOGETHER] = {0};
        if (count == TOGETHER) {
            for (int64_t t = 0; t < length; t++)
                for (int64_t i = 0; i < TOGETHER; i++)
                    y[i * length + t] = (float)(totals[i] += (double)x[i * length + t]);
            continue;
        }
        for (int64_t i = 0; i < count; i++)
            for (int64_t t = 0; t < length; t++)
                y[i * length + t] = (float)(totals[i] += (double)x[i * length + t]);
    }
}

/* The sums of sequences of rows, row after row as they lie in memory. */
MULTIVERSION static void sums_of_rows(void *job, int64_t first, int64_t last)
{
    Sequences *const a = job;
    const int64_t length = a->length, channels = a->channels;
    double *const totals = malloc((size_t)channels * sizeof(double) + 1);
    if (!totals) {
        atomic_store(&a->failed, 1);
        return;
    }
    for (int64_t b = first; b < last; b++) {
        const float *x = a->from + b * length * channels;
        float *y = a->to + b * length * channels;
        for (int64_t j = 0; j < channels; j++)
            totals[j] = 0;
        for (int64_t t = 0; t < length; t++, x += channels, y += channels)
#pragma omp simd
            for (int64_t j = 0; j < channels; j++) {
                totals[j] += (double)x[j];
                y[j] = (float)totals[j];
            }
    }
    free(totals);
}

KERNEL_PLAIN(void, running_mean_forward, IN(x, sequences * length * channels),
             OUT(y, sequences * length * channels), COUNT(sequences), COUNT(length),
             COUNT(channels), COUNT(threads))
{
    parallel_for(forward, &(Sequences){x, y, length, channels, 0}, sequences, threads);
}

KERNEL_PLAIN(void, running_mean_backward, IN(grad, sequences * length * channels),
             OUT(grad_x, sequences * length * channels), COUNT(sequences), COUNT(length),
             COUNT(channels), COUNT(threads))
{
    parallel_for(backward, &(Sequences){grad, grad_x, length, channels, 0}, sequences, threads);
}

/* y (count, length, columns) = the running sums of x, in double precision. Returns 0, and -1 where
 * memory is short. */
KERNEL_PLAIN(int, running_sum, IN(x, count * length * columns), OUT(y, count * length * columns),
             COUNT(count), COUNT(length), COUNT(columns), COUNT(threads))
{
    Sequences job = {x, y, length, columns, 0};
    parallel_for(columns == 1 ? sums_of_elements : sums_of_rows, &job, count, threads);
    return job.failed ? -1 : 0;
}
