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
    const long long start = first + 4 * (threadIdx.x % WARP);
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool vector = aligned<4>(x, y);
    float values[TILE_ROWS][4], factors[TILE_ROWS][4];
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i++) {
        const long long place = start + i * TILE_COLUMNS;
        load_some<4>(values[i], x + place, size - place, vector && size - place >= 4);
    }
    draw_factors(factors, mask, first, TILE_COLUMNS);
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i++) {
        const long long place = start + i * TILE_COLUMNS;
#pragma unroll
        for (int j = 0; j < 4; j++)
            values[i][j] *= factors[i][j];
        store_some<4>(y + place, values[i], size - place, vector && size - place >= 4);
    }
}
