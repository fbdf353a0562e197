/* Warps; sums and maxima over one or over a block, in an order that never changes. */
#pragma once

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

/* The warp's number in its block, so that the compiler knows that it is the same for all lanes. */
__device__ __forceinline__ int warp_number()
{
    return __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0);
}

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

struct Sum {
    static __device__ __forceinline__ float neutral() { return 0.0f; }
    template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};

struct Maximum {
    static __device__ __forceinline__ float neutral() { return -infinity(); }
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

template <typename Operation, typename T> __device__ __forceinline__ T reduce_warp(T value)
{
#pragma unroll
    for (int distance = WARP / 2; distance; distance /= 2)
        value = Operation::of(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

/* Returns to each of COUNT warps, all of the block unless it is one, what they have together.
 * `scratch` is shared memory for COUNT elements. */
template <typename Operation, int COUNT, typename T>
__device__ __forceinline__ T reduce_warps(T value, T *scratch)
{
    value = reduce_warp<Operation>(value);
    if constexpr (COUNT > 1) {
        __syncthreads(); /* the last result may not have been read by all */
        if (threadIdx.x % WARP == 0)
            scratch[threadIdx.x / WARP] = value;
        __syncthreads();
        value = Operation::neutral();
#pragma unroll
        for (int warp = 0; warp < COUNT; warp++)
            value = Operation::of(value, scratch[warp]);
    }
    return value;
}
