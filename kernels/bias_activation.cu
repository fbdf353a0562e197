/* Bias and activation in one pass: see bias_activation.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of all arrays (rows, columns); bias and sums are
 * float32. ACTIVATION is RELU, GELU or GELU_TANH.
 *
 * Variants: SCALAR=float|__nv_bfloat16 ACTIVATION=RELU|GELU|GELU_TANH */
#include "columns.cuh"

enum Activation { RELU, GELU, GELU_TANH };

constexpr float INNER = 0.797884560802865355f; /* sqrt(2 / pi) */
constexpr float CUBIC = 0.044715f;

__device__ __forceinline__ float distribution(float x)
{
    if constexpr (ACTIVATION == GELU)
        return 0.5f * (1.0f + erff(x * 0.707106781186547524f));
    return 0.5f * (1.0f + tanhf(INNER * x * (1.0f + CUBIC * x * x)));
}

__device__ __forceinline__ float activation(float x)
{
    if constexpr (ACTIVATION == RELU)
        return x <= 0.0f ? 0.0f : x; /* a NaN stays what it is */
    return x * distribution(x);
}

/* The derivative, for ReLU from the result. */
__device__ __forceinline__ float slope(float x)
{
    if constexpr (ACTIVATION == RELU)
        return x > 0.0f ? 1.0f : 0.0f;
    const float phi = distribution(x);
    if constexpr (ACTIVATION == GELU)
        return phi + x * (0.398942280401432678f * expf(-0.5f * x * x));
    return phi + x * (phi * (1.0f - phi) * 2.0f * INNER * (1.0f + 3.0f * CUBIC * x * x));
}

extern "C" __global__ void __launch_bounds__(256, 3)
bias_activation_forward(const SCALAR *__restrict__ x, const float *__restrict__ bias,
                        SCALAR *__restrict__ y, long long rows, long long columns)
{
    const Place place(rows, columns);
    const bool whole = place.whole(x, y);
    Tile values;
    float shift[N];
    place.load_tile(values, x, whole);
    place.load_bias(shift, bias, whole);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            values[i][j] = activation(values[i][j] + shift[j]);
    place.store_tile(y, values, whole);
}

/* `saved` is y for ReLU, else x. Where `partial` is not null it receives each block's part of
 * dbias, (blocks along the rows, columns), which column_sum adds up. An atomicAdd to dbias would
 * save that, but dbias would have to begin at zero: as many launches. */
extern "C" __global__ void __launch_bounds__(256, 3)
bias_activation_backward(const SCALAR *__restrict__ grad, const SCALAR *__restrict__ saved,
                         const float *__restrict__ bias, SCALAR *__restrict__ grad_x,
                         float *__restrict__ partial, long long rows, long long columns)
{
    const Place place(rows, columns);
    const bool whole = place.whole(grad, saved, grad_x);
    Tile g, values;
    float shift[N];
    place.load_tile(g, grad, whole);
    place.load_tile(values, saved, whole);
    place.load_bias(shift, ACTIVATION == RELU ? nullptr : bias, whole);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            g[i][j] *= slope(values[i][j] + shift[j]);
    place.store_tile(grad_x, g, whole);
    if (partial)
        store_column_sums(partial, g, place);
}
