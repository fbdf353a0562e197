/* LayerNorm, and RMSNorm where `mean` is NULL: see reference.py for the equations. x, y (rows,
 * channels), mean, rstd (rows). */
#include "column_sums.h"
#include "kernel.h"

enum { LANES = 16, PART = 4096 }; /* elements of a row that are added up in single precision */

static const float FAR = 4;         /* deviations from zero: see reference.py */
static const float SMALL = 1e-30f; /* mean squares below have lost digits */

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

INLINE int64_t end_of_part(int64_t start, int64_t channels)
{
    return channels - start < PART ? channels : start + PART;
}

INLINE float sum_of(const float *x, int64_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; j++)
        sum += x[j];
    return sum;
}

/* One part is divided as it is: in double precision, what follows would wait for it longer. */
INLINE float quick_mean_of(const float *x, int64_t channels)
{
    if (channels <= PART)
        return sum_of(x, channels) / (float)channels;
    double total = 0;
    for (int64_t start = 0; start < channels; start += PART)
        total += (double)sum_of(x + start, end_of_part(start, channels) - start);
    return (float)(total / (double)channels);
}

INLINE float squares_of(const float *x, float mean, float rest, int64_t count)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; j++)
        sum += ((x[j] - mean) - rest) * ((x[j] - mean) - rest);
    return sum;
}

INLINE float variance_of(const float *x, float mean, float rest, int64_t channels)
{
    if (channels <= PART)
        return squares_of(x, mean, rest, channels) / (float)channels;
    double total = 0;
    for (int64_t start = 0; start < channels; start += PART)
        total += (double)squares_of(x + start, mean, rest, end_of_part(start, channels) - start);
    return (float)(total / (double)channels);
}

/* RMSNorm's: in double precision where squares leave the range of single precision. */
INLINE float rms_rstd_of(const float *x, int64_t channels, float eps)
{
    const float square = variance_of(x, 0, 0, channels);
    if (square > SMALL && square < INFINITY)
        return 1.0f / sqrtf(square + eps);
    double sum = 0;
    for (int64_t j = 0; j < channels; j++)
        sum += (double)x[j] * (double)x[j];
    return (float)(1 / sqrt(sum / (double)channels + (double)eps));
}

/* y = (x - mean) * rstd * weight + bias; weight and bias may be NULL. */
INLINE void normalise(const float *x, const float *weight, const float *bias, float *y, float mean,
                      float rest, float rstd, int64_t channels)
{
    if (weight && bias) {
#pragma omp simd
        for (int64_t j = 0; j < channels; j++)
            y[j] = ((x[j] - mean) - rest) * rstd * weight[j] + bias[j];
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < channels; j++)
        y[j] = ((x[j] - mean) - rest) * rstd;
    if (weight)
        for (int64_t j = 0; j < channels; j++)
            y[j] *= weight[j];
    if (bias)
        for (int64_t j = 0; j < channels; j++)
            y[j] += bias[j];
}

KERNEL(void, layernorm_forward, IN(x, rows * channels), OPTIONAL(weight, channels),
       OPTIONAL(bias, channels), OUT(y, rows * channels), OPTIONAL_OUT(mean, rows),
       OUT(rstd, rows), COUNT(rows), COUNT(channels), REAL(eps))
{
    for (int64_t i = 0; i < rows; i++, x += channels, y += channels) {
        if (!mean) {
            rstd[i] = rms_rstd_of(x, channels, eps);
            normalise(x, weight, bias, y, 0, 0, rstd[i], channels);
            continue;
        }
        float m = quick_mean_of(x, channels), rest = 0;
        float variance = variance_of(x, m, 0, channels);
        /* What m has lost may show; of numbers near 1e38, m may be infinite or NaN. */
        if (!(m * m <= FAR * FAR * variance && variance < INFINITY)) {
            const double exact = mean_of(x, channels);
            m = (float)exact;
            rest = (float)(exact - (double)m);
            variance = variance_of(x, m, rest, channels);
        }
        const float r = 1.0f / sqrtf(variance + eps);
        mean[i] = m;
        rstd[i] = r;
        if (rest == 0) /* which takes nothing off */
            normalise(x, weight, bias, y, m, 0, r, channels);
        else
            normalise(x, weight, bias, y, m, rest, r, channels);
    }
}

