/* How the elements of a (rows, columns) array are dealt to threads, for kernels that add up
 * columns: each thread stays with four columns, each warp with 128, and goes from row to row, four
 * rows at a time. Blocks of 8 warps; blockIdx.x counts columns, blockIdx.y rows. */
#pragma once
#include "pack.cuh"
#include "reduce.cuh"

constexpr int TILE_ROWS = 4, TILE_COLUMNS = 4 * WARP, BLOCK_WARPS = 8;

struct Place {
    long long column, row, row_step, left; /* left: columns from `column` to the end of the row */

    __device__ __forceinline__ explicit Place(long long columns)
        : column((long long)blockIdx.x * TILE_COLUMNS + 4 * (threadIdx.x % WARP)),
          row(((long long)blockIdx.y * BLOCK_WARPS + threadIdx.x / WARP) * TILE_ROWS),
          row_step((long long)gridDim.y * BLOCK_WARPS * TILE_ROWS), left(columns - column)
    {
    }
};

/* partial[blockIdx.y, c] = the sum over the block's warps of what each thread has added up. */
__device__ __forceinline__ void store_column_sums(float *__restrict__ partial,
                                                  const float (&sums)[4], const Place &place,
                                                  long long columns)
{
    __shared__ float together[BLOCK_WARPS][TILE_COLUMNS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    *reinterpret_cast<float4 *>(&together[warp][4 * lane]) =
        make_float4(sums[0], sums[1], sums[2], sums[3]);
    __syncthreads();
    const long long column = (long long)blockIdx.x * TILE_COLUMNS + threadIdx.x;
    if (threadIdx.x >= TILE_COLUMNS || column >= columns)
        return;
    float sum = 0.0f;
#pragma unroll
    for (int each = 0; each < BLOCK_WARPS; each++)
        sum += together[each][threadIdx.x];
    partial[blockIdx.y * columns + column] = sum;
}
