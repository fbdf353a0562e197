/* What kernels share: versions for several instruction sets, and the exponential function.
 *
 * Arrays do not overlap unless said otherwise. Of a function that is compiled for several
 * instruction sets, the processor's best version is taken when the library is loaded. No function
 * changes the floating-point state. */
#ifndef TINYGRAD_CHAR_SIMD_H
#define TINYGRAD_CHAR_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* By what a processor can do: the name of a processor would be taken for that one alone. */
#if !defined(__x86_64__) || !defined(__GNUC__) || defined(__clang__) || !defined(__gnu_linux__)
#define MULTIVERSION
#elif __GNUC__ >= 12
#define MULTIVERSION \
    __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MULTIVERSION __attribute__((target_clones("default", "avx2", "avx512f")))
#endif

#define INLINE static inline __attribute__((always_inline))

/* Elements of a row that are added up in single precision; these sums are in double precision, so
 * that errors do not grow with the length of a row. */
enum { ROW_PART = 1024 };

INLINE int64_t part_end(int64_t start, int64_t end)
{
    return end - start < ROW_PART ? end : start + ROW_PART;
}

/* exp(x) to about one unit in the last place, without branches, so that loops of it vectorise.
 * x = n log 2 + r with |r| <= log(2) / 2; exp(r) by the polynomial of Cephes (S. Moshier); times
 * 2^(n - 1), made from its bits, and 2, since 2^128 is not a float. The bounds on x need no choice
 * at the end: below -87 the bits are those of 0, from 88.8 on those of infinity. */
INLINE float exp_float(float x)
{
    const float low = -87.3f, high = 89.4f;
    /* adding 1.5 * 2^23 rounds to an integer; a float's exponent n - 1 is stored as n + 126 */
    const float shift = 12582912.0f + 126.0f;
    float z = low > x ? low : x; /* a NaN stays what it is */
    z = high < z ? high : z;
    union { float number; uint32_t bits; } shifted = {z * 1.44269504f + shift}, power;
    const float n = shifted.number - shift;
    const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    power.bits = shifted.bits << 23;
    return p * power.number * 2.0f;
}

#endif
