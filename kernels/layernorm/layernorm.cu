/* LayerNorm and RMSNorm over the last axis: see reference.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of x, y and their gradients, (rows, columns);
 * weight, bias, mean, rstd and all sums are float32. VECTOR elements, which divide `columns`, are
 * moved at a time. WARPS warps, 1 or all 8, share a row.
 *
 * Variants: SCALAR=float VECTOR=1|4 WARPS=1|8
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 WARPS=1|8 */
#include "reduce.cuh"
#include "row.cuh"

constexpr float FAR = 4.0f;     /* see reference.py */
constexpr float SMALL = 1e-30f; /* mean squares below have lost digits */

/* 1 / sqrt(mean(x^2) + eps) of a row whose squares leave the range: in units of its largest. Of
 * zeros, and where something is not finite, it is `plain`, what the squares themselves give. */
template <typename Own>
__device__ float rms_rstd_by_largest(Own &own, float *scratch, float plain, int columns, float eps)
{
    float largest = 0.0f, sum = 0.0f;
    own.each([&](int, const float (&values)[N]) {
#pragma unroll
        for (int j = 0; j < N; j++)
            largest = fmaxf(largest, fabsf(values[j]));
    });
    largest = reduce_warps<Maximum, WARPS>(largest, scratch);
    if (!(largest > 0.0f && largest < infinity()))
        return plain;
    own.each([&](int, const float (&values)[N]) {
#pragma unroll
        for (int j = 0; j < N; j++)
            sum += values[j] / largest * (values[j] / largest);
    });
    const float root = sqrtf(reduce_warps<Sum, WARPS>(sum, scratch) / columns);
    return 1.0f / hypotf(largest * root, sqrtf(eps));
}

/* One row of LayerNorm, or of RMSNorm, whose mean is not looked at. */
template <bool CENTERED>
__device__ void normalise_row(const SCALAR *__restrict__ x, const float *__restrict__ weight,
                              const float *__restrict__ bias, SCALAR *__restrict__ y,
                              float *__restrict__ mean, float *__restrict__ rstd, long long rows,
                              int columns, float eps)
{
    __shared__ float scratch[WARPS];
    const long long row = own_row();
    if (row >= rows)
        return;
    x += row * columns;
    y += row * columns;
    const int first = own_column();

    /* of single elements so many that passes over them leave registers for what they add up */
    const Row<SCALAR, N, STEP, N == 1 ? 22 : 32> own(x, first, columns);
    float sum = 0.0f, rough = 0.0f, rest = 0.0f;
    if constexpr (CENTERED) {
        own.each([&](int, const float (&values)[N]) {
#pragma unroll
            for (int j = 0; j < N; j++)
                sum += values[j];
        });
        rough = reduce_warps<Sum, WARPS>(sum, scratch) / columns;
        if (!(fabsf(rough) < infinity())) { /* of a sum beyond the range: that of shares is not */
            sum = 0.0f;
            own.each([&](int, const float (&values)[N]) {
#pragma unroll
                for (int j = 0; j < N; j++)
                    sum += values[j] / columns;
            });
            rough = reduce_warps<Sum, WARPS>(sum, scratch);
        }

        /* the mean's own rounding, so that equal numbers do not deviate */
        sum = 0.0f;
        own.each([&](int, const float (&values)[N]) {
#pragma unroll
            for (int j = 0; j < N; j++)
                sum += values[j] - rough;
        });
        rest = reduce_warps<Sum, WARPS>(sum, scratch) / columns;
        sum = 0.0f;
    }

    own.each([&](int, const float (&values)[N]) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float difference = (values[j] - rough) - rest;
            sum += difference * difference;
        }
    });
    const float square = reduce_warps<Sum, WARPS>(sum, scratch) / columns;
    float scale = 1.0f / sqrtf(square + eps);
    if constexpr (!CENTERED)
        if (!(square > SMALL && square < infinity()))
            scale = rms_rstd_by_largest(own, scratch, scale, columns, eps);

    own.each([&](int c, float (&values)[N]) {
        float factor[N], shift[N];
        if (weight)
            load<N>(factor, weight + c);
        if (bias)
            load<N>(shift, bias + c);
#pragma unroll
        for (int j = 0; j < N; j++) {
            values[j] = ((values[j] - rough) - rest) * scale;
            if (weight)
                values[j] *= factor[j];
            if (bias)
                values[j] += shift[j];
        }
        store<N>(y + c, values);
    });
    if (first == 0) {
        if constexpr (CENTERED)
            mean[row] = rough + rest;
        rstd[row] = scale;
    }
}

extern "C" __global__ void __launch_bounds__(256, 3)
layernorm_forward(const SCALAR *__restrict__ x, const float *__restrict__ weight,
                  const float *__restrict__ bias, SCALAR *__restrict__ y, float *__restrict__ mean,
                  float *__restrict__ rstd, long long rows, int columns, float eps)
{
    normalise_row<true>(x, weight, bias, y, mean, rstd, rows, columns, eps);
}

extern "C" __global__ void __launch_bounds__(256, 3)
rmsnorm_forward(const SCALAR *__restrict__ x, const float *__restrict__ weight,
                const float *__restrict__ bias, SCALAR *__restrict__ y, float *__restrict__ rstd,
                long long rows, int columns, float eps)
{
    normalise_row<false>(x, weight, bias, y, nullptr, rstd, rows, columns, eps);
}

