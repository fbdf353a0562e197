/* A residual connection: residual + dropout(x + bias), see residual.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of all arrays (rows, columns); bias and sums are
 * float32. With DROPOUT, backward draws the mask of forward again.
 *
 * Variants: SCALAR=float|__nv_bfloat16 DROPOUT=0|1 */
#include "columns.cuh"

__device__ __forceinline__ void draw(Tile &factors, const Mask &mask, const Place &place)
{
    if constexpr (DROPOUT) {
        const int lane = threadIdx.x % WARP;
        const long long row = place.row - lane / LANES; /* the warp's first */
        draw_factors(factors, mask,
                     row * place.columns + (long long)blockIdx.y * TILE_COLUMNS, place.columns);
    } else {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                factors[i][j] = 1.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256)
residual_forward(const SCALAR *__restrict__ residual, const SCALAR *__restrict__ x,
                 const float *__restrict__ bias, SCALAR *__restrict__ y, long long rows,
                 long long columns, unsigned long long seed, unsigned long long call,
                 const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    const Place place(rows, columns);
    const bool whole = place.whole(residual, x, y);
    Tile values, sums, factors;
    float shift[N];
    draw(factors, Mask(seed, call, recorded, threshold, scale), place);
    place.load_tile(values, x, whole);
    place.load_tile(sums, residual, whole);
    place.load_bias(shift, bias, whole);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sums[i][j] += (values[i][j] + shift[j]) * factors[i][j];
    place.store_tile(y, sums, whole);
}

/* Writes dx, and, where `partial` is not null, each block's part of dbias, (blocks along the rows,
 * columns), which column_sum adds up. */
extern "C" __global__ void __launch_bounds__(256)
residual_backward(const SCALAR *__restrict__ grad, SCALAR *__restrict__ grad_x,
                  float *__restrict__ partial, long long rows, long long columns,
                  unsigned long long seed, unsigned long long call,
                  const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    const Place place(rows, columns);
    const bool whole = place.whole(grad, grad_x);
    Tile g, factors;
    draw(factors, Mask(seed, call, recorded, threshold, scale), place);
    place.load_tile(g, grad, whole);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            g[i][j] *= factors[i][j];
    place.store_tile(grad_x, g, whole);
    if (partial)
        store_column_sums(partial, g, place);
}
