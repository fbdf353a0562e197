/* How the elements of a (rows, columns) array are dealt to threads, for kernels that add up
 * columns: a warp has four rows of 128 columns, a block 32 rows, and each thread four columns.
 * blockIdx.x counts rows, blockIdx.y columns. */
#pragma once
#include "pack.cuh"
#include "philox.cuh"
#include "reduce.cuh"

constexpr int TILE_ROWS = 4, TILE_COLUMNS = 4 * WARP, BLOCK_WARPS = 8;

/* Where this thread's elements begin. */
struct Place {
    long long rows, columns, row, column, left; /* left: from `column` to the end of the row */

    __device__ __forceinline__ Place(long long rows, long long columns)
        : rows(rows), columns(columns),
          row(((long long)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP) * TILE_ROWS),
          column((long long)blockIdx.y * TILE_COLUMNS + 4 * (threadIdx.x % WARP)),
          left(columns - column)
    {
    }

    /* Whether four numbers can be moved at once in arrays that begin at these addresses. */
    template <typename... T> __device__ __forceinline__ bool whole(const T *...addresses) const
    {
        return columns % 4 == 0 && left > 0 && aligned<4>(addresses...);
    }

    template <typename T>
    __device__ __forceinline__ void load_tile(float (&values)[TILE_ROWS][4], const T *source,
                                              bool whole) const
    {
#pragma unroll
        for (int i = 0; i < TILE_ROWS; i++)
            load_some<4>(values[i], source + (row + i) * columns + column,
                         row + i < rows ? left : 0, whole && row + i < rows);
    }

    template <typename T>
    __device__ __forceinline__ void store_tile(T *target, const float (&values)[TILE_ROWS][4],
                                               bool whole) const
    {
#pragma unroll
        for (int i = 0; i < TILE_ROWS; i++)
            store_some<4>(target + (row + i) * columns + column, values[i],
                          row + i < rows ? left : 0, whole && row + i < rows);
    }
};

/* The factors, 0 or the mask's scale, of four columns in each of four rows. `element` is the number
 * of the warp's first; rows are `stride` apart. Each lane draws sixteen columns of a row. */
__device__ __forceinline__ void draw_factors(float (&factors)[TILE_ROWS][4], const Mask &mask,
                                             Word element, Word stride)
{
    constexpr int GROUPS = TILE_COLUMNS / 16;
    const int lane = threadIdx.x % WARP;
    const unsigned mine = mask.kept(element + lane / GROUPS * stride + lane % GROUPS * 16);
#pragma unroll
    for (int row = 0; row < TILE_ROWS; row++) {
        const unsigned kept = __shfl_sync(ALL_LANES, mine, row * GROUPS + lane / 4);
#pragma unroll
        for (int j = 0; j < 4; j++)
            factors[row][j] = kept >> (4 * (lane % 4) + j) & 1u ? mask.scale : 0.0f;
    }
}

/* partial[blockIdx.x, c] = the sum of column c over the block's rows, of which each thread has
 * four in `values`, zeros where there are none. */
__device__ __forceinline__ void store_column_sums(float *__restrict__ partial,
                                                  const float (&values)[TILE_ROWS][4],
                                                  const Place &place)
{
    __shared__ float together[BLOCK_WARPS][TILE_COLUMNS];
    float sums[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        sums[j] = (values[0][j] + values[1][j]) + (values[2][j] + values[3][j]);
    store_shared<4>(&together[threadIdx.x / WARP][4 * (threadIdx.x % WARP)], sums);
    __syncthreads();
    const long long column = (long long)blockIdx.y * TILE_COLUMNS + threadIdx.x;
    if (threadIdx.x >= TILE_COLUMNS || column >= place.columns)
        return;
    float sum = 0.0f;
#pragma unroll
    for (int each = 0; each < BLOCK_WARPS; each++)
        sum += together[each][threadIdx.x];
    partial[blockIdx.x * place.columns + column] = sum;
}
