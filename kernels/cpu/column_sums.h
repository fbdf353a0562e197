/* Sums of columns whose error does not grow with the number of rows: a few rows are added up in
 * single precision, and these sums in double precision. For kernels that come by row after row. */
#ifndef TINYGRAD_CHAR_COLUMN_SUMS_H
#define TINYGRAD_CHAR_COLUMN_SUMS_H

#include <stdlib.h>

#include "simd.h"

enum { BLOCK_ROWS = 32 };

typedef struct {
    double *totals;
    float *block;
    int64_t columns, rows; /* of the block */
} ColumnSums;

/* Returns 0, and -1 where memory is short. */
INLINE int column_sums_begin(ColumnSums *sums, int64_t columns)
{
    const size_t size = (size_t)columns * (sizeof(double) + sizeof(float));
    sums->totals = calloc(size + 1, 1);
    sums->block = (float *)(sums->totals + columns);
    sums->columns = columns;
    sums->rows = 0;
    return sums->totals ? 0 : -1;
}

INLINE void column_sums_end_block(ColumnSums *sums)
{
    double *const totals = sums->totals;
    float *const block = sums->block;
#pragma omp simd
    for (int64_t j = 0; j < sums->columns; j++) {
        totals[j] += (double)block[j];
        block[j] = 0;
    }
    sums->rows = 0;
}

/* Says that a row has been added to `block`. */
INLINE void column_sums_end_row(ColumnSums *sums)
{
    if (++sums->rows == BLOCK_ROWS)
        column_sums_end_block(sums);
}

/* Adds a row, of as many columns as `column_sums_begin` was told. */
INLINE void column_sums_add(ColumnSums *sums, const float *row, int64_t columns)
{
    float *const block = sums->block;
#pragma omp simd
    for (int64_t j = 0; j < columns; j++)
        block[j] += row[j];
    column_sums_end_row(sums);
}

/* Writes the sums, and ends them. */
INLINE void column_sums_finish(ColumnSums *sums, float *result)
{
    const double *const totals = sums->totals;
    const float *const block = sums->block;
#pragma omp simd
    for (int64_t j = 0; j < sums->columns; j++)
        result[j] = (float)(totals[j] + (double)block[j]);
    free(sums->totals);
}

#endif
