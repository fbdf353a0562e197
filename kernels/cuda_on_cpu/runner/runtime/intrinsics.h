// CUDA's arithmetic, bit and cache-hint intrinsics. The fast approximations of a device (__expf
// and its like) are the exact functions here.
#pragma once

#include <math.h>
#include <string.h>

#include <type_traits>

#include "interface.h"

namespace cuda_on_cpu {

template <class To, class From>
To bits_as(From value)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits need the same size");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

} // namespace cuda_on_cpu

// Macros, since glibc declares functions of these names.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)
#define __powf(x, y) powf(x, y)

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

inline float __int_as_float(int x) { return cuda_on_cpu::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::bits_as<float>(x); }
inline int __float_as_int(float x) { return cuda_on_cpu::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::bits_as<unsigned>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bits_as<double>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bits_as<long long>(x); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_ru(float x) { return int(ceilf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

inline int __mulhi(int x, int y) { return int((int64_t(x) * y) >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)((unsigned __int128)(x)*y >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class X, class Y>
constexpr std::common_type_t<X, Y> min(X x, Y y)
{
    return y < x ? y : x;
}

template <class X, class Y>
constexpr std::common_type_t<X, Y> max(X x, Y y)
{
    return y > x ? y : x;
}

template <class T>
__forceinline__ T __ldg(const T *address)
{
    return *address;
}

template <class T>
__forceinline__ T __ldcg(const T *address)
{
    return *address;
}

template <class T>
__forceinline__ T __ldcs(const T *address)
{
    return *address;
}

template <class T>
__forceinline__ void __stcg(T *address, std::common_type_t<T> value)
{
    *address = value;
}

template <class T>
__forceinline__ void __stcs(T *address, std::common_type_t<T> value)
{
    *address = value;
}

// The threads of the CPU runner see each other's writes in order.
inline void __threadfence_block() {}
inline void __threadfence() {}

inline void __trap(cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    cuda_on_cpu::trap(where);
}
