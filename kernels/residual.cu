/* A residual connection: residual + dropout(x + bias), see residual.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of all arrays (rows, columns); bias and sums are
 * float32. Dropout draws its mask again in backward. DRAWING says how: ABSENT, without dropout;
 * TOGETHER, where `columns` is a multiple of 16; ALONE, each thread for itself and several times
 * slower, otherwise. */
#include "columns.cuh"
#include "philox.cuh"

enum Drawing { ABSENT, TOGETHER, ALONE };

/* The factors of four elements in each of four rows; all lanes of a warp call it together. */
__device__ __forceinline__ void draw(float (&factors)[TILE_ROWS][4], const Mask &mask,
                                     const Place &place, long long row, long long columns)
{
    if constexpr (DRAWING == TOGETHER)
        mask.factors_together(factors, row * columns + place.column, columns);
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i++) {
        if constexpr (DRAWING == ALONE)
            mask.factors_alone(factors[i], (row + i) * columns + place.column);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if constexpr (DRAWING == ABSENT)
                factors[i][j] = 1.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256)
residual_forward(const SCALAR *__restrict__ residual, const SCALAR *__restrict__ x,
                 const float *__restrict__ bias, SCALAR *__restrict__ y, long long rows,
                 long long columns, unsigned long long seed, unsigned long long call,
                 const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    const Place place(columns);
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool whole = columns % 4 == 0 && place.left > 0 && aligned<4>(residual, x, y);
    float shift[4] = {};
    if (bias)
        load_some<4>(shift, bias + place.column, place.left, false);
    for (long long row = place.row; row < rows; row += place.row_step) {
        float values[TILE_ROWS][4], sums[TILE_ROWS][4], factors[TILE_ROWS][4];
#pragma unroll
        for (int i = 0; i < TILE_ROWS; i++)
            if (row + i < rows) {
                const long long start = (row + i) * columns + place.column;
                load_some<4>(values[i], x + start, place.left, whole);
                load_some<4>(sums[i], residual + start, place.left, whole);
            }
        draw(factors, mask, place, row, columns);
#pragma unroll
        for (int i = 0; i < TILE_ROWS; i++) {
            if (row + i >= rows)
                break;
#pragma unroll
            for (int j = 0; j < 4; j++)
                sums[i][j] += (values[i][j] + shift[j]) * factors[i][j];
            store_some<4>(y + (row + i) * columns + place.column, sums[i], place.left, whole);
        }
    }
}

/* Writes dx, and, where `partial` is not null, the part of each row of blocks (gridDim.y, columns)
 * of dbias, which column_sum adds up. */
extern "C" __global__ void __launch_bounds__(256)
residual_backward(const SCALAR *__restrict__ grad, SCALAR *__restrict__ grad_x,
                  float *__restrict__ partial, long long rows, long long columns,
                  unsigned long long seed, unsigned long long call,
                  const unsigned long long *__restrict__ recorded, unsigned threshold, float scale)
{
    const Place place(columns);
    const Mask mask(seed, call, recorded, threshold, scale);
    const bool whole = columns % 4 == 0 && place.left > 0 && aligned<4>(grad, grad_x);
    float sums[4] = {};
    for (long long row = place.row; row < rows; row += place.row_step) {
        float g[TILE_ROWS][4], factors[TILE_ROWS][4];
#pragma unroll
        for (int i = 0; i < TILE_ROWS; i++)
            if (row + i < rows)
                load_some<4>(g[i], grad + (row + i) * columns + place.column, place.left, whole);
        draw(factors, mask, place, row, columns);
#pragma unroll
        for (int i = 0; i < TILE_ROWS; i++) {
            if (row + i >= rows)
                break;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                g[i][j] *= factors[i][j];
                sums[j] += g[i][j];
            }
            store_some<4>(grad_x + (row + i) * columns + place.column, g[i], place.left, whole);
        }
    }
    if (partial)
        store_column_sums(partial, sums, place, columns);
}
