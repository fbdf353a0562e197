/* Embedding: see embedding.py. idx (count), weight and grad_weight (rows, columns), y and grad
 * (count, columns), addend (period, columns) or null. Each returns whether every index lies within
 * the rows, and ends where not. */
#include "fused.h"

MULTIVERSION int64_t embedding_forward(const int64_t *idx, const float *weight,
                                       const float *addend, float *y, int64_t count,
                                       int64_t period, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < count; i++, y += columns) {
        if (idx[i] < 0 || idx[i] >= rows)
            return 0;
        const float *const row = weight + idx[i] * columns;
        if (!addend) {
            memcpy(y, row, (size_t)columns * sizeof(float));
            continue;
        }
        const float *const beside = addend + i % period * columns;
        for (int64_t j = 0; j < columns; j++)
            y[j] = row[j] + beside[j];
    }
    return 1;
}

/* Adds up in the order of the indices. */
MULTIVERSION int64_t embedding_backward(const float *grad, const int64_t *idx, float *grad_weight,
                                        int64_t count, int64_t rows, int64_t columns)
{
    memset(grad_weight, 0, (size_t)(rows * columns) * sizeof(float));
    for (int64_t i = 0; i < count; i++, grad += columns) {
        if (idx[i] < 0 || idx[i] >= rows)
            return 0;
        float *const row = grad_weight + idx[i] * columns;
        for (int64_t j = 0; j < columns; j++)
            row[j] += grad[j];
    }
    return 1;
}
