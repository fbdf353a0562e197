/* The fused kernels for the CPU, and what they share.
 *
 * All arrays are float32, C-contiguous and do not overlap unless said otherwise. Each function is
 * compiled for several instruction sets, of which the processor's best is taken when the library
 * is loaded. No function changes the floating-point state.
 */
#ifndef TINYGRAD_CHAR_FUSED_H
#define TINYGRAD_CHAR_FUSED_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "philox.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDER_REGISTERS
#endif
#if defined(HAS_WIDER_REGISTERS) && !defined(__clang__) && defined(__gnu_linux__)
#define MULTIVERSION \
    __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#else
#define MULTIVERSION
#endif

/* exp(x) to about one unit in the last place, without branches, so that loops of it vectorise.
 * x = n log 2 + r with |r| <= log(2) / 2; exp(r) by the polynomial of Cephes (S. Moshier); times
 * 2^n. Below -87.3 the result, which would not be normal, is 0; above 88.7 it is infinite. */
static inline __attribute__((always_inline)) float exp_float(float x)
{
    const float low = -87.33654f, high = 88.72283f, shift = 12582912.0f; /* 1.5 * 2^23 */
    float z = x < low ? low : x; /* a NaN stays what it is */
    z = z > high ? high : z;
    float n = (z * 1.44269504f + shift) - shift;
    float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    /* 2^n as 2^(n/2) squared, since 2^128 is not a float */
    union { float number; int32_t bits; } half, rest;
    int32_t whole = (int32_t)n;
    int32_t first = whole >> 1;
    half.bits = (first + 127) << 23;
    rest.bits = (whole - first + 127) << 23;
    p = p * half.number * rest.number;
    p = x < low ? 0.0f : p;
    return x > high ? INFINITY : p;
}

void layernorm_forward(const float *x, const float *weight, const float *bias, float *y,
                       float *mean, float *rstd, int64_t rows, int64_t channels, float eps);
void layernorm_backward(const float *grad, const float *x, const float *weight,
                        const float *mean, const float *rstd, float *grad_x, float *grad_weight,
                        float *grad_bias, int64_t rows, int64_t channels);

/* An array (B, H, T, D) with any strides but that of its last axis, which is contiguous. */
typedef struct {
    float *data;
    int64_t sequence, head, row; /* strides, in numbers */
} Heads;

typedef struct {
    int64_t heads; /* of a sequence; in all, they are counted sequence after sequence */
    int64_t queries, keys, size, value_size;
    int64_t seen; /* how many keys the first query sees; each further query sees one more */
    float scale;
    Heads q, k, v, out, grad, grad_q, grad_k, grad_v;
    float *logsumexp;        /* contiguous */
    const DropoutMask *mask; /* NULL where nothing is dropped */
} Attention;

/* Both work on the heads from `first` to before `last`; -1 if there is no memory for it. */
int attention_forward(const Attention *a, int64_t first, int64_t last);
int attention_backward(const Attention *a, int64_t first, int64_t last);
/* Takes the widest vector registers that there are, of at most this many numbers; returns how
 * many. To be called first. */
int64_t attention_choose_lanes(int64_t most);

void dropout_masked(const float *x, float *y, int64_t size, uint64_t seed, uint64_t call,
                    int64_t threshold, float scale);
void cross_entropy_forward(const float *logits, const int64_t *targets, float *losses,
                           float *logsumexp, int64_t rows, int64_t classes);
void cross_entropy_backward(const float *logits, const int64_t *targets, const float *logsumexp,
                            float *grad_logits, int64_t rows, int64_t classes, float scale);
void adamw_update(float *parameter, const float *grad, float *exp_avg, float *exp_avg_sq,
                  int64_t size, float grad_scale, float decay, float addition, float rate1,
                  float beta2, float rate2, float correction, float eps, float step_size);

#endif
