/* Numbers in bfloat16: the upper half of a float32, rounded to the nearest, of two the even one.
 *
 * As the instructions of AVX512_BF16 do it, in any registers: what is below 2^-126, where floats
 * lose digits, is a zero of its sign, in sums too, and a NaN stays one. */
#ifndef TINYGRAD_CHAR_BFLOAT16_H
#define TINYGRAD_CHAR_BFLOAT16_H

#include "simd.h"

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 11))
#include <immintrin.h>
#define HAS_BF16 1
#define BF16_TARGET \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#endif

/* How numbers in bfloat16 are multiplied: see product_choose_bf16. */
typedef enum { BF16_PORTABLE, BF16_EMULATED, BF16_INSTRUCTION } Bf16Way;
extern Bf16Way bf16_way;

INLINE uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Returns x, or a zero of its sign where it is too small for all of its digits. */
INLINE float flushed(float x)
{
    const uint32_t bits = bits_of_float(x);
    return float_of_bits(bits & 0x7f800000 ? bits : bits & 0x80000000);
}

/* Returns x rounded to bfloat16, as a float32. */
INLINE float to_bfloat16(float x)
{
    const uint32_t bits = bits_of_float(flushed(x));
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    return float_of_bits((x == x ? rounded : bits | 0x400000) & 0xffff0000);
}

/* Returns sum + x0 y0 + x1 y1 of numbers in bfloat16, as the instruction adds up: the second first,
 * each with one rounding. */
INLINE float add_pair(float sum, float x0, float x1, float y0, float y1)
{
    return flushed(__builtin_fmaf(x0, y0, flushed(__builtin_fmaf(x1, y1, sum))));
}

#endif
