/* Softmax over the last axis, with an optional mask: see reference.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of x, y and their gradients, (rows, columns); sums
 * are float32. VECTOR elements, which divide `columns`, are moved at a time. WARPS warps, 1 or all
 * 8, share a row: one pass finds the peak and the sum together (Milakov and Gimelshein 2018,
 * arXiv:1805.02867), the second writes.
 *
 * Variants: SCALAR=float VECTOR=1|4 WARPS=1|8
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 WARPS=1|8 */
#include "online.cuh"
#include "reduce.cuh"
#include "row.cuh"

/* Multiplies N elements by the sign of the scale, and makes those -infinity that are masked. */
__device__ __forceinline__ void prepare(float (&values)[N], float sign, const bool *mask)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        values[j] *= sign;
    if (!mask)
        return;
    const Pack<bool, N> seen = fetch<N>(mask);
#pragma unroll
    for (int j = 0; j < N; j++)
        if (!seen.at[j])
            values[j] = -infinity();
}

/* y = softmax(scale * x). `mask`, where not null, is (mask_rows, columns) and its rows serve those of
 * x in turn. */
extern "C" __global__ void __launch_bounds__(256, 3)
softmax_forward(const SCALAR *__restrict__ x, const bool *__restrict__ mask,
                SCALAR *__restrict__ y, long long rows, long long mask_rows, int columns,
                float scale)
{
    __shared__ float scratch[WARPS];
    const long long row = own_row();
    if (row >= rows)
        return;
    x += row * columns;
    y += row * columns;
    if (mask)
        mask += row % mask_rows * columns;
    const Row<SCALAR, N, STEP> own(x, own_column(), columns);
    const float sign = scale == 0.0f ? 0.0f : copysignf(1.0f, scale);
    Online online{scale == 0.0f ? 1.0f : fabsf(scale)};
    own.each([&](int c, float (&values)[N]) {
        prepare(values, sign, mask ? mask + c : nullptr);
        online.add(values);
    });
    online.reduce<WARPS>(scratch);
    /* where a mask leaves nothing the row is zeros, not NaN */
    const float inverse = mask && online.total == 0.0f ? 0.0f : 1.0f / online.total;
    const float peak = online.base();

    own.each([&](int c, float (&values)[N]) {
        prepare(values, sign, mask ? mask + c : nullptr);
#pragma unroll
        for (int j = 0; j < N; j++)
            values[j] = expf(online.magnitude * (values[j] - peak)) * inverse;
        store<N>(y + c, values);
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
softmax_backward(const SCALAR *__restrict__ grad, const SCALAR *__restrict__ y,
                 SCALAR *__restrict__ grad_x, long long rows, int columns)
{
    __shared__ float scratch[WARPS];
    const long long row = own_row();
    if (row >= rows)
        return;
    const Row<SCALAR, N, STEP, 16> own_grad(grad + row * columns, own_column(), columns);
    const Row<SCALAR, N, STEP, 16> own_y(y + row * columns, own_column(), columns);
    grad_x += row * columns;
    float projection = 0.0f;
    own_grad.each_with(own_y, [&](int, const float (&g)[N], const float (&weights)[N]) {
#pragma unroll
        for (int j = 0; j < N; j++)
            projection += g[j] * weights[j];
    });
    projection = reduce_warps<Sum, WARPS>(projection, scratch);

    own_grad.each_with(own_y, [&](int c, float (&g)[N], const float (&weights)[N]) {
#pragma unroll
        for (int j = 0; j < N; j++)
            g[j] = weights[j] * (g[j] - projection);
        store<N>(grad_x + c, g);
    });
}
