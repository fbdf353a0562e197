/* Residual connections: see reference.py for the equations. z, x, grad (rows, columns). */
#include "column_sums.h"
#include "kernel.h"
#include "philox.h"

/* z = x + dropout(z + bias); bias and x may be NULL, and threshold 0 is no dropout. */
KERNEL(void, residual_forward, OUT(z, rows * columns), OPTIONAL(bias, columns),
       OPTIONAL(x, rows * columns), COUNT(rows), COUNT(columns), SEED(seed), CALL(call),
       COUNT(threshold), REAL(scale))
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
KERNEL(int, residual_backward, IN(grad, rows * columns), OUT(grad_z, rows * columns),
       OPTIONAL_OUT(grad_bias, columns), COUNT(rows), COUNT(columns), SEED(seed), CALL(call),
       COUNT(threshold), REAL(scale))
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, scale);
    ColumnSums sums = {0};
    if (grad_bias && column_sums_begin(&sums, columns) < 0)
        return -1;
    for (int64_t i = 0; i < rows; i++, grad += columns, grad_z += columns) {
        dropout_apply(&mask, i * columns, columns, grad, grad_z);
        if (grad_bias)
            column_sums_add(&sums, grad_z, columns);
    }
    if (grad_bias)
        column_sums_finish(&sums, grad_bias);
    return 0;
}
