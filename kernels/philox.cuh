/* The masks of kernels/dropout.py's DropoutKey: which elements dropout keeps.
 *
 * Sixteen random bits for each element, from Philox4x64-10 (Salmon et al. 2011, "Parallel random
 * numbers: as easy as 1, 2, 3"): the 256 bits of one counter serve sixteen consecutive elements,
 * so any part of a mask can be drawn by itself. */
#pragma once
#include "reduce.cuh"

typedef unsigned long long Word;

/* The bits of sixteen elements: those of element i are the i % 4-th sixteen of word i / 4. */
struct Bits {
    Word words[4];
};

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

    /* The bits of the elements from 16 * group on. */
    __device__ __forceinline__ Bits draw(Word group) const
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
        return {{a, b, c, d}};
    }

    /* The factor, 0 or `scale`, of an element by its sixteen bits, the lowest of `bits`. */
    __device__ __forceinline__ float factor(Word bits) const
    {
        return (static_cast<unsigned>(bits) & 0xffffu) >= threshold ? scale : 0.0f;
    }

    /* The factors of four consecutive elements that a single thread draws, wherever they begin. */
    __device__ __forceinline__ void factors_alone(float (&factors)[4], Word element) const
    {
        const Bits first = draw(element / 16);
        const Bits second = element % 16 > 12 ? draw(element / 16 + 1) : first;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int part = (element + j) % 16;
            const bool next = (element + j) / 16 != element / 16;
            const Word low = part & 4 ? pick(next, first.words[1], second.words[1])
                                      : pick(next, first.words[0], second.words[0]);
            const Word high = part & 4 ? pick(next, first.words[3], second.words[3])
                                       : pick(next, first.words[2], second.words[2]);
            factors[j] = factor((part & 8 ? high : low) >> 16 * (part % 4));
        }
    }

    /* The factors of four consecutive elements in each of four rows, drawn by a warp.
     *
     * Each lane passes its element, a multiple of 4, in the row numbered 0; the next row begins
     * `stride` elements, a multiple of 16, further. Neighbouring lanes have neighbouring
     * elements, and lanes 4 i to 4 i + 3 are within one group of sixteen. So each of them draws
     * the group of another row, and all exchange words. */
    __device__ __forceinline__ void factors_together(float (&factors)[4][4], Word element,
                                                     Word stride) const
    {
        const int member = threadIdx.x % 4;
        Bits bits = draw((element + member * stride) / 16);
        exchange(bits.words[0], bits.words[1], 1);
        exchange(bits.words[2], bits.words[3], 1);
        exchange(bits.words[0], bits.words[2], 2);
        exchange(bits.words[1], bits.words[3], 2);
#pragma unroll
        for (int row = 0; row < 4; row++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                factors[row][j] = factor(bits.words[row] >> 16 * j);
    }

  private:
    static __device__ __forceinline__ Word pick(bool second, Word a, Word b)
    {
        return second ? b : a;
    }

    /* Transposes the 2 x 2 words that this lane and the one at `distance` have. */
    static __device__ __forceinline__ void exchange(Word &low, Word &high, int distance)
    {
        const bool upper = threadIdx.x & distance;
        const Word received = __shfl_xor_sync(ALL_LANES, upper ? low : high, distance);
        if (upper)
            low = received;
        else
            high = received;
    }
};
