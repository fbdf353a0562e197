/* A residual connection: residual + dropout(x + bias), see reference.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of all arrays (rows, columns); bias and sums are
 * float32. With DROPOUT, backward draws the mask of forward again.
 *
 * Variants: SCALAR=float|__nv_bfloat16 DROPOUT=0|1 */
#include "columns.cuh"

__device__ __forceinline__ void draw(unsigned (&kept)[ROUNDS], const Mask &mask,
                                     const Place &place)
{
    if constexpr (DROPOUT)
        draw_tile(kept, mask, (long long)place.row * place.columns + blockIdx.y * TILE_COLUMNS,
                  place.columns);
}

__device__ __forceinline__ float dropped(const Mask &mask, unsigned kept, int j, float x)
{
    return DROPOUT ? mask.apply(kept, j, x) : x;
}

extern "C" __global__ void __launch_bounds__(256)
residual_forward(const SCALAR *__restrict__ residual, const SCALAR *__restrict__ x,
                 const float *__restrict__ bias, SCALAR *__restrict__ y, int rows, int columns,
                 unsigned long long seed, unsigned long long call,
                 const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    Place place(rows, columns);
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool whole = place.whole(residual, x, y);
    float shift[N];
    place.load_bias(shift, bias, whole);
    place.each_tile([&] {
        Tile values, sums;
        unsigned kept[ROUNDS] = {};
        draw(kept, mask, place);
        place.load_tile(values, x, whole);
        place.load_tile(sums, residual, whole);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                sums[i][j] += dropped(mask, kept[i], j, values[i][j] + shift[j]);
        place.store_tile(y, sums, whole);
    });
}

/* Writes dx, and, where `partial` is not null, each block's part of dbias, (blocks along the rows,
 * columns), which column_sum adds up. */
extern "C" __global__ void __launch_bounds__(256)
residual_backward(const SCALAR *__restrict__ grad, SCALAR *__restrict__ grad_x,
                  float *__restrict__ partial, int rows, int columns,
                  unsigned long long seed, unsigned long long call,
                  const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    Place place(rows, columns);
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool whole = place.whole(grad, grad_x);
    float sums[N] = {};
    place.each_tile([&] {
        Tile g;
        unsigned kept[ROUNDS] = {};
        draw(kept, mask, place);
        place.load_tile(g, grad, whole);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                g[i][j] = dropped(mask, kept[i], j, g[i][j]);
        place.store_tile(grad_x, g, whole);
        add_rows(sums, g);
    });
    if (partial)
        store_column_sums(partial, sums, place);
}
