/* The sums of columns: see reduce.py, and column_sums.h for how they keep their digits. */
#include "column_sums.h"
#include "kernel.h"

enum { TILE = 8192, NARROW = 64, SIDE = 1024, CACHED = 1 << 22, SHORT = 1024, LINE = 64 };

/* block (columns) += four rows that are `stride` apart. */
INLINE void add_four(float *restrict block, const float *restrict x, int64_t stride,
                     int64_t columns)
{
    for (int64_t j = 0; j < columns; j++)
        block[j] += (x[j] + x[stride + j]) + (x[2 * stride + j] + x[3 * stride + j]);
}

/* block (columns) += one row. */
INLINE void add_one(float *restrict block, const float *restrict x, int64_t columns)
{
    for (int64_t j = 0; j < columns; j++)
        block[j] += x[j];
}

/* totals (columns) += the sums of rows that are `stride` apart, of which `together` are read side
 * by side: 1 or 4. */
INLINE void add_rows_to(double *totals, float *block, const float *x, int64_t rows, int64_t stride,
                        int64_t columns, int64_t together)
{
    while (rows > 0) {
        const int64_t count = rows < 2 * BLOCK_ROWS ? rows : 2 * BLOCK_ROWS;
        memset(block, 0, (size_t)columns * sizeof(float));
        int64_t i = 0;
        for (; i + 4 <= count && together == 4; i += 4, x += 4 * stride)
            add_four(block, x, stride, columns);
        for (; i < count; i++, x += stride)
            add_one(block, x, columns);
        for (int64_t j = 0; j < columns; j++)
            totals[j] += (double)block[j];
        rows -= count;
    }
}

/* Writes the sums (count, columns) over the rows of x (count, rows, columns). Returns 0, and -1
 * where memory is short. */
KERNEL(int, column_sums, IN(x, count * rows * columns), OUT(sums, count * columns), COUNT(count),
       COUNT(rows), COUNT(columns))
{
    /* of short rows several are taken for one, of which the parts are added up at the end */
    const int64_t beside = columns > 0 && columns < NARROW ? SIDE / columns : 1;
    const int64_t whole = rows / beside, rest = rows % beside;
    /* short rows that come from memory are read as one stream, which a processor foresees */
    const int64_t together = count * rows * columns > CACHED && columns <= SHORT ? 1 : 4;
    const int64_t tile = columns < TILE ? columns : TILE;
    const int64_t width = (beside * tile + LINE - 1) / LINE * LINE;
    void *const room = malloc((size_t)width * (sizeof(double) + sizeof(float)) + LINE);
    if (!room)
        return -1;
    double *const totals = (double *)(((uintptr_t)room + LINE - 1) / LINE * LINE);
    float *const block = (float *)(totals + width);
    for (int64_t i = 0; i < count; i++, x += rows * columns, sums += columns)
        for (int64_t start = 0; start < columns; start += tile) {
            const int64_t part = columns - start < tile ? columns - start : tile;
            const float *const last = x + whole * beside * columns;
            memset(totals, 0, (size_t)width * sizeof(double));
            add_rows_to(totals, block, x + start, whole, beside * columns, beside * part, together);
            for (int64_t k = 1; k < beside; k++)
                for (int64_t j = 0; j < part; j++)
                    totals[j] += totals[k * part + j];
            add_rows_to(totals, block, last + start, rest, columns, part, together);
            for (int64_t j = 0; j < part; j++)
                sums[start + j] = (float)totals[j];
        }
    free(room);
    return 0;
}
