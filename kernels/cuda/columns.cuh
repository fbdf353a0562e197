/* How kernels that add up columns deal the elements of a (rows, columns) array of SCALAR.
 *
 * A block has 64 rows of 128 columns; blockIdx.x counts rows, blockIdx.y columns. Each of its warps
 * has two tiles of four rows, one after the other. A thread moves N neighbours at once, sixteen
 * bytes. So a row of float is all lanes', and one of bfloat16 is half of them's, beside the next
 * row. */
#pragma once
#include "pack.cuh"
#include "philox.cuh"
#include "reduce.cuh"

constexpr int TILES = 2, TILE_ROWS = 4, TILE_COLUMNS = 128, BLOCK_WARPS = 8;
constexpr int N = WIDTH<SCALAR>, LANES = TILE_COLUMNS / N; /* of a row */
constexpr int BESIDE = WARP / LANES, ROUNDS = TILE_ROWS / BESIDE;

/* A thread's elements: in each round one row's. */
typedef float Tile[ROUNDS][N];

/* Where this thread's elements are. */
struct Place {
    int rows, columns;
    int row;          /* the first of the warp's tile */
    int column, left; /* the thread's first, and from there to the end of the row */

    __device__ __forceinline__ Place(int rows, int columns)
        : rows(rows), columns(columns),
          row((blockIdx.x * BLOCK_WARPS + warp_number()) * TILES * TILE_ROWS),
          column(blockIdx.y * TILE_COLUMNS + N * (threadIdx.x % LANES)), left(columns - column)
    {
    }

    /* Calls use() for each of the warp's tiles that has rows, with `row` at its first. */
    template <typename Use> __device__ __forceinline__ void each_tile(Use use)
    {
#pragma unroll 1
        for (int i = 0; i < TILES && row < rows; i++, row += TILE_ROWS)
            use();
    }

    /* Whether N elements can be moved at once in arrays that begin at these addresses. */
    template <typename... T> __device__ __forceinline__ bool whole(const T *...addresses) const
    {
        return columns % N == 0 && left > 0 && aligned<N>(addresses...);
    }

    __device__ __forceinline__ void load_tile(Tile &values, const SCALAR *source, bool whole) const
    {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const bool exists = row_of(i) < rows;
            load_some<N>(values[i], source + offset(i), exists ? left : 0, exists && whole);
        }
    }

    __device__ __forceinline__ void store_tile(SCALAR *target, const Tile &values, bool whole) const
    {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const bool exists = row_of(i) < rows;
            store_some<N>(target + offset(i), values[i], exists ? left : 0, exists && whole);
        }
    }

    /* The elements of this thread's columns; zeros where there is no bias. */
    __device__ __forceinline__ void load_bias(float (&values)[N], const float *bias,
                                              bool whole) const
    {
        load_some<N>(values, bias + column, bias ? left : 0, bias && whole && aligned<N>(bias));
    }

  private:
    __device__ __forceinline__ int row_of(int round) const
    {
        return row + round * BESIDE + threadIdx.x % WARP / LANES;
    }

    __device__ __forceinline__ long long offset(int round) const
    {
        return (long long)row_of(round) * columns + column;
    }
};

/* Which elements of a tile the mask keeps: bit j of kept[i] is that of the j-th in round i.
 * `element` is the number of the warp's first; rows are `stride` apart. Each lane draws sixteen
 * columns of a row, which the others ask it for. Drawing comes before reading, so that registers
 * suffice for more warps: while some draw others wait. */
__device__ __forceinline__ void draw_tile(unsigned (&kept)[ROUNDS], const Mask &mask, Word element,
                                          Word stride)
{
    constexpr int GROUPS = TILE_COLUMNS / 16;
    const int lane = threadIdx.x % WARP, column = N * (lane % LANES);
    const unsigned mine = mask.kept(element + lane / GROUPS * stride + lane % GROUPS * 16);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int row = i * BESIDE + lane / LANES;
        kept[i] = __shfl_sync(ALL_LANES, mine, row * GROUPS + column / 16) >> column % 16;
    }
}

/* Adds up the rows of a tile. */
__device__ __forceinline__ void add_rows(float (&sums)[N], const Tile &values)
{
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sums[j] += values[i][j];
}

/* partial[blockIdx.x, c] = the sum of column c over the block's rows, of which each thread has its
 * own in `sums`. */
__device__ __forceinline__ void store_column_sums(float *__restrict__ partial,
                                                  const float (&sums)[N], const Place &place)
{
    __shared__ __align__(16) float together[BLOCK_WARPS * BESIDE][TILE_COLUMNS];
    store_shared<N>(&together[threadIdx.x / LANES][N * (threadIdx.x % LANES)], sums);
    __syncthreads();
    const int column = blockIdx.y * TILE_COLUMNS + threadIdx.x;
    if (threadIdx.x >= TILE_COLUMNS || column >= place.columns)
        return;
    float sum = 0.0f;
#pragma unroll
    for (int each = 0; each < BLOCK_WARPS * BESIDE; each++)
        sum += together[each][threadIdx.x];
    partial[(long long)blockIdx.x * place.columns + column] = sum;
}
