/* Numbers in bfloat16: the upper half of a float32, rounded to the nearest, of two the even one.
 *
 * As the instructions of AVX512_BF16 do it, in any registers: what is below 2^-126, where floats
 * lose digits, is a zero of its sign, in sums too, and a NaN stays one. */
#ifndef TINYGRAD_CHAR_BFLOAT16_H
#define TINYGRAD_CHAR_BFLOAT16_H

#include "simd.h"

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

#endif
