/* How the elements of a (rows, columns) array of SCALAR are dealt to threads, for kernels that add
 * up columns: a block has 32 rows of 128 columns, and a warp four of these rows. A thread moves N
 * neighbours at once, sixteen bytes, so a row is all lanes' in float, and in bfloat16 one half's,
 * beside the next row. blockIdx.x counts rows, blockIdx.y columns. */
#pragma once
#include "pack.cuh"
#include "philox.cuh"
#include "reduce.cuh"

constexpr int TILE_ROWS = 4, TILE_COLUMNS = 128, BLOCK_WARPS = 8;
constexpr int N = WIDTH<SCALAR>, LANES = TILE_COLUMNS / N; /* of a row */
constexpr int BESIDE = WARP / LANES, ROUNDS = TILE_ROWS / BESIDE;

/* A thread's numbers: in each round one row's. */
typedef float Tile[ROUNDS][N];

/* Where this thread's elements are. */
struct Place {
    long long rows, columns, row, column, left; /* left: from `column` to the end of the row */

    __device__ __forceinline__ Place(long long rows, long long columns)
        : rows(rows), columns(columns),
          row(((long long)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP) * TILE_ROWS +
              threadIdx.x % WARP / LANES),
          column((long long)blockIdx.y * TILE_COLUMNS + N * (threadIdx.x % LANES)),
          left(columns - column)
    {
    }

    /* Whether N numbers can be moved at once in arrays that begin at these addresses. */
    template <typename... T> __device__ __forceinline__ bool whole(const T *...addresses) const
    {
        return columns % N == 0 && left > 0 && aligned<N>(addresses...);
    }

    __device__ __forceinline__ void load_tile(Tile &values, const SCALAR *source, bool whole) const
    {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const long long r = row + i * BESIDE;
            load_some<N>(values[i], source + r * columns + column, r < rows ? left : 0,
                         whole && r < rows);
        }
    }

    __device__ __forceinline__ void store_tile(SCALAR *target, const Tile &values, bool whole) const
    {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const long long r = row + i * BESIDE;
            store_some<N>(target + r * columns + column, values[i], r < rows ? left : 0,
                          whole && r < rows);
        }
    }

    /* The numbers of this thread's columns; zeros where there is no bias. */
    __device__ __forceinline__ void load_bias(float (&values)[N], const float *bias,
                                              bool whole) const
    {
        load_some<N>(values, bias + column, bias ? left : 0, bias && whole && aligned<N>(bias));
    }
};

/* The factors, 0 or the mask's scale, of a tile. `element` is the number of the warp's first; rows
 * are `stride` apart. Each lane draws sixteen columns of a row, which the others ask it for.
 * Drawing comes before reading, so that registers suffice for more warps: while some draw others
 * wait. */
__device__ __forceinline__ void draw_factors(Tile &factors, const Mask &mask, Word element,
                                             Word stride)
{
    constexpr int GROUPS = TILE_COLUMNS / 16;
    const int lane = threadIdx.x % WARP, column = N * (lane % LANES);
    const unsigned mine = mask.kept(element + lane / GROUPS * stride + lane % GROUPS * 16);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int row = i * BESIDE + lane / LANES;
        const unsigned kept = __shfl_sync(ALL_LANES, mine, row * GROUPS + column / 16);
#pragma unroll
        for (int j = 0; j < N; j++)
            factors[i][j] = kept >> (column % 16 + j) & 1u ? mask.scale : 0.0f;
    }
}

/* partial[blockIdx.x, c] = the sum of column c over the block's rows, whose `values` are zeros
 * where there are none. */
__device__ __forceinline__ void store_column_sums(float *__restrict__ partial, const Tile &values,
                                                  const Place &place)
{
    __shared__ __align__(16) float together[BLOCK_WARPS * BESIDE][TILE_COLUMNS];
    float sums[N] = {};
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sums[j] += values[i][j];
    store_shared<N>(&together[threadIdx.x / LANES][N * (threadIdx.x % LANES)], sums);
    __syncthreads();
    const long long column = (long long)blockIdx.y * TILE_COLUMNS + threadIdx.x;
    if (threadIdx.x >= TILE_COLUMNS || column >= place.columns)
        return;
    float sum = 0.0f;
#pragma unroll
    for (int each = 0; each < BLOCK_WARPS * BESIDE; each++)
        sum += together[each][threadIdx.x];
    partial[blockIdx.x * place.columns + column] = sum;
}
