/* Dropout with counter-based random bits: see reference.py.
 *
 * SCALAR is the type of x and y: float or __nv_bfloat16.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "columns.cuh"

/* y = x * scale where the mask keeps x, else 0, forward and backward. Each warp takes two tiles of
 * 512 elements, as four rows of 128 each, one after the other. */
extern "C" __global__ void __launch_bounds__(256)
dropout(const SCALAR *__restrict__ x, SCALAR *__restrict__ y, long long size,
        unsigned long long seed, unsigned long long call,
        const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    constexpr int TILE = TILE_ROWS * TILE_COLUMNS;
    const long long warp = (long long)blockIdx.x * BLOCK_WARPS + warp_number();
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool vector = aligned<N>(x, y);
    const long long end = min(size, (warp + 1) * TILES * TILE);
#pragma unroll 1
    for (long long first = warp * TILES * TILE; first < end; first += TILE) {
        Tile values;
        unsigned kept[ROUNDS];
        draw_tile(kept, mask, first, TILE_COLUMNS);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const long long place = first + N * (i * WARP + threadIdx.x % WARP);
            load_some<N>(values[i], x + place, size - place, vector && size - place >= N);
        }
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const long long place = first + N * (i * WARP + threadIdx.x % WARP);
#pragma unroll
            for (int j = 0; j < N; j++)
                values[i][j] = mask.apply(kept[i], j, values[i][j]);
            store_some<N>(y + place, values[i], size - place, vector && size - place >= N);
        }
    }
}
