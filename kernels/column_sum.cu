/* The second stage of sums over rows, whose parts blocks have added up, each in its own order.
 *
 * SCALAR is the type of the result: float or __nv_bfloat16.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "pack.cuh"
#include "reduce.cuh"

/* sums[c] = the sum of partial[r, c] over the rows. Blocks of 32 x 32 threads take 32 columns. */
extern "C" __global__ void __launch_bounds__(1024)
column_sum(const float *__restrict__ partial, SCALAR *__restrict__ sums, int rows,
           long long columns)
{
    __shared__ float tile[WARP][WARP + 1];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const long long first = (long long)blockIdx.x * WARP;
    float sum = 0.0f;
    if (first + lane < columns)
        for (int row = warp; row < rows; row += WARP)
            sum += partial[row * columns + first + lane];
    tile[warp][lane] = sum;
    __syncthreads();
    sum = reduce_warp<Sum>(tile[lane][warp]);
    if (lane == 0 && first + warp < columns)
        from_float(sum, sums[first + warp]);
}
