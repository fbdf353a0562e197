/* Dropout with counter-based random bits: see dropout.py.
 *
 * SCALAR is the type of x and y: float or __nv_bfloat16.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "columns.cuh"

/* y = x * mask * scale, forward and backward. Each warp takes four rows of 128 elements. */
extern "C" __global__ void __launch_bounds__(256)
dropout(const SCALAR *__restrict__ x, SCALAR *__restrict__ y, long long size,
        unsigned long long seed, unsigned long long call,
        const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    const long long warp = (long long)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
    const long long first = warp * TILE_ROWS * TILE_COLUMNS;
    const long long start = first + N * (threadIdx.x % WARP); /* a round has 32 lanes' numbers */
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool vector = aligned<N>(x, y);
    Tile values, factors;
    draw_factors(factors, mask, first, TILE_COLUMNS);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const long long place = start + i * N * WARP;
        load_some<N>(values[i], x + place, size - place, vector && size - place >= N);
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const long long place = start + i * N * WARP;
#pragma unroll
        for (int j = 0; j < N; j++)
            values[i][j] *= factors[i][j];
        store_some<N>(y + place, values[i], size - place, vector && size - place >= N);
    }
}
