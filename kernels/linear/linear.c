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

/* Returns sum + x y. The product of two numbers in bfloat16 is exact; where it is too large or too
 * small for a float32, only one rounding is the same on all processors. */
INLINE float added(float sum, float x, float y, int bf16)
{
    return bf16 ? __builtin_fmaf(to_bfloat16(x), to_bfloat16(y), sum) : sum + x * y;
}

/* The weights are read once, in the order in which they lie in memory: that is what takes the time,
 * and goes best if a processor is asked for them early. */
INLINE void compute(const Linear *a, int64_t first, int64_t last, int bf16)
{
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
#ifdef __GNUC__
                    __builtin_prefetch(weight + i + AHEAD);
                    __builtin_prefetch(weight + i + AHEAD + LANES / 2);
#endif
                    for (int64_t lane = 0; lane < LANES; lane++)
                        sums[lane] = added(sums[lane], x[i + lane], weight[i + lane], bf16);
                }
                for (int64_t i = whole; i < end; i++)
                    sum = added(sum, x[i], weight[i], bf16);
                for (int64_t half = LANES / 2; half > 0; half /= 2)
                    for (int64_t lane = 0; lane < half; lane++)
                        sums[lane] += sums[lane + half];
                sum += sums[0];
            }
            a->y[row * a->outputs + o] = sum;
        }
    }
}

MULTIVERSION static void some_outputs(void *job, int64_t first, int64_t last)
{
    compute(job, first, last, 0);
}

MULTIVERSION static void some_outputs_bf16(void *job, int64_t first, int64_t last)
{
    compute(job, first, last, 1);
}

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
    parallel_for(some_outputs_bf16, &job, outputs, threads);
}
