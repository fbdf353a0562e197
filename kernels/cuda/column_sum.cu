/* Sums over rows in two stages: blocks add up parts, and these are added up in their order.
 *
 * SCALAR, float or __nv_bfloat16, is the type of what is added up, and of the result.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "columns.cuh"

/* partial[b, c] = the sum of x[r, c] over the rows of block b. */
extern "C" __global__ void __launch_bounds__(256)
column_parts(const SCALAR *__restrict__ x, float *__restrict__ partial, int rows, int columns)
{
    Place place(rows, columns);
    float sums[N] = {};
    place.each_tile([&] {
        Tile values;
        place.load_tile(values, x, place.whole(x));
        add_rows(sums, values);
    });
    store_column_sums(partial, sums, place);
}

/* sums[c] = the sum of partial[r, c] over the rows, which are `stride` apart. Blocks of 32 x 32
 * threads take 32 columns: more, at sixteen bytes a thread, would leave too few blocks. */
extern "C" __global__ void __launch_bounds__(1024)
column_sum(const float *__restrict__ partial, SCALAR *__restrict__ sums, int rows,
           long long columns, long long stride)
{
    __shared__ float tile[WARP][WARP + 1];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const long long first = (long long)blockIdx.x * WARP;
    float sum = 0.0f;
    if (first + lane < columns)
        for (int row = warp; row < rows; row += WARP)
            sum += partial[row * stride + first + lane];
    tile[warp][lane] = sum;
    __syncthreads();
    sum = reduce_warp<Sum>(tile[lane][warp]);
    if (lane == 0 && first + warp < columns)
        from_float(sum, sums[first + warp]);
}
