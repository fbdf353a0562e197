/* Layer normalisation: see layernorm.py for the equations. x, y (rows, channels); mean, rstd (rows). */
#include "column_sums.h"

enum { LANES = 16, PART = 4096 }; /* numbers of a row that are added up in single precision */

static const float FAR = 4; /* deviations from zero: see layernorm.py */

INLINE float square(float x) { return x * x; }

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

/* What a row's mean lost when it was rounded; 0 where it is near zero, in which none of it shows. */
INLINE float rest_of(const float *x, float mean, float rstd, int64_t channels)
{
    return fabsf(mean) * rstd > FAR ? (float)(mean_of(x, channels) - (double)mean) : 0;
}

INLINE float variance_of(const float *x, float mean, float rest, int64_t channels)
{
    double total = 0;
    for (int64_t start = 0; start < channels; start += PART) {
        const int64_t count = channels - start < PART ? channels - start : PART;
        const int64_t whole = start + count - count % LANES;
        float squares[LANES] = {0}, sum = 0;
        for (int64_t j = start; j < whole; j += LANES)
            for (int lane = 0; lane < LANES; lane++)
                squares[lane] += square((x[j + lane] - mean) - rest);
        for (int64_t j = whole; j < start + count; j++)
            sum += square((x[j] - mean) - rest);
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
        float m = 0, rest = 0;
#pragma omp simd reduction(+ : m)
        for (int64_t j = 0; j < channels; j++)
            m += x[j];
        m /= (float)channels;
        float variance = variance_of(x, m, 0, channels);
        /* what m has lost, or was added up wrong, may show: of equal numbers near 1e30, as infinity */
        if (m * m > FAR * FAR * variance || variance == INFINITY) {
            const double exact = mean_of(x, channels);
            m = (float)exact;
            rest = (float)(exact - (double)m);
            variance = variance_of(x, m, rest, channels);
        }
        const float r = 1.0f / sqrtf(variance + eps);
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
        const float m = mean[i], r = rstd[i], rest = rest_of(x, m, r, channels);
        if (grad_weight) {
            float *const block = weights.block;
            for (int64_t j = 0; j < channels; j++)
                block[j] += grad[j] * (((x[j] - m) - rest) * r);
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
                projection += g * (((x[j] - m) - rest) * r);
            }
        } else {
#pragma omp simd reduction(+ : sum, projection)
            for (int64_t j = 0; j < channels; j++) {
                sum += grad[j];
                projection += grad[j] * (((x[j] - m) - rest) * r);
            }
        }
        sum /= (float)channels;
        projection /= (float)channels;
        for (int64_t j = 0; j < channels; j++) {
            const float g = weight ? grad[j] * weight[j] : grad[j];
            grad_x[j] = (g - sum - ((x[j] - m) - rest) * r * projection) * r;
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
