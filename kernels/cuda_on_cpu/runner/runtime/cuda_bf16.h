// Stands in for CUDA's <cuda_bf16.h>: the types and the conversions, which round to nearest even.
// Arithmetic is left to float: products and sums of bfloat16 lose too much in between.
#pragma once

#include "intrinsics.h"
#include "vector_types.h"

// No constructors, not even defaulted ones: with them, g++ guards the initialisation of shared
// arrays.
struct alignas(2) __nv_bfloat16 {
    unsigned short bits;

    operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float __bfloat162float(__nv_bfloat16 value) { return float(value); }

inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    const unsigned word = __float_as_uint(value);
    const unsigned rounding = 0x7fff + ((word >> 16) & 1);
    return {static_cast<unsigned short>(isnan(value) ? 0x7fff : (word + rounding) >> 16)};
}

inline __nv_bfloat16 __float2bfloat16(float value) { return __float2bfloat16_rn(value); }

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

inline __nv_bfloat162 __float22bfloat162_rn(float2 value)
{
    return __floats2bfloat162_rn(value.x, value.y);
}

inline float2 __bfloat1622float2(__nv_bfloat162 value) { return {float(value.x), float(value.y)}; }

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 value) { return {value, value}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 value) { return value.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 value) { return value.y; }
inline float __low2float(__nv_bfloat162 value) { return float(value.x); }
inline float __high2float(__nv_bfloat162 value) { return float(value.y); }

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return cuda_on_cpu::bits_as<__nv_bfloat16>(bits);
}
