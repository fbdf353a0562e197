/* The Euclidean norm of a flat buffer, in two stages: see reference.py. Squares are added up in
 * double precision, whose range those of any float32 fit in.
 *
 * SCALAR is the type of the buffer: float or __nv_bfloat16.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "pack.cuh"
#include "reduce.cuh"

/* partial[block] = the sum of the squares that the block reads. The number of blocks decides the
 * order of the sum, so it depends on the size alone. */
extern "C" __global__ void __launch_bounds__(256)
sum_of_squares(const SCALAR *__restrict__ values, long long size, double *__restrict__ partial)
{
    constexpr int N = WIDTH<SCALAR>;
    __shared__ double scratch[8];
    const bool vector = aligned<N>(values);
    double sums[N] = {};
    for (long long start = N * ((long long)blockIdx.x * 256 + threadIdx.x); start < size;
         start += N * 256LL * gridDim.x) {
        float x[N];
        load_some<N>(x, values + start, size - start, vector && size - start >= N);
#pragma unroll
        for (int j = 0; j < N; j++)
            sums[j] += static_cast<double>(x[j]) * x[j];
    }
    double sum = 0.0;
#pragma unroll
    for (int j = 0; j < N; j++)
        sum += sums[j];
    sum = reduce_warps<Sum, 8>(sum, scratch);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

/* norm = the root of the sum of the partial sums; for one block. */
extern "C" __global__ void __launch_bounds__(256)
global_norm(const double *__restrict__ partial, int count, double *__restrict__ norm)
{
    __shared__ double scratch[8];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += 256)
        sum += partial[i];
    sum = reduce_warps<Sum, 8>(sum, scratch);
    if (threadIdx.x == 0)
        *norm = sqrt(sum);
}
