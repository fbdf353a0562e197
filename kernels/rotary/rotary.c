/* Rotary positions: see reference.py for the equations. qkv (sequences, length, 3, heads, size);
 * `angles` (positions, size) holds the cosines of a position, then its sines. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast") /* a multiplication and an addition are one operation */
#endif
#include <math.h>

#include "kernel.h"

#define EPS 1e-6f

/* The sum of x times y. */
INLINE float dot(const float *x, const float *y, int64_t size)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < size; j++)
        sum += x[j] * y[j];
    return sum;
}

/* Turns x, times `scale`, by the angles' `sign`. x and y are the same, or do not overlap. */
INLINE void turn(const float *x, const float *angles, float scale, float sign, float *y,
                 int64_t half)
{
#pragma omp simd
    for (int64_t j = 0; j < half; j++) {
        const float cosine = angles[j], sine = sign * angles[half + j];
        const float first = scale * x[j], second = scale * x[half + j];
        y[j] = first * cosine - second * sine;
        y[half + j] = first * sine + second * cosine;
    }
}

INLINE float inverse_size(const float *x, int64_t size)
{
    return 1 / sqrtf(dot(x, x, size) / (float)size + EPS);
}

/* Turns the queries and keys of positions from `start` on; -1 where one has no angles. */
INLINE int turn_all(const float *qkv, const float *angles, int64_t start, float *y,
                    int64_t sequences, int64_t length, int64_t heads, int64_t size,
                    int64_t positions, int64_t normalize)
{
    if (start < 0 || start > positions - length)
        return -1;
    for (int64_t b = 0; b < sequences; b++)
        for (int64_t t = 0; t < length; t++, qkv += heads * size)
            for (int64_t head = 0; head < 2 * heads; head++, qkv += size, y += size) {
                const float scale = normalize ? inverse_size(qkv, size) : 1;
                turn(qkv, angles + (start + t) * size, scale, 1, y, size / 2);
            }
    return 0;
}

/* y (sequences, length, 2, heads, size). */
KERNEL(int, rotary_forward, IN(qkv, sequences * length * 3 * heads * size),
       IN(angles, positions * size), OUT(y, sequences * length * 2 * heads * size),
       COUNT(sequences), COUNT(length), COUNT(heads), COUNT(size), COUNT(positions),
       COUNT(normalize))
{
    return turn_all(qkv, angles, 0, y, sequences, length, heads, size, positions, normalize);
}

/* The same for positions that follow the first `filled`. */
KERNEL(int, rotary_cached, IN(qkv, sequences * length * 3 * heads * size),
       IN(angles, positions * size), IN_INT64(filled, 1),
       OUT(y, sequences * length * 2 * heads * size), COUNT(sequences), COUNT(length), COUNT(heads),
       COUNT(size), COUNT(positions), COUNT(normalize))
{
    return turn_all(qkv, angles, *filled, y, sequences, length, heads, size, positions, normalize);
}

/* Changes grad (sequences, length, 3, heads, size). qkv may be NULL, where nothing was normalised.
 * -1 where there are no angles of a position. */
KERNEL(int, rotary_backward, OUT(grad, sequences * length * 3 * heads * size),
       OPTIONAL(qkv, sequences * length * 3 * heads * size), IN(angles, positions * size),
       COUNT(sequences), COUNT(length), COUNT(heads), COUNT(size), COUNT(positions))
{
    if (length > positions)
        return -1;
    const float *x = qkv;
    for (int64_t b = 0; b < sequences; b++)
        for (int64_t t = 0; t < length; t++) {
            for (int64_t head = 0; head < 2 * heads; head++, grad += size) {
                turn(grad, angles + t * size, 1, -1, grad, size / 2);
                if (!qkv)
                    continue;
                const float scale = inverse_size(x, size);
                const float mean = scale * scale * dot(grad, x, size) / (float)size;
#pragma omp simd
                for (int64_t j = 0; j < size; j++)
                    grad[j] = scale * (grad[j] - mean * x[j]);
                x += size;
            }
            grad += heads * size;
            x = qkv ? x + heads * size : NULL;
        }
    return 0;
}
