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

/* Numbers of a row that are added up in single precision; these sums are in double precision, so
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
    /* adding 1.5 * 2^23 rounds to a whole number; a float's exponent n - 1 is stored as n + 126 */
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

void linear_few_rows(const float *x, const float *weight, const float *bias, float *y, int64_t rows,
                     int64_t inputs, int64_t outputs, int64_t threads);
void layernorm_forward(const float *x, const float *weight, const float *bias, float *y,
                       float *mean, float *rstd, int64_t rows, int64_t channels, float eps);
int layernorm_backward(const float *grad, const float *x, const float *weight, const float *mean,
                       const float *rstd, const float *addend, float *grad_x, float *grad_weight,
                       float *grad_bias, int64_t rows, int64_t channels);
void bias_activation_forward(const float *z, const float *bias, float *y, int64_t rows,
                             int64_t columns, int64_t kind);
int bias_activation_backward(const float *grad, const float *kept, const float *bias,
                             float *grad_z, float *grad_bias, int64_t rows, int64_t columns,
                             int64_t kind);
void dropout_masked(const float *x, float *y, int64_t size, uint64_t seed, uint64_t call,
                    int64_t threshold, float scale);
void residual_forward(float *z, const float *bias, const float *x, int64_t rows, int64_t columns,
                      uint64_t seed, uint64_t call, int64_t threshold, float scale);
int residual_backward(const float *grad, float *grad_z, float *grad_bias, int64_t rows,
                      int64_t columns, uint64_t seed, uint64_t call, int64_t threshold,
                      float scale);
int column_sums(const float *x, float *sums, int64_t count, int64_t rows, int64_t columns);
int64_t bind_sgemm(int64_t address, int64_t whole_bytes, int64_t largest);
/* Takes the widest registers that there are, of at most `most` numbers; returns how many. */
int64_t product_choose_lanes(int64_t most);
int product(const float *a, const float *b, float *c, int64_t rows, int64_t columns, int64_t depth,
            int transpose_a, int transpose_b, int add, int64_t threads);
void add_rows(const float *a, const float *b, float *y, int64_t rows, int64_t columns,
              int64_t threads);
int64_t count_targets(const int64_t *targets, int64_t rows, int64_t classes, int64_t ignored);
void cross_entropy_forward(const float *logits, const int64_t *targets, float *losses,
                           float *statistics, float *loss, int64_t rows, int64_t classes,
                           int64_t ignored, int64_t divisor);
void cross_entropy_backward(const float *grad, const float *logits, const int64_t *targets,
                            const float *statistics, float *grad_logits, int64_t rows,
                            int64_t classes, int64_t ignored, int64_t divisor);
int64_t embedding_forward(const int64_t *idx, const float *weight, const float *addend, float *y,
                          int64_t count, int64_t period, int64_t rows, int64_t columns);
int64_t embedding_backward(const float *grad, const int64_t *idx, float *grad_weight,
                           int64_t count, int64_t rows, int64_t columns);
void adamw_update(float *parameter, const float *grad, float *exp_avg, float *exp_avg_sq,
                  int64_t size, float grad_scale, float decay, float addition, float rate1,
                  float beta2, float rate2, float correction, float eps, float step_size,
                  int64_t threads);
void sums_of_squares(const float *numbers, double *sums, int64_t size, int64_t chunk,
                     int64_t threads);
void running_mean_forward(const float *x, float *y, int64_t sequences, int64_t length,
                          int64_t channels, int64_t threads);
void running_mean_backward(const float *grad, float *grad_x, int64_t sequences, int64_t length,
                           int64_t channels, int64_t threads);
int running_sum(const float *x, float *y, int64_t count, int64_t length, int64_t columns,
                int64_t threads);
void softmax_forward(const float *x, float *y, int64_t count, int64_t rows, int64_t columns,
                     int64_t causal, int64_t masked, float scale, int64_t threads);
void softmax_backward(const float *grad, const float *y, float *grad_x, int64_t count,
                      int64_t rows, int64_t columns, int64_t causal, float scale, int64_t threads);
void log_softmax_forward(const float *x, float *y, int64_t rows, int64_t columns, int64_t threads);
void log_softmax_backward(const float *grad, const float *y, float *grad_x, int64_t rows,
                          int64_t columns, int64_t threads);
int sampling(const float *logits, const double *uniform, int64_t *tokens, int64_t rows,
             int64_t classes, double temperature, int64_t top_k, double top_p);

#endif
