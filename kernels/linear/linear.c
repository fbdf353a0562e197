/* A linear layer on few rows: see reference.py, and product.c for more rows. */
#include "bfloat16.h"
#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    const float *x, *weight, *bias;
    float *y;
    int64_t rows, inputs, outputs;
} Linear;

enum { LANES = 32, AHEAD = 256, PART = 8192 }; /* elements that are added up by themselves */

/* The weights are read once, in the order in which they lie in memory: that is what takes the time,
 * and goes best if a processor is asked for them early. */
INLINE void ask_for(const float *weight)
{
#ifdef __GNUC__
    __builtin_prefetch(weight + AHEAD);
    __builtin_prefetch(weight + AHEAD + LANES / 2);
#else
    (void)weight;
#endif
}

/* Adds the products of two rows' elements: to sums of LANES parts, and what is left to `sum`, which
 * it returns. */
typedef float AddProducts(const float *x, const float *weight, int64_t count, float *sums,
                          float sum);

/* What is left, of numbers rounded to bfloat16. */
INLINE float add_rest(const float *x, const float *weight, int64_t first, int64_t count, float sum)
{
    for (int64_t i = first; i < count; i++)
        sum = __builtin_fmaf(to_bfloat16(x[i]), to_bfloat16(weight[i]), sum);
    return sum;
}

/* The products of numbers rounded to bfloat16, of which pairs of neighbours are added up
 * together. */
INLINE float add_products_bf16(const float *x, const float *weight, int64_t count, float *sums,
                               float sum)
{
    const int64_t whole = count - count % (2 * LANES);
    for (int64_t i = 0; i < whole; i += 2 * LANES) {
        ask_for(weight + i);
        ask_for(weight + i + LANES);
        for (int64_t lane = 0; lane < LANES; lane++) {
            const float *const a = x + i + 2 * lane, *const b = weight + i + 2 * lane;
            sums[lane] = add_pair(sums[lane], to_bfloat16(a[0]), to_bfloat16(a[1]),
                                  to_bfloat16(b[0]), to_bfloat16(b[1]));
        }
    }
    return add_rest(x, weight, whole, count, sum);
}

#if HAS_BF16
BF16_TARGET INLINE __m512bh pairs_of(const float *x)
{
    return _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
}

/* The same to the same bits, by the instruction for it. */
BF16_TARGET INLINE float add_products_by_instruction(const float *x, const float *weight,
                                                     int64_t count, float *sums, float sum)
{
    const int64_t whole = count - count % (2 * LANES);
    __m512 low = _mm512_loadu_ps(sums), high = _mm512_loadu_ps(sums + 16);
    for (int64_t i = 0; i < whole; i += 2 * LANES) {
        ask_for(weight + i);
        ask_for(weight + i + LANES);
        low = _mm512_dpbf16_ps(low, pairs_of(weight + i), pairs_of(x + i));
        high = _mm512_dpbf16_ps(high, pairs_of(weight + i + LANES), pairs_of(x + i + LANES));
    }
    _mm512_storeu_ps(sums, low);
    _mm512_storeu_ps(sums + 16, high);
    return add_rest(x, weight, whole, count, sum);
}
#endif

INLINE void compute(const Linear *a, int64_t first, int64_t last, AddProducts *add)
{
    for (int64_t o = first; o < last; o++) {
        const float *const weight = a->weight + o * a->inputs;
        for (int64_t row = 0; row < a->rows; row++) {
            const float *const x = a->x + row * a->inputs;
            float sum = a->bias ? a->bias[o] : 0;
            for (int64_t start = 0; start < a->inputs; start += PART) {
                const int64_t count = a->inputs - start < PART ? a->inputs - start : PART;
                float sums[LANES] = {0};
                sum = add(x + start, weight + start, count, sums, sum);
                for (int64_t half = LANES / 2; half > 0; half /= 2)
                    for (int64_t lane = 0; lane < half; lane++)
                        sums[lane] += sums[lane + half];
                sum += sums[0];
            }
            a->y[row * a->outputs + o] = sum;
        }
    }
}

/* In one function, which compilers make a tenth faster than `compute` and another. */
MULTIVERSION static void some_outputs(void *job, int64_t first, int64_t last)
{
    const Linear *const a = job;
    for (int64_t o = first; o < last; o++) {
        const float *const weight = a->weight + o * a->inputs;
        for (int64_t row = 0; row < a->rows; row++) {
            const float *const x = a->x + row * a->inputs;
            float sum = a->bias ? a->bias[o] : 0;
            for (int64_t start = 0; start < a->inputs; start += PART) {
                const int64_t end = a->inputs - start < PART ? a->inputs : start + PART;
                const int64_t whole = end - end % LANES;
                float sums[LANES] = {0};
                for (int64_t i = start; i < whole; i += LANES) {
                    ask_for(weight + i);
                    for (int64_t lane = 0; lane < LANES; lane++)
                        sums[lane] += x[i + lane] * weight[i + lane];
                }
                for (int64_t i = whole; i < end; i++)
                    sum += x[i] * weight[i];
                for (int64_t half = LANES / 2; half > 0; half /= 2)
                    for (int64_t lane = 0; lane < half; lane++)
                        sums[lane] += sums[lane + half];
                sum += sums[0];
            }
            a->y[row * a->outputs + o] = sum;
        }
    }
}

MULTIVERSION static void some_outputs_bf16(void *job, int64_t first, int64_t last)
{
    compute(job, first, last, add_products_bf16);
}

#if HAS_BF16
BF16_TARGET static void some_outputs_by_instruction(void *job, int64_t first, int64_t last)
{
    compute(job, first, last, add_products_by_instruction);
}
#endif

/* y (rows, outputs) = x (rows, inputs) weight^T + bias, the outputs shared by `threads`. */
KERNEL_PLAIN(void, linear_few_rows, IN(x, rows * inputs), IN(weight, inputs * outputs),
             OPTIONAL(bias, outputs), OUT(y, rows * outputs), COUNT(rows), COUNT(inputs),
             COUNT(outputs), COUNT(threads))
{
    Linear job = {x, weight, bias, y, rows, inputs, outputs};
    parallel_for(some_outputs, &job, outputs, threads);
}

/* The same of x and a weight rounded to bfloat16. */
KERNEL_PLAIN(void, linear_few_rows_bf16, IN(x, rows * inputs), IN(weight, inputs * outputs),
             OPTIONAL(bias, outputs), OUT(y, rows * outputs), COUNT(rows), COUNT(inputs),
             COUNT(outputs), COUNT(threads))
{
    Linear job = {x, weight, bias, y, rows, inputs, outputs};
#if HAS_BF16
    if (bf16_way == BF16_INSTRUCTION) {
        parallel_for(some_outputs_by_instruction, &job, outputs, threads);
        return;
    }
#endif
    parallel_for(some_outputs_bf16, &job, outputs, threads);
}
