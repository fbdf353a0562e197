/* Logarithm of the softmax of rows: see log_softmax.py for the equations. Arrays (rows, columns);
 * what is written may lie where x, grad or y is. */
#include "fused.h"
#include "spread.h"

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

void log_softmax_forward(const float *x, float *y, int64_t rows, int64_t columns, int64_t threads)
{
    spread(forward, &(Rows){.x = x, .to = y, .columns = columns}, rows, threads);
}

void log_softmax_backward(const float *grad, const float *y, float *grad_x, int64_t rows,
                          int64_t columns, int64_t threads)
{
    Rows job = {.grad = grad, .y = y, .to = grad_x, .columns = columns};
    spread(backward, &job, rows, threads);
}
