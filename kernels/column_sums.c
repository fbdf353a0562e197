/* The sums of columns: see reduce.py, and column_sums.h for how they keep their digits. */
#include "column_sums.h"

enum { TILE = 8192, NARROW = 64, SIDE = 1024, CACHED = 1 << 21, SHORT = 2048, LINE = 16 };

/* block (columns) += four rows that are `stride` apart; asks for the next four, if `ahead`. */
INLINE void add_four(float *block, const float *x, int64_t stride, int64_t columns, int ahead)
{
    int64_t j = 0;
#ifdef __GNUC__
    for (; ahead && j + LINE <= columns; j += LINE) {
        for (int64_t row = 4; row < 8; row++)
            __builtin_prefetch(x + row * stride + j);
        for (int64_t k = j; k < j + LINE; k++)
            block[k] += (x[k] + x[stride + k]) + (x[2 * stride + k] + x[3 * stride + k]);
    }
#endif
    for (; j < columns; j++)
        block[j] += (x[j] + x[stride + j]) + (x[2 * stride + j] + x[3 * stride + j]);
}

/* totals (columns) += the sums of rows that are `stride` apart. */
INLINE void add_rows_to(double *totals, float *block, const float *x, int64_t rows, int64_t stride,
                        int64_t columns, int ahead)
{
    while (rows > 0) {
        const int64_t count = rows < 2 * BLOCK_ROWS ? rows : 2 * BLOCK_ROWS;
        memset(block, 0, (size_t)columns * sizeof(float));
        int64_t i = 0;
        for (; i + 4 <= count; i += 4, x += 4 * stride)
            add_four(block, x, stride, columns, ahead);
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
    /* what does not come from the cache is asked for before, as far as the cache has room for it */
    const int ahead = rows * columns > CACHED && columns <= SHORT;
    const int64_t tile = columns < TILE ? columns : TILE, width = beside * tile;
    double *const totals = malloc((size_t)width * (sizeof(double) + sizeof(float)) + 1);
    if (!totals)
        return -1;
    float *const block = (float *)(totals + width);
    for (int64_t start = 0; start < columns; start += tile) {
        const int64_t count = columns - start < tile ? columns - start : tile;
        memset(totals, 0, (size_t)width * sizeof(double));
        add_rows_to(totals, block, x + start, whole, beside * columns, beside * count, ahead);
        for (int64_t i = 1; i < beside; i++)
            for (int64_t j = 0; j < count; j++)
                totals[j] += totals[i * count + j];
        add_rows_to(totals, block, x + whole * beside * columns + start, rest, columns, count, 0);
        for (int64_t j = 0; j < count; j++)
            sums[start + j] = (float)totals[j];
    }
    free(totals);
    return 0;
}
