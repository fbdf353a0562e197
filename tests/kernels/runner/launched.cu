// What the launcher's tests launch.
#include <cuda_bf16.h>

#ifndef BLOCK
#define BLOCK 128
#endif

extern "C" __global__ void __launch_bounds__(BLOCK, 2)
    scale(const float *__restrict__ x, float *__restrict__ y, __nv_bfloat16 *__restrict__ half,
          float factor, int n, long long count)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || i >= count)
        return;
    y[i] = factor * x[i];
    half[i] = __float2bfloat16(y[i]);
}

__device__ float helper(float x)
{
    __shared__ float values[16];
    if (threadIdx.x < 16)
        values[threadIdx.x] = x;
    __syncthreads();
    return values[0];
}

extern "C" __global__ void unbounded(float *x)
{
    __shared__ float values[100];
    if (threadIdx.x < 100)
        values[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = helper(values[0]);
}

extern "C" __global__ void larger(float *x)
{
    __shared__ float many[1000];
    many[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = many[threadIdx.x ^ 1];
}
