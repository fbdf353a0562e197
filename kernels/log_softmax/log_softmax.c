/* Logarithm of the softmax of rows: see reference.py for the equations. Arrays (rows, columns);
 * what is written may lie where x, grad or y is. */
#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    const float *x, *grad, *y;
    float *to;
    int64_t columns;
} Rows;

MULTIVERSION static void forward(void *job, int64_t first, int64_t last)
{
    const Rows *const a = job;
    for (int64_t i = first; i < last; i++) {
        const float *const x = a->x + i * a->columns;
        float *const y = a->to + i * a->columns;
        float peak = -INFINITY;
        double total = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t j = 0; j < a->columns; j++)
            peak = x[j] > peak ? x[j] : peak; /* a NaN reaches the sum */
        for (int64_t start = 0, end; start < a->columns; start = end) {
            end = part_end(start, a->columns);
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t j = start; j < end; j++)
                part += exp_float(x[j] - peak);
            total += (double)part;
        }
        const float rest = logf((float)total);
#pragma omp simd
        for (int64_t j = 0; j < a->columns; j++)
            y[j] = (x[j] - peak) - rest;
    }
}

MULTIVERSION static void backward(void *job, int64_t first, int64_t last)
{
    const Rows *const a = job;
    for (int64_t i = first; i < last; i++) {
        const float *const grad = a->grad + i * a->columns, *const y = a->y + i * a->columns;
        float *const dx = a->to + i * a->columns;
        double total = 0;
        for (int64_t start = 0, end; start < a->columns; start = end) {
            end = part_end(start, a->columns);
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t j = start; j < end; j++)
                part += grad[j];
            total += (double)part;
        }
        const float sum = (float)total;
#pragma omp simd
        for (int64_t j = 0; j < a->columns; j++)
            dx[j] = grad[j] - exp_float(y[j]) * sum;
    }
}

KERNEL_PLAIN(void, log_softmax_forward, IN(x, rows * columns), OUT(y, rows * columns), COUNT(rows),
             COUNT(columns), COUNT(threads))
{
    parallel_for(forward, &(Rows){.x = x, .to = y, .columns = columns}, rows, threads);
}

KERNEL_PLAIN(void, log_softmax_backward, IN(grad, rows * columns), IN(y, rows * columns),
             OUT(grad_x, rows * columns), COUNT(rows), COUNT(columns), COUNT(threads))
{
    Rows job = {.grad = grad, .y = y, .to = grad_x, .columns = columns};
    parallel_for(backward, &job, rows, threads);
}
