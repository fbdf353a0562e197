/* The sums of columns: see reduce.py, and column_sums.h for how they keep their digits. */
#include "column_sums.h"

enum { TILE = 8192, NARROW = 64, SIDE = 1024, BLOCK = 64 };

/* totals (columns) += the sums of rows that are `stride` apart. */
INLINE void add_rows_to(double *totals, float *block, const float *x, int64_t rows, int64_t stride,
                        int64_t columns)
{
    while (rows > 0) {
        const int64_t count = rows < BLOCK ? rows : BLOCK;
        memset(block, 0, (size_t)columns * sizeof(float));
        int64_t i = 0;
        for (; i + 4 <= count; i += 4, x += 4 * stride)
            for (int64_t j = 0; j < columns; j++)
                block[j] += (x[j] + x[stride + j]) + (x[2 * stride + j] + x[3 * stride + j]);
        for (; i < count; i++, x += stride)
            for (int64_t j = 0; j < columns; j++)
                block[j] += x[j];
        for (int64_t j = 0; j < columns; j++)
            totals[j] += (double)block[j];
        rows -= count;
    }
}

/* Writes the sums of the columns of x (rows, columns). Returns 0, and -1 where memory is short. */
MULTIVERSION int column_sums(const float *x, float *sums, int64_t rows, int64_t columns)
{
    /* of short rows several are taken for one, of which the parts are added up at the end */
    const int64_t beside = columns > 0 && columns < NARROW ? SIDE / columns : 1;
    const int64_t whole = rows / beside, rest = rows % beside;
    const int64_t tile = columns < TILE ? columns : TILE, width = beside * tile;
    double *const totals = malloc((size_t)width * (sizeof(double) + sizeof(float)) + 1);
    if (!totals)
        return -1;
    float *const block = (float *)(totals + width);
    for (int64_t start = 0; start < columns; start += tile) {
        const int64_t count = columns - start < tile ? columns - start : tile;
        memset(totals, 0, (size_t)width * sizeof(double));
        add_rows_to(totals, block, x + start, whole, beside * columns, beside * count);
        for (int64_t i = 1; i < beside; i++)
            for (int64_t j = 0; j < count; j++)
                totals[j] += totals[i * count + j];
        add_rows_to(totals, block, x + whole * beside * columns + start, rest, columns, count);
        for (int64_t j = 0; j < count; j++)
            sums[start + j] = (float)totals[j];
    }
    free(totals);
    return 0;
}
