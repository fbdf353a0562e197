/* The masks of kernels/dropout/reference.py's DropoutKey: which elements dropout keeps.
 *
 * Sixteen random bits for each element, from Philox4x64-10 (Salmon et al. 2011, "Parallel random
 * numbers: as easy as 1, 2, 3"): the 256 bits of one counter serve sixteen consecutive elements,
 * so any part of a mask can be drawn by itself. One thread draws for sixteen elements what others
 * then ask it for. */
#pragma once

typedef unsigned long long Word;

struct Mask {
    Word seed, call;
    unsigned threshold; /* elements whose bits are below it are dropped */
    float scale;        /* what the others are multiplied by */

    /* `recorded`, where not null, is added to the call's number, so that a recorded graph draws
     * new masks each time that it is replayed. */
    __device__ __forceinline__ Mask(Word seed, Word call, const Word *recorded,
                                    unsigned threshold, float scale)
        : seed(seed), call(recorded ? call + *recorded : call), threshold(threshold), scale(scale)
    {
    }

    /* Which of the sixteen elements from `element` on are kept: bit i is that of the i-th. */
    __device__ __forceinline__ unsigned kept(Word element) const
    {
        const unsigned first = element % 16;
        unsigned bits = 0;
#pragma unroll 1 /* the code is long, and mostly one group is all */
        for (unsigned i = 0; 16 * i < 16 + first; i++)
            bits |= draw(element / 16 + i) << 16 * i;
        return bits >> first & 0xffffu;
    }

    /* What becomes of an element whose bit is the j-th: 0 where it is dropped, even if it is
     * infinite. */
    __device__ __forceinline__ float apply(unsigned kept, int j, float x) const
    {
        return kept >> j & 1u ? x * scale : 0.0f;
    }

  private:
    /* What is kept of a group of sixteen elements. */
    __device__ __forceinline__ unsigned draw(Word group) const
    {
        /* NumPy's generator counts up before it draws, hence from 1 */
        Word a = group + 1, b = 0, c = 0, d = 0, first = seed, second = call;
#pragma unroll
        for (int round = 0; round < 10; round++) {
            const Word high_a = __umul64hi(0xD2E7470EE14C6C93ull, a);
            const Word low_a = 0xD2E7470EE14C6C93ull * a;
            const Word high_c = __umul64hi(0xCA5A826395121157ull, c);
            const Word low_c = 0xCA5A826395121157ull * c;
            a = high_c ^ b ^ first;
            b = low_c;
            c = high_a ^ d ^ second;
            d = low_a;
            first += 0x9E3779B97F4A7C15ull;
            second += 0xBB67AE8584CAA73Bull;
        }
        return compare(a) | compare(b) << 4 | compare(c) << 8 | compare(d) << 12;
    }

    __device__ __forceinline__ unsigned compare(Word bits) const
    {
        unsigned result = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned own = static_cast<unsigned>(bits >> 16 * i) & 0xffffu;
            result |= (own >= threshold ? 1u : 0u) << i;
        }
        return result;
    }
};
