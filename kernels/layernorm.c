/* Layer normalisation: see layernorm.py for the equations. x, y (rows, channels); mean, rstd (rows). */
#include "column_sums.h"

enum { LANES = 16, PART = 4096 }; /* numbers of a row that are added up in single precision */

/* In double precision, so that the mean of equal numbers is that number. */
INLINE double mean_of(const float *x, int64_t channels)
{
    double sums[LANES] = {0}, sum = 0;
    const int64_t whole = channels - channels % LANES;
    for (int64_t j = 0; j < whole; j += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += (double)x[j + lane];
    for (int64_t j = whole; j < channels; j++)
        sum += (double)x[j];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return (sum + sums[0]) / (double)channels;
}

INLINE float variance_of(const float *x, float mean, int64_t channels)
{
    double total = 0;
    for (int64_t start = 0; start < channels; start += PART) {
        const int64_t count = channels - start < PART ? channels - start : PART;
        const int64_t whole = start + count - count % LANES;
        float squares[LANES] = {0}, sum = 0;
        for (int64_t j = start; j < whole; j += LANES)
            for (int lane = 0; lane < LANES; lane++)
                squares[lane] += (x[j + lane] - mean) * (x[j + lane] - mean);
        for (int64_t j = whole; j < start + count; j++)
            sum += (x[j] - mean) * (x[j] - mean);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int lane = 0; lane < half; lane++)
                squares[lane] += squares[lane + half];
        total += (double)(sum + squares[0]);
    }
    return (float)(total / (double)channels);
}

/* y = (x - mean) * rstd * weight + bias; weight and bias may be NULL. */
MULTIVERSION void layernorm_forward(const float *x, const float *weight, const float *bias,
                                    float *y, float *mean, float *rstd, int64_t rows,
                                    int64_t channels, float eps)
{
    for (int64_t i = 0; i < rows; i++, x += channels, y += channels) {
        const double exact = mean_of(x, channels);
        const float m = (float)exact, rest = (float)(exact - (double)m);
        const float r = 1.0f / sqrtf(variance_of(x, m, channels) + eps);
        mean[i] = m;
        rstd[i] = r;
        for (int64_t j = 0; j < channels; j++)
            y[j] = ((x[j] - m) - rest) * r;
        if (weight)
            for (int64_t j = 0; j < channels; j++)
                y[j] *= weight[j];
        if (bias)
            for (int64_t j = 0; j < channels; j++)
                y[j] += bias[j];
    }
}

/* Writes grad_x, and grad_weight and grad_bias (channels); each of them, and weight, may be NULL.
 * Adds `addend`, unless that is NULL, to grad_x. Returns 0, and -1 where memory is short. */
MULTIVERSION int layernorm_backward(const float *grad, const float *x, const float *weight,
                                    const float *mean, const float *rstd, const float *addend,
                                    float *grad_x, float *grad_weight, float *grad_bias,
                                    int64_t rows, int64_t channels)
{
    ColumnSums weights = {0}, biases = {0};
    if (grad_weight && column_sums_begin(&weights, channels) < 0)
        return -1;
    if (grad_bias && column_sums_begin(&biases, channels) < 0) {
        free(weights.totals);
        return -1;
    }
    for (int64_t i = 0; i < rows; i++, x += channels, grad += channels) {
        const float m = mean[i], r = rstd[i];
        if (grad_weight) {
            float *const block = weights.block;
            for (int64_t j = 0; j < channels; j++)
                block[j] += grad[j] * ((x[j] - m) * r);
            column_sums_end_row(&weights);
        }
        if (grad_bias) {
            float *const block = biases.block;
            for (int64_t j = 0; j < channels; j++)
                block[j] += grad[j];
            column_sums_end_row(&biases);
        }
        if (!grad_x)
            continue;
        float sum = 0, projection = 0;
        if (weight) {
#pragma omp simd reduction(+ : sum, projection)
            for (int64_t j = 0; j < channels; j++) {
                const float g = grad[j] * weight[j];
                sum += g;
                projection += g * ((x[j] - m) * r);
            }
        } else {
#pragma omp simd reduction(+ : sum, projection)
            for (int64_t j = 0; j < channels; j++) {
                sum += grad[j];
                projection += grad[j] * ((x[j] - m) * r);
            }
        }
        sum /= (float)channels;
        projection /= (float)channels;
        for (int64_t j = 0; j < channels; j++) {
            const float g = weight ? grad[j] * weight[j] : grad[j];
            grad_x[j] = (g - sum - (x[j] - m) * r * projection) * r;
        }
        if (addend) {
            for (int64_t j = 0; j < channels; j++)
                grad_x[j] += addend[j];
            addend += channels;
        }
        grad_x += channels;
    }
    if (grad_weight)
        column_sums_finish(&weights, grad_weight);
    if (grad_bias)
        column_sums_finish(&biases, grad_bias);
    return 0;
}
