/* Bias and activation: see reference.py, and that of kernels/gelu/, for the equations. z and y are
 * (rows, columns). */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* a multiplication and an addition are one operation */
#endif
#include "column_sums.h"
#include "kernel.h"

enum { RELU, GELU, GELU_TANH }; /* the order of reference.py's ACTIVATIONS */

/* The normal distribution function at x, given exp(-x^2 / 2).
 *
 * Its tail beyond |x| is exp(-x^2 / 2) times a polynomial in t = 1 / (1 + 0.35 |x|): the form of
 * Hastings (Abramowitz and Stegun 1964, 26.2.17), fitted anew to a relative error of 3.2e-8. */
INLINE float normal_distribution(float x, float exponential)
{
    const float t = 1.0f / (1.0f + 0.35f * fabsf(x));
    float p = -0.02911501f;
    p = p * t + 0.14381839f;
    p = p * t - 0.25539096f;
    p = p * t + 0.15879651f;
    p = p * t - 0.02284340f;
    p = p * t + 0.10539214f;
    p = p * t + 0.11986309f;
    p = p * t + 0.13985756f;
    p = p * t + 0.13962166f;
    const float tail = exponential * (p * t);
    return x < 0 ? tail : 1.0f - tail;
}

/* Its approximation (1 + tanh(inner)) / 2. */
INLINE float tanh_distribution(float x)
{
    const float inner = (x * x * 0.044715f + 1.0f) * x * 0.79788456f; /* sqrt(2 / pi) */
    return 1.0f / (1.0f + exp_float(-2.0f * inner));
}

INLINE float activation(float x, int kind)
{
    if (kind == RELU)
        return x < 0 ? 0.0f : x; /* a NaN stays what it is */
    if (kind == GELU)
        return x * normal_distribution(x, exp_float(x * x * -0.5f));
    return x * tanh_distribution(x);
}

INLINE float slope(float x, int kind)
{
    if (kind == GELU) {
        const float exponential = exp_float(x * x * -0.5f);
        return exponential * 0.39894228f * x + normal_distribution(x, exponential);
    }
    const float phi = tanh_distribution(x);
    return (x * x * 0.134145f + 1.0f) * phi * (1.0f - phi) * 1.5957691f * x + phi;
}

/* The gradient of x, given that of the activation; for RELU, x may be the activation's result. */
INLINE float gradient(float grad, float x, int kind)
{
    if (kind == RELU)
        return x <= 0 ? 0.0f : grad; /* selected, since 0 times infinity is NaN */
    return grad * slope(x, kind);
}

/* bias may be NULL; y may be z. */
INLINE void forward(const float *z, const float *bias, float *y, int64_t rows, int64_t columns,
                    int kind)
{
    for (int64_t i = 0; i < rows; i++, z += columns, y += columns) {
        if (bias) {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                y[j] = activation(z[j] + bias[j], kind);
        } else {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                y[j] = activation(z[j], kind);
        }
    }
}

/* `kept` is y for RELU, and z for the others; grad_bias may be NULL. Returns 0, and -1 where memory
 * is short. */
INLINE int backward(const float *grad, const float *kept, const float *bias, float *grad_z,
                    float *grad_bias, int64_t rows, int64_t columns, int kind)
{
    ColumnSums sums = {0};
    if (grad_bias && column_sums_begin(&sums, columns) < 0)
        return -1;
    for (int64_t i = 0; i < rows; i++, grad += columns, kept += columns, grad_z += columns) {
        if (kind != RELU && bias) {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                grad_z[j] = gradient(grad[j], kept[j] + bias[j], kind);
        } else {
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                grad_z[j] = gradient(grad[j], kept[j], kind);
        }
        if (grad_bias)
            column_sums_add(&sums, grad_z, columns);
    }
    if (grad_bias)
        column_sums_finish(&sums, grad_bias);
    return 0;
}

KERNEL(void, bias_activation_forward, IN(z, rows * columns), OPTIONAL(bias, columns),
       OUT(y, rows * columns), COUNT(rows), COUNT(columns), COUNT(kind))
{
    if (kind == RELU)
        forward(z, bias, y, rows, columns, RELU);
    else if (kind == GELU)
        forward(z, bias, y, rows, columns, GELU);
    else
        forward(z, bias, y, rows, columns, GELU_TANH);
}

KERNEL(int, bias_activation_backward, IN(grad, rows * columns), IN(kept, rows * columns),
       OPTIONAL(bias, columns), OUT(grad_z, rows * columns), OPTIONAL_OUT(grad_bias, columns),
       COUNT(rows), COUNT(columns), COUNT(kind))
{
    if (kind == RELU)
        return backward(grad, kept, bias, grad_z, grad_bias, rows, columns, RELU);
    if (kind == GELU)
        return backward(grad, kept, bias, grad_z, grad_bias, rows, columns, GELU);
    return backward(grad, kept, bias, grad_z, grad_bias, rows, columns, GELU_TANH);
}
