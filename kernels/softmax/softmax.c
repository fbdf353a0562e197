/* Softmax of rows: see reference.py for the equations. Arrays (count, columns), of matrices that have
 * `rows` rows each. What is written may lie where x, grad or y is.
 *
 * A row that is in the cache is passed over three times: for the peak, for the exponentials and
 * their sum, and to divide by it. Of a row that sees its first ones only, the others are neither
 * read nor computed. */
#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    const float *x, *grad, *y;
    float *to;
    int64_t rows, columns, causal, masked;
    float scale;
} Rows;

/* How many elements row i sees: with a causal mask the last row of a matrix sees all. */
INLINE int64_t seen_of(const Rows *a, int64_t i)
{
    const int64_t hidden = a->causal ? a->rows - 1 - i % a->rows : 0;
    return hidden < a->columns ? a->columns - hidden : 0;
}

MULTIVERSION static void forward(void *job, int64_t first, int64_t last)
{
    const Rows *const a = job;
    const float sign = a->scale < 0 ? -1 : a->scale == 0 ? 0 : 1;
    const float magnitude = a->scale == 0 ? 1 : fabsf(a->scale);
    for (int64_t i = first; i < last; i++) {
        const float *const x = a->x + i * a->columns;
        float *const y = a->to + i * a->columns;
        const int64_t seen = seen_of(a, i);
        float peak = -INFINITY;
        double total = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t j = 0; j < seen; j++) {
            const float z = x[j] * sign;
            peak = z > peak ? z : peak; /* a NaN reaches the sum */
        }
        if (a->masked && peak == -INFINITY)
            peak = 0;
        for (int64_t start = 0, end; start < seen; start = end) {
            end = part_end(start, seen);
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t j = start; j < end; j++) {
                const float e = exp_float((x[j] * sign - peak) * magnitude);
                y[j] = e;
                part += e;
            }
            total += (double)part;
        }
        /* where a mask leaves nothing the row is zeros, not NaN */
        const float factor = a->masked && total == 0 ? 0 : 1 / (float)total;
#pragma omp simd
        for (int64_t j = 0; j < seen; j++)
            y[j] *= factor;
        for (int64_t j = seen; j < a->columns; j++)
            y[j] = 0 * factor; /* NaN where the whole row is, as in the reference */
    }
}

MULTIVERSION static void backward(void *job, int64_t first, int64_t last)
{
    const Rows *const a = job;
    const float scale = a->scale;
    for (int64_t i = first; i < last; i++) {
        const float *const grad = a->grad + i * a->columns, *const y = a->y + i * a->columns;
        float *const dx = a->to + i * a->columns;
        const int64_t seen = seen_of(a, i);
        double total = 0;
        for (int64_t start = 0, end; start < seen; start = end) {
            end = part_end(start, seen);
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t j = start; j < end; j++)
                part += grad[j] * y[j];
            total += (double)part;
        }
        const float sum = (float)total;
#pragma omp simd
        for (int64_t j = 0; j < seen; j++)
            dx[j] = (grad[j] * y[j] - y[j] * sum) * scale;
        for (int64_t j = seen; j < a->columns; j++)
            dx[j] = 0 * sum;
    }
}

/* y = softmax(scale * x); row i of a causal matrix sees what lies up to the diagonal that ends in
 * its last corner. Where `masked`, as every causal one is, -infinity is what is not there. */
KERNEL_PLAIN(void, softmax_forward, IN(x, count * columns), OUT(y, count * columns), COUNT(count),
             COUNT(rows), COUNT(columns), COUNT(causal), COUNT(masked), REAL(scale), COUNT(threads))
{
    Rows job = {.x = x, .to = y, .rows = rows, .columns = columns, .scale = scale};
    job.causal = causal;
    job.masked = causal || masked;
    parallel_for(forward, &job, count, threads);
}

/* grad_x = scale * y * (grad - sum(grad * y)). */
KERNEL_PLAIN(void, softmax_backward, IN(grad, count * columns), IN(y, count * columns),
             OUT(grad_x, count * columns), COUNT(count), COUNT(rows), COUNT(columns), COUNT(causal),
             REAL(scale), COUNT(threads))
{
    Rows job = {.grad = grad, .y = y, .to = grad_x, .rows = rows, .columns = columns};
    job.causal = causal;
    job.scale = scale;
    parallel_for(backward, &job, count, threads);
}