typedef struct {
    const float *weight;
    float *weights, *biases; /* the blocks of the column sums */
    int64_t channels;
} Backward;

/* One row; `rest` is what its mean lost. Unless `centered`, mean and rest are 0. */
INLINE void backward_row(const Backward *a, const float *grad, const float *x, int centered,
                         float mean, float rest, float rstd, const float *addend, float *grad_x)
{
    const float *const weight = a->weight;
    float *const weights = a->weights, *const biases = a->biases;
    const int64_t channels = a->channels;
    if (weights)
#pragma omp simd
        for (int64_t j = 0; j < channels; j++)
            weights[j] += grad[j] * (((x[j] - mean) - rest) * rstd);
    if (biases)
#pragma omp simd
        for (int64_t j = 0; j < channels; j++)
            biases[j] += grad[j];
    if (!grad_x)
        return;
    double sums = 0, projections = 0;
    for (int64_t start = 0; start < channels; start += PART) {
        const int64_t end = end_of_part(start, channels);
        float sum = 0, projection = 0;
        if (weight) {
#pragma omp simd reduction(+ : sum, projection)
            for (int64_t j = start; j < end; j++) {
                const float g = grad[j] * weight[j];
                sum += g;
                projection += g * (((x[j] - mean) - rest) * rstd);
            }
        } else {
#pragma omp simd reduction(+ : sum, projection)
            for (int64_t j = start; j < end; j++) {
                sum += grad[j];
                projection += grad[j] * (((x[j] - mean) - rest) * rstd);
            }
        }
        sums += (double)sum;
        projections += (double)projection;
    }
    const float sum = centered ? (float)(sums / (double)channels) : 0;
    const float projection = (float)(projections / (double)channels);
    if (weight && addend) {
#pragma omp simd
        for (int64_t j = 0; j < channels; j++) {
            const float normal = ((x[j] - mean) - rest) * rstd;
            grad_x[j] = (grad[j] * weight[j] - sum - normal * projection) * rstd + addend[j];
        }
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < channels; j++) {
        const float g = weight ? grad[j] * weight[j] : grad[j];
        grad_x[j] = (g - sum - ((x[j] - mean) - rest) * rstd * projection) * rstd;
    }
    if (addend)
        for (int64_t j = 0; j < channels; j++)
            grad_x[j] += addend[j];
}

/* Writes grad_x, and grad_weight and grad_bias (channels); each of them, and weight, may be NULL.
 * Adds `addend`, unless that is NULL, to grad_x. Returns 0, and -1 where memory is short. */
KERNEL(int, layernorm_backward, IN(grad, rows * channels), IN(x, rows * channels),
       OPTIONAL(weight, channels), OPTIONAL(mean, rows), IN(rstd, rows),
       OPTIONAL(addend, rows * channels), OPTIONAL_OUT(grad_x, rows * channels),
       OPTIONAL_OUT(grad_weight, channels), OPTIONAL_OUT(grad_bias, channels), COUNT(rows),
       COUNT(channels))
{
    ColumnSums weights = {0}, biases = {0};
    if (grad_weight && column_sums_begin(&weights, channels) < 0)
        return -1;
    if (grad_bias && column_sums_begin(&biases, channels) < 0) {
        free(weights.totals);
        return -1;
    }
    const Backward row = {weight, weights.block, biases.block, channels};
    for (int64_t i = 0; i < rows; i++, x += channels, grad += channels) {
        const float m = mean ? mean[i] : 0, r = rstd[i];
        const float rest = mean ? rest_of(x, m, r, channels) : 0;
        if (!mean)
            backward_row(&row, grad, x, 0, 0, 0, r, addend, grad_x);
        else if (rest == 0) /* which takes nothing off */
            backward_row(&row, grad, x, 1, m, 0, r, addend, grad_x);
        else
            backward_row(&row, grad, x, 1, m, rest, r, addend, grad_x);
        if (grad_weight)
            column_sums_end_row(&weights);
        if (grad_bias)
            column_sums_end_row(&biases);
        if (addend)
            addend += channels;
        if (grad_x)
            grad_x += channels;
    }
    if (grad_weight)
        column_sums_finish(&weights, grad_weight);
    if (grad_bias)
        column_sums_finish(&biases, grad_bias);
    return 0;
}
