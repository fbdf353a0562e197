/* Layer normalisation: see layernorm.py for the equations. x, y (rows, channels); mean, rstd (rows). */
#include "fused.h"

/* y = (x - mean) * rstd * weight + bias; weight and bias may be NULL. */
MULTIVERSION void layernorm_forward(const float *x, const float *weight, const float *bias,
                                    float *y, float *mean, float *rstd, int64_t rows,
                                    int64_t channels, float eps)
{
    for (int64_t i = 0; i < rows; i++, x += channels, y += channels) {
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < channels; j++)
            sum += x[j];
        const float m = sum / (float)channels;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < channels; j++)
            squares += (x[j] - m) * (x[j] - m);
        const float r = 1.0f / sqrtf(squares / (float)channels + eps);
        mean[i] = m;
        rstd[i] = r;
        for (int64_t j = 0; j < channels; j++)
            y[j] = (x[j] - m) * r;
        if (weight)
            for (int64_t j = 0; j < channels; j++)
                y[j] *= weight[j];
        if (bias)
            for (int64_t j = 0; j < channels; j++)
                y[j] += bias[j];
    }
}

/* Writes grad_x, and grad_weight and grad_bias (channels); each of them, and weight, may be NULL.
 * Adds `addend`, unless that is NULL, to grad_x. */
MULTIVERSION void layernorm_backward(const float *grad, const float *x, const float *weight,
                                     const float *mean, const float *rstd, const float *addend,
                                     float *grad_x, float *grad_weight, float *grad_bias,
                                     int64_t rows, int64_t channels)
{
    if (grad_weight)
        memset(grad_weight, 0, (size_t)channels * sizeof(float));
    if (grad_bias)
        memset(grad_bias, 0, (size_t)channels * sizeof(float));
    for (int64_t i = 0; i < rows; i++, x += channels, grad += channels) {
        const float m = mean[i], r = rstd[i];
        if (grad_weight)
            for (int64_t j = 0; j < channels; j++)
                grad_weight[j] += grad[j] * ((x[j] - m) * r);
        if (grad_bias)
            for (int64_t j = 0; j < channels; j++)
                grad_bias[j] += grad[j];
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
}