/* Writes grad_x and `partial`, each where it is not null; of RMSNorm where `mean` is null.
 *
 * `addend`, where not null, is added to grad_x: the gradient that x has from elsewhere, such as the
 * residual connection around a block. By itself that would be one more pass.
 *
 * `partial` gets from each block its part (2, columns) of the sums over rows that make dweight and
 * dbias. column_sum adds them up. Each row of threads has sums of its own in shared memory, so no
 * order is left to chance. An atomicAdd for each column and block would save the second stage. But
 * its sums would have to begin at zero, which is as many launches, and all blocks would add to the
 * same few elements. */
extern "C" __global__ void __launch_bounds__(256, 3)
layernorm_backward(const SCALAR *__restrict__ grad, const SCALAR *__restrict__ x,
                   const float *__restrict__ weight, const float *__restrict__ mean,
                   const float *__restrict__ rstd, const SCALAR *__restrict__ addend,
                   SCALAR *__restrict__ grad_x, float *__restrict__ partial, long long rows,
                   int columns)
{
    extern __shared__ __align__(16) float sums[]; /* (ROWS, 2, columns) */
    __shared__ float scratch[WARPS];
    const int group = threadIdx.x / (WARPS * WARP);
    const int first = own_column();
    float *weight_sums = sums + group * 2 * columns, *bias_sums = weight_sums + columns;
    if (partial)
        for (int c = first; c < columns; c += STEP) {
            const float zeros[N] = {};
            store_shared<N>(weight_sums + c, zeros);
            store_shared<N>(bias_sums + c, zeros);
        }

    /* all warps that share a row meet in reduce_warps: `row` is the same for each of them */
    for (long long row = own_row(); row < rows; row += (long long)gridDim.x * ROWS) {
        const SCALAR *grad_row = grad + row * columns, *x_row = x + row * columns;
        const float center = mean ? mean[row] : 0.0f, scale = rstd[row];
        float sum = 0.0f, projection = 0.0f, rest = 0.0f;
        if (fabsf(center) * scale > FAR) {
#pragma unroll 1
            for (int c = first; c < columns; c += STEP) {
                float values[N];
                load<N>(values, x_row + c);
#pragma unroll
                for (int j = 0; j < N; j++)
                    rest += values[j] - center;
            }
            rest = reduce_warps<Sum, WARPS>(rest, scratch) / columns;
        }
        Pack<SCALAR, N> next_g, next_x; /* read one step ahead */
        if (first < columns) {
            next_g = fetch<N>(grad_row + first);
            next_x = fetch<N>(x_row + first);
        }
        for (int c = first; c < columns; c += STEP) {
            float g[N], normalized[N], factor[N];
            const Pack<SCALAR, N> own_g = next_g, own_x = next_x;
            const int ahead = c + STEP < columns ? c + STEP : c;
            next_g = fetch<N>(grad_row + ahead);
            next_x = fetch<N>(x_row + ahead);
            if (addend)
                prefetch(addend + row * columns + c);
#pragma unroll
            for (int j = 0; j < N; j++) {
                g[j] = to_float(own_g.at[j]);
                normalized[j] = ((to_float(own_x.at[j]) - center) - rest) * scale;
            }
            if (weight)
                load<N>(factor, weight + c);
            if (partial) {
                float weight_sum[N], bias_sum[N];
                load<N>(weight_sum, weight_sums + c);
                load<N>(bias_sum, bias_sums + c);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    weight_sum[j] += g[j] * normalized[j];
                    bias_sum[j] += g[j];
                }
                store_shared<N>(weight_sums + c, weight_sum);
                store_shared<N>(bias_sums + c, bias_sum);
            }
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (weight)
                    g[j] *= factor[j];
                sum += g[j];
                projection += g[j] * normalized[j];
            }
        }
        if (!grad_x)
            continue;
        sum = mean ? reduce_warps<Sum, WARPS>(sum, scratch) / columns : 0.0f;
        projection = reduce_warps<Sum, WARPS>(projection, scratch) / columns;
        for (int c = first; c < columns; c += STEP) {
            float g[N], normalized[N], factor[N], other[N] = {};
            load<N>(g, grad_row + c); /* all from the cache */
            load<N>(normalized, x_row + c);
            if (weight)
                load<N>(factor, weight + c);
            if (addend)
                load<N>(other, addend + row * columns + c);
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (weight)
                    g[j] *= factor[j];
                normalized[j] = ((normalized[j] - center) - rest) * scale;
                g[j] = (g[j] - sum - normalized[j] * projection) * scale + other[j];
            }
            store<N>(grad_x + row * columns + c, g);
        }
    }
    if (!partial)
        return;
    __syncthreads();
    for (int c = threadIdx.x; c < 2 * columns; c += BLOCK_WARPS * WARP) {
        float sum = 0.0f;
#pragma unroll
        for (int each = 0; each < ROWS; each++)
            sum += sums[each * 2 * columns + c];
        partial[blockIdx.x * 2LL * columns + c] = sum;
    }
}
