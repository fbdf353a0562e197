/* Elements of products in bfloat16, for panels.h: each is a pair of numbers, neighbours
 * along the depth, the first in the lower half.
 *
 * With INSTRUCTION, by AVX512_BF16: a register of pairs at a time is multiplied and added up. That
 * is two multiplications in float32, each followed by an addition without a rounding in between,
 * of the upper halves first. Without, this is what is computed, to the same bits. */
typedef int32_t NAME(Element) __attribute__((may_alias));

TARGET INLINE int32_t NAME(one)(const float *from, int64_t step, int64_t count)
{
    const float second = count > 1 ? from[step] : 0;
    return (int32_t)(bits_of_float(to_bfloat16(*from)) >> 16 |
                     bits_of_float(to_bfloat16(second)));
}

#ifdef INSTRUCTION
TARGET INLINE NAME(Vector) NAME(along)(const float *from)
{
    return (NAME(Vector))_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + LANES), _mm512_loadu_ps(from));
}

TARGET INLINE NAME(Vector) NAME(across)(const float *from, int64_t row)
{
    const __m512i in_turns = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i halves =
        (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + row), _mm512_loadu_ps(from));
    return (NAME(Vector))_mm512_permutexvar_epi16(in_turns, halves);
}

TARGET INLINE NAME(Vector) NAME(multiply_add)(NAME(Vector) sum, int32_t x, NAME(Vector) y)
{
    return (NAME(Vector))_mm512_dpbf16_ps((__m512)sum, (__m512bh)y,
                                          (__m512bh)_mm512_set1_epi32(x));
}
#else
TARGET INLINE NAME(Vector) NAME(along)(const float *from)
{
    NAME(Integers) pairs;
    for (int i = 0; i < LANES; i++)
        pairs[i] = NAME(one)(from + 2 * i, 1, 2);
    return (NAME(Vector))pairs;
}

TARGET INLINE NAME(Vector) NAME(across)(const float *from, int64_t row)
{
    NAME(Integers) pairs;
    for (int i = 0; i < LANES; i++)
        pairs[i] = NAME(one)(from + i, row, 2);
    return (NAME(Vector))pairs;
}

TARGET INLINE NAME(Vector) NAME(multiply_add)(NAME(Vector) sum, int32_t x, NAME(Vector) y)
{
    const uint32_t upper = 0xffff0000;
    const float second = float_of_bits((uint32_t)x & upper);
    const float first = float_of_bits((uint32_t)x << 16);
    uint32_t pairs[LANES]; /* arrays, of which loops become vectors again */
    float sums[LANES];
    memcpy(pairs, &y, sizeof pairs);
    memcpy(sums, &sum, sizeof sums);
#pragma omp simd
    for (int i = 0; i < LANES; i++)
        sums[i] = add_pair(sums[i], first, second, float_of_bits(pairs[i] << 16),
                           float_of_bits(pairs[i] & upper));
    memcpy(&sum, sums, sizeof sum);
    return sum;
}
#endif
