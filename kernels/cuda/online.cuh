/* The peak of a row and the sum of exp(magnitude * (x - peak)), found together in one pass. */
#pragma once
#include "reduce.cuh"

struct Online {
    float magnitude = 1.0f, peak = -infinity(), total = 0.0f;

    /* What is subtracted before exp: the peak, or 0 as long as all is -infinity. */
    __device__ __forceinline__ float base() const { return peak == -infinity() ? 0.0f : peak; }

    template <int N> __device__ __forceinline__ void add(const float (&values)[N])
    {
        float highest = peak;
#pragma unroll
        for (int j = 0; j < N; j++)
            highest = fmaxf(highest, values[j]);
        rise(highest);
#pragma unroll
        for (int j = 0; j < N; j++)
            total += expf(magnitude * (values[j] - base()));
    }

    /* Joins what each thread of COUNT warps has found. */
    template <int COUNT> __device__ __forceinline__ void reduce(float *scratch)
    {
        rise(reduce_warps<Maximum, COUNT>(peak, scratch));
        total = reduce_warps<Sum, COUNT>(total, scratch);
    }

  private:
    __device__ __forceinline__ void rise(float highest)
    {
        const float before = peak;
        peak = highest;
        total *= expf(magnitude * (before - base()));
    }
};
