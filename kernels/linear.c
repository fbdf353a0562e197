/* A linear layer on few rows, and the gradient of its bias: see linear.py. Other products are
 * BLAS's. */
#include "fused.h"
#include "spread.h"

typedef struct {
    const float *x, *weight, *bias;
    float *y;
    int64_t rows, inputs, outputs;
} Linear;

enum { LANES = 32, AHEAD = 256 };

/* The weights are read once, in the order in which they lie in memory: that is what takes the time,
 * and goes best if a processor is asked for them early. */
MULTIVERSION static void some_outputs(void *job, int64_t first, int64_t last)
{
    const Linear *const a = job;
    const int64_t whole = a->inputs - a->inputs % LANES;
    for (int64_t o = first; o < last; o++) {
        const float *const weight = a->weight + o * a->inputs;
        for (int64_t row = 0; row < a->rows; row++) {
            const float *const x = a->x + row * a->inputs;
            float sums[LANES] = {0}, sum = a->bias ? a->bias[o] : 0;
            for (int64_t i = 0; i < whole; i += LANES) {
#ifdef __GNUC__
                __builtin_prefetch(weight + i + AHEAD);
                __builtin_prefetch(weight + i + AHEAD + LANES / 2);
#endif
                for (int64_t lane = 0; lane < LANES; lane++)
                    sums[lane] += x[i + lane] * weight[i + lane];
            }
            for (int64_t i = whole; i < a->inputs; i++)
                sum += x[i] * weight[i];
            for (int64_t half = LANES / 2; half > 0; half /= 2)
                for (int64_t lane = 0; lane < half; lane++)
                    sums[lane] += sums[lane + half];
            a->y[row * a->outputs + o] = sum + sums[0];
        }
    }
}

/* y (rows, outputs) = x (rows, inputs) weight^T + bias, the outputs spread over `threads`. */
void linear_few_rows(const float *x, const float *weight, const float *bias, float *y, int64_t rows,
                     int64_t inputs, int64_t outputs, int64_t threads)
{
    Linear job = {x, weight, bias, y, rows, inputs, outputs};
    spread(some_outputs, &job, outputs, threads);
}

/* cblas_sgemm, with whole numbers of four or eight bytes: whose library NumPy uses, see blas.py. */
typedef void Sgemm4(int order, int transpose_a, int transpose_b, int32_t rows, int32_t columns,
                    int32_t depth, float alpha, const float *a, int32_t a_row, const float *b,
                    int32_t b_row, float beta, float *c, int32_t c_row);
typedef void Sgemm8(int order, int transpose_a, int transpose_b, int64_t rows, int64_t columns,
                    int64_t depth, float alpha, const float *a, int64_t a_row, const float *b,
                    int64_t b_row, float beta, float *c, int64_t c_row);
static Sgemm4 *sgemm4;
static Sgemm8 *sgemm8;
enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };

/* Takes the function at an address for product(); returns the bytes of its whole numbers. */
int64_t bind_sgemm(int64_t address, int64_t whole_bytes)
{
    sgemm4 = whole_bytes == 4 ? (Sgemm4 *)(intptr_t)address : NULL;
    sgemm8 = whole_bytes == 8 ? (Sgemm8 *)(intptr_t)address : NULL;
    return whole_bytes;
}

/* c (rows, columns) = [c +] a b, of which a (rows, depth) and b (depth, columns) may lie transposed
 * in memory: (depth, rows), (columns, depth). */
void product(const float *a, const float *b, float *c, int64_t rows, int64_t columns,
             int64_t depth, int transpose_a, int transpose_b, int add)
{
    const int ta = transpose_a ? TRANSPOSED : AS_IT_IS, tb = transpose_b ? TRANSPOSED : AS_IT_IS;
    const int64_t a_row = transpose_a ? rows : depth, b_row = transpose_b ? depth : columns;
    const float beta = add ? 1 : 0;
    if (sgemm8)
        sgemm8(ROW_MAJOR, ta, tb, rows, columns, depth, 1, a, a_row, b, b_row, beta, c, columns);
    else
        sgemm4(ROW_MAJOR, ta, tb, (int32_t)rows, (int32_t)columns, (int32_t)depth, 1, a,
               (int32_t)a_row, b, (int32_t)b_row, beta, c, (int32_t)columns);
}

/* y (rows, columns) = a + b, of which b (columns) is added to each row. */
MULTIVERSION void add_rows(const float *a, const float *b, float *y, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            y[i * columns + j] = a[i * columns + j] + b[j];
}

/* Writes the sum of the rows of grad (rows, columns), added up four at a time. */
MULTIVERSION void column_sums(const float *grad, float *sums, int64_t rows, int64_t columns)
{
    memset(sums, 0, (size_t)columns * sizeof(float));
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4, grad += 4 * columns)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += (grad[j] + grad[columns + j])
                       + (grad[2 * columns + j] + grad[3 * columns + j]);
    for (; i < rows; i++, grad += columns)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += grad[j];
}
