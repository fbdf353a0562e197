/* Residual connections: see residual.py for the equations. z, x, grad (rows, columns). */
#include "column_sums.h"
#include "philox.h"

/* z = x + dropout(z + bias); bias and x may be NULL, and threshold 0 is no dropout. */
MULTIVERSION void residual_forward(float *z, const float *bias, const float *x, int64_t rows,
                                   int64_t columns, uint64_t seed, uint64_t call,
                                   int64_t threshold, float scale)
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, scale);
    for (int64_t i = 0; i < rows; i++, z += columns) {
        if (bias)
            for (int64_t j = 0; j < columns; j++)
                z[j] += bias[j];
        if (threshold)
            dropout_apply(&mask, i * columns, columns, z, z);
        if (x)
            for (int64_t j = 0; j < columns; j++)
                z[j] += x[i * columns + j];
    }
}

/* Writes grad_z, and the sum of its rows to grad_bias unless that is NULL. Returns 0, and -1 where
 * memory is short. */
MULTIVERSION int residual_backward(const float *grad, float *grad_z, float *grad_bias,
                                   int64_t rows, int64_t columns, uint64_t seed, uint64_t call,
                                   int64_t threshold, float scale)
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, scale);
    ColumnSums sums = {0};
    if (grad_bias && column_sums_begin(&sums, columns) < 0)
        return -1;
    for (int64_t i = 0; i < rows; i++, grad += columns, grad_z += columns) {
        dropout_apply(&mask, i * columns, columns, grad, grad_z);
        if (grad_bias) {
            float *const block = sums.block;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                block[j] += grad_z[j];
            column_sums_end_row(&sums);
        }
    }
    if (grad_bias)
        column_sums_finish(&sums, grad_bias);
    return 0;
}
