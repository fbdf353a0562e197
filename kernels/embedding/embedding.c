/* Embedding: see reference.py. idx (count), weight and grad_weight (rows, columns), y and grad
 * (count, columns), addend (period, columns) or null. Each returns whether every index lies within
 * the rows, and ends where not. */
#include "column_sums.h"
#include "kernel.h"

KERNEL(int64_t, embedding_forward, IN_INT64(idx, count), IN(weight, rows * columns),
       OPTIONAL(addend, period * columns), OUT(y, count * columns), COUNT(count), COUNT(period),
       COUNT(rows), COUNT(columns))
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

/* Adds up in the order of the indices: BLOCK_ROWS for a row of the table in single precision, and
 * these sums in double precision, for which a row gets room when it has its first. Returns -1 where
 * memory is short. */
KERNEL(int64_t, embedding_backward, IN(grad, count * columns), IN_INT64(idx, count),
       OUT(grad_weight, rows * columns), COUNT(count), COUNT(rows), COUNT(columns))
{
    memset(grad_weight, 0, (size_t)(rows * columns) * sizeof(float));
    typedef struct {
        int32_t added, room; /* in the block; the number of its totals, from 1 on */
    } Sum;
    const int64_t most = count / BLOCK_ROWS < rows ? count / BLOCK_ROWS : rows;
    Sum *const sums = calloc((size_t)rows + 1, sizeof(Sum));
    double *const totals = calloc((size_t)(most * columns) + 1, sizeof(double));
    int64_t result = sums && totals ? 1 : -1;
    int32_t rooms = 0;
    for (int64_t i = 0; result == 1 && i < count; i++, grad += columns) {
        if (idx[i] < 0 || idx[i] >= rows) {
            result = 0;
            break;
        }
        float *const row = grad_weight + idx[i] * columns;
        for (int64_t j = 0; j < columns; j++)
            row[j] += grad[j];
        Sum *const sum = &sums[idx[i]];
        if (++sum->added < BLOCK_ROWS)
            continue;
        sum->added = 0;
        if (!sum->room)
            sum->room = ++rooms;
        double *const total = totals + (sum->room - 1) * columns;
        for (int64_t j = 0; j < columns; j++) {
            total[j] += (double)row[j];
            row[j] = 0;
        }
    }
    for (int64_t i = 0; result == 1 && i < rows; i++, grad_weight += columns) {
        if (!sums[i].room)
            continue;
        const double *const total = totals + (sums[i].room - 1) * columns;
        for (int64_t j = 0; j < columns; j++)
            grad_weight[j] = (float)(total[j] + (double)grad_weight[j]);
    }
    free(sums);
    free(totals);
    return result;
}
