/* The gradient of a linear layer's bias: see linear.py. The products are BLAS's. */
#include "fused.h"

/* Adds the rows of grad (rows, columns) to sums, which starts as zeros, four at a time. */
MULTIVERSION void column_sums(const float *grad, float *sums, int64_t rows, int64_t columns)
{
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4, grad += 4 * columns)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += (grad[j] + grad[columns + j])
                       + (grad[2 * columns + j] + grad[3 * columns + j]);
    for (; i < rows; i++, grad += columns)
        for (int64_t j = 0; j < columns; j++)
            sums[j] += grad[j];
}
