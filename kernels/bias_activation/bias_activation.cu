/* Bias and activation in one pass: see reference.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of all arrays (rows, columns); bias and sums are
 * float32. ACTIVATION is RELU, GELU or GELU_TANH.
 *
 * Variants: SCALAR=float|__nv_bfloat16 ACTIVATION=RELU|GELU|GELU_TANH */
#include "columns.cuh"
#include "fast_math.cuh"

enum Activation { RELU, GELU, GELU_TANH };

constexpr float INNER = 0.797884560802865355f; /* sqrt(2 / pi) */
constexpr float CUBIC = 0.044715f;

/* Phi(x); for GELU `bell` is exp(-x^2 / 2). For bfloat16 Phi comes from the bell, by Abramowitz and
 * Stegun 1964, 7.1.26, which is off by at most 7.5e-8 (rounding by more) and has less to do than
 * erff. */
__device__ __forceinline__ float distribution(float x, float bell)
{
    constexpr bool LOW = sizeof(SCALAR) == 2;
    if constexpr (ACTIVATION == GELU_TANH) { /* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)) */
        const float u = INNER * x * (1.0f + CUBIC * x * x);
        return reciprocal_fast(1.0f + (LOW ? exp2_fast(-2.0f * LOG2_E * u) : expf(-2.0f * u)));
    }
    if constexpr (LOW) {
        const float t = reciprocal_fast(1.0f + 0.231641888f * fabsf(x)); /* 0.3275911 / sqrt(2) */
        float tail = 0.530702715f; /* halves of the book's numbers */
        tail = fmaf(tail, t, -0.7265760135f);
        tail = fmaf(tail, t, 0.7107068705f);
        tail = fmaf(tail, t, -0.142248368f);
        tail = fmaf(tail, t, 0.127414796f);
        tail *= t * bell;
        return x < 0.0f ? tail : 1.0f - tail;
    }
    return 0.5f * (1.0f + erff(x * 0.707106781186547524f));
}

__device__ __forceinline__ float bell_of(float x)
{
    if constexpr (ACTIVATION != GELU)
        return 0.0f;
    if constexpr (sizeof(SCALAR) == 2)
        return exp2_fast(-0.5f * LOG2_E * x * x);
    return expf(-0.5f * x * x);
}

__device__ __forceinline__ float activation(float x)
{
    if constexpr (ACTIVATION == RELU)
        return x <= 0.0f ? 0.0f : x; /* a NaN stays what it is */
    return x * distribution(x, bell_of(x));
}

/* The gradient of x, given that of the activation; for ReLU, x is the result. */
__device__ __forceinline__ float gradient(float grad, float x)
{
    if constexpr (ACTIVATION == RELU)
        return x <= 0.0f ? 0.0f : grad; /* selected, since 0 times infinity is NaN */
    const float bell = bell_of(x), phi = distribution(x, bell);
    if constexpr (ACTIVATION == GELU)
        return grad * (phi + x * (0.398942280401432678f * bell)); /* by 1 / sqrt(2 pi) */
    return grad * (phi + x * (phi * (1.0f - phi) * 2.0f * INNER * (1.0f + 3.0f * CUBIC * x * x)));
}

extern "C" __global__ void __launch_bounds__(256, 3)
bias_activation_forward(const SCALAR *__restrict__ x, const float *__restrict__ bias,
                        SCALAR *__restrict__ y, int rows, int columns)
{
    Place place(rows, columns);
    const bool whole = place.whole(x, y);
    float shift[N];
    place.load_bias(shift, bias, whole);
    place.each_tile([&] {
        Tile values;
        place.load_tile(values, x, whole);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                values[i][j] = activation(values[i][j] + shift[j]);
        place.store_tile(y, values, whole);
    });
}

/* `saved` is y for ReLU, else x. Where `partial` is not null it receives each block's part of
 * dbias, (blocks along the rows, columns), which column_sum adds up. An atomicAdd to dbias would
 * save that, but dbias would have to begin at zero: as many launches. */
extern "C" __global__ void __launch_bounds__(256, 3)
bias_activation_backward(const SCALAR *__restrict__ grad, const SCALAR *__restrict__ saved,
                         const float *__restrict__ bias, SCALAR *__restrict__ grad_x,
                         float *__restrict__ partial, int rows, int columns)
{
    Place place(rows, columns);
    const bool whole = place.whole(grad, saved, grad_x);
    float shift[N], sums[N] = {};
    place.load_bias(shift, ACTIVATION == RELU ? nullptr : bias, whole);
    place.each_tile([&] {
        Tile g, values;
        place.load_tile(g, grad, whole);
        place.load_tile(values, saved, whole);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                g[i][j] = gradient(g[i][j], values[i][j] + shift[j]);
        place.store_tile(grad_x, g, whole);
        add_rows(sums, g);
    });
    if (partial)
        store_column_sums(partial, sums, place);
}
