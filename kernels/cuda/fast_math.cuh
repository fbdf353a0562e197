/* Functions that the processor computes by one instruction: off by a few units of the 22nd bit, for
 * where that does not show. */
#pragma once

constexpr float LOG2_E = 1.44269504088896341f;

/* 2^x, 0 where that would not be a normal number. */
__device__ __forceinline__ float exp2_fast(float x)
{
#ifdef CUDA_ON_CPU
    return exp2f(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}

/* 1 / x. */
__device__ __forceinline__ float reciprocal_fast(float x)
{
#ifdef CUDA_ON_CPU
    return 1.0f / x;
#else
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}
