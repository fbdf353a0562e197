/* Causal depthwise convolution: see reference.py for the equations. Arrays (sequences, length,
 * channels), weight (taps, channels), of at most MOST_TAPS taps. */
#include "column_sums.h"
#include "kernel.h"

enum { MOST_TAPS = 16 };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* y = x[0] + weight[0] * x[0] + weight[1] * x[1] + ..., for rows x[k] of `channels`. The compiler
 * knows how many `taps` there are where it is a constant, and keeps their sum in a register. */
INLINE void add_known(const float *const *x, const float *weight, float *y, int64_t taps,
                      int64_t channels)
{
    const float *const a = x[0], *const b = taps > 1 ? x[1] : a, *const c = taps > 2 ? x[2] : a,
                       *const d = taps > 3 ? x[3] : a;
#pragma omp simd
    for (int64_t j = 0; j < channels; j++) {
        float sum = a[j] + weight[j] * a[j];
        if (taps > 1)
            sum += weight[channels + j] * b[j];
        if (taps > 2)
            sum += weight[2 * channels + j] * c[j];
        if (taps > 3)
            sum += weight[3 * channels + j] * d[j];
        y[j] = sum;
    }
}

INLINE void add_taps(const float *const *x, const float *weight, float *y, int64_t taps,
                     int64_t channels)
{
    switch (taps) {
    case 1:
        add_known(x, weight, y, 1, channels);
        return;
    case 2:
        add_known(x, weight, y, 2, channels);
        return;
    case 3:
        add_known(x, weight, y, 3, channels);
        return;
    }
    add_known(x, weight, y, 4, channels);
    for (int64_t k = 4; k < taps; k++)
#pragma omp simd
        for (int64_t j = 0; j < channels; j++)
            y[j] += weight[k * channels + j] * x[k][j];
}

KERNEL(void, causal_convolution_forward, IN(x, sequences * length * channels),
       IN(weight, taps * channels), OUT(y, sequences * length * channels), COUNT(sequences),
       COUNT(length), COUNT(channels), COUNT(taps))
{
    const float *rows[MOST_TAPS];
    for (int64_t b = 0; b < sequences; b++)
        for (int64_t t = 0; t < length; t++, x += channels, y += channels) {
            const int64_t seen = least(taps, t + 1);
            for (int64_t k = 0; k < seen; k++)
                rows[k] = x - k * channels;
            rows[0] = x;
            add_taps(rows, weight, y, seen, channels);
        }
}

/* grad_x and grad_weight may be NULL. Returns 0, and -1 where memory is short. */
KERNEL(int, causal_convolution_backward, IN(grad, sequences * length * channels),
       IN(x, sequences * length * channels), IN(weight, taps * channels),
       OPTIONAL_OUT(grad_x, sequences * length * channels), OPTIONAL_OUT(grad_weight, taps * channels),
       COUNT(sequences), COUNT(length), COUNT(channels), COUNT(taps))
{
    const float *rows[MOST_TAPS];
    ColumnSums sums = {0};
    if (grad_weight && column_sums_begin(&sums, taps * channels) < 0)
        return -1;
    for (int64_t b = 0; b < sequences; b++)
        for (int64_t t = 0; t < length; t++, grad += channels, x += channels) {
            const int64_t seen = least(taps, length - t);
            for (int64_t k = 0; k < seen; k++)
                rows[k] = grad + k * channels;
            rows[0] = grad;
            if (grad_x) {
                add_taps(rows, weight, grad_x, seen, channels);
                grad_x += channels;
            }
            if (!grad_weight)
                continue;
            for (int64_t k = 0; k < seen; k++) {
                float *const block = sums.block + k * channels;
                const float *const later = rows[k];
#pragma omp simd
                for (int64_t j = 0; j < channels; j++)
                    block[j] += x[j] * later[j];
            }
            column_sums_end_row(&sums);
        }
    if (grad_weight)
        column_sums_finish(&sums, grad_weight);
    return 0;
}

/* Takes x into the history of `taps` - 1 positions, of which `filled` have been. */
KERNEL(int, causal_convolution_cached, IN(x, sequences * length * channels),
       IN(weight, taps * channels), OUT(history, sequences * (taps - 1) * channels),
       OUT_INT64(filled, 1), OUT(y, sequences * length * channels), COUNT(sequences), COUNT(length),
       COUNT(channels), COUNT(taps))
{
    const int64_t room = taps - 1, kept = least(room, length);
    const float *rows[MOST_TAPS];
    for (int64_t b = 0; b < sequences; b++, x += length * channels, history += room * channels) {
        for (int64_t t = 0; t < length; t++, y += channels) {
            const int64_t seen = least(taps, *filled + t + 1);
            for (int64_t k = 0; k < seen; k++)
                rows[k] = k <= t ? x + (t - k) * channels : history + (room + t - k) * channels;
            rows[0] = x + t * channels;
            add_taps(rows, weight, y, seen, channels);
        }
        memmove(history, history + kept * channels,
                (size_t)((room - kept) * channels) * sizeof(float));
        memcpy(history + (room - kept) * channels, x + (length - kept) * channels,
               (size_t)(kept * channels) * sizeof(float));
    }
    *filled += length;
    return 0;
}
