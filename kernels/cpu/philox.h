/* The masks of kernels/dropout/reference.py's DropoutKey: which elements dropout keeps.
 *
 * Sixteen random bits for each element, from Philox4x64-10 (Salmon et al. 2011, "Parallel random
 * numbers: as easy as 1, 2, 3"): one counter gives those of a group of sixteen elements, so that
 * any part of a mask can be drawn by itself. Elements are counted over the whole mask. */
#ifndef TINYGRAD_CHAR_PHILOX_H
#define TINYGRAD_CHAR_PHILOX_H

#include "simd.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the parts of a word are read as a little-endian processor has them in memory"
#endif

enum { PHILOX_ROUNDS = 10, PHILOX_LANES = 16, DROPOUT_CHUNK = 512 };

/* What one mask is made of. */
typedef struct {
    uint64_t keys[PHILOX_ROUNDS][2]; /* of each round */
    int32_t threshold;               /* elements whose bits are below it are dropped */
    float scale;                     /* what the others are multiplied by */
} DropoutMask;

/* Room for the bits of a chunk, which need not begin or end with a group. */
typedef uint16_t DropoutBits[DROPOUT_CHUNK + PHILOX_LANES];

INLINE DropoutMask dropout_mask(uint64_t seed, uint64_t call, int64_t threshold, float scale)
{
    DropoutMask mask = {.threshold = (int32_t)threshold, .scale = scale};
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        mask.keys[round][0] = seed + (uint64_t)round * 0x9E3779B97F4A7C15u;
        mask.keys[round][1] = call + (uint64_t)round * 0xBB67AE8584CAA73Bu;
    }
    return mask;
}

/* The 128 bits of a product. */
INLINE uint64_t philox_product(uint64_t a, uint64_t b, uint64_t *high)
{
#ifdef __SIZEOF_INT128__
    const unsigned __int128 product = (unsigned __int128)a * b;
    *high = (uint64_t)(product >> 64);
    return (uint64_t)product;
#else
    const uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), rest = a0 * b1 + (uint32_t)middle;
    *high = a1 * b1 + (middle >> 32) + (rest >> 32);
    return a * b;
#endif
}

/* Writes the bits of a group: four to each of four words, lowest first. */
INLINE void philox_group(const DropoutMask *mask, uint64_t group, uint16_t *bits)
{
    /* NumPy's generator counts up before it draws, hence from 1 */
    uint64_t a = group + 1, b = 0, c = 0, d = 0;
#pragma GCC unroll 10
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t high_a, high_c;
        const uint64_t low_a = philox_product(0xD2E7470EE14C6C93u, a, &high_a);
        const uint64_t low_c = philox_product(0xCA5A826395121157u, c, &high_c);
        a = high_c ^ b ^ mask->keys[round][0];
        c = high_a ^ d ^ mask->keys[round][1];
        b = low_c;
        d = low_a;
    }
    const uint64_t words[4] = {a, b, c, d};
    memcpy(bits, words, sizeof words);
}

/* Returns the bits, within `room`, of the `count` <= DROPOUT_CHUNK elements from `start` on. */
INLINE const uint16_t *dropout_bits(const DropoutMask *mask, int64_t start, int64_t count,
                                           uint16_t *room)
{
    const int64_t first = start / PHILOX_LANES, skipped = start % PHILOX_LANES;
    for (int64_t group = 0; group * PHILOX_LANES < skipped + count; group++)
        philox_group(mask, (uint64_t)(first + group), room + PHILOX_LANES * group);
    return room + skipped;
}

/* What becomes of an element with these bits: 0 where it is dropped, even if it is infinite. */
INLINE float dropout_of(const DropoutMask *mask, uint16_t bits, float x)
{
    const float kept = x * mask->scale; /* computed in any case, so that loops vectorise */
    return (int32_t)bits >= mask->threshold ? kept : 0.0f;
}

/* What an element with these bits is multiplied by, where it is finite. */
INLINE float dropout_factor(const DropoutMask *mask, uint16_t bits)
{
    const float scale = mask->scale; /* read in any case, so that loops vectorise */
    return (int32_t)bits >= mask->threshold ? scale : 0.0f;
}

/* Drops or scales the `count` elements of the mask from `start` on; y may be x. */
INLINE void dropout_apply(const DropoutMask *mask, int64_t start, int64_t count,
                                 const float *x, float *y)
{
    DropoutBits room;
    for (int64_t done = 0; done < count; done += DROPOUT_CHUNK) {
        const int64_t size = count - done < DROPOUT_CHUNK ? count - done : DROPOUT_CHUNK;
        const uint16_t *bits = dropout_bits(mask, start + done, size, room);
        for (int64_t i = 0; i < size; i++)
            y[done + i] = dropout_of(mask, bits[i], x[done + i]);
    }
}

#endif
