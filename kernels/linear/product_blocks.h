/* Matrix products by blocks: see product.c for the order.
 *
 * Included once for each width of vector registers, with LANES, ROWS, TARGET and NAME, see tile.h. */
#include "panels.h"

/* result (rows, vectors * LANES) = [result +] left (rows, depth) right (depth, PANEL)
 *
 * left has any strides, `row` and `step`; of a panel's row, the first `vectors` registers are read.
 * Unlike the tile of tile.h, it is for a great depth and a result that is not in the cache. */
TARGET INLINE void NAME(tile)(int rows, int vectors, int64_t depth, const float *left,
                              int64_t left_row, int64_t left_step, const float *right,
                              float *result, int64_t result_row, int add)
{
    NAME(Vector) sum[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(result + i * result_row + v * LANES, 1);
            sum[i][v] = (NAME(Vector)){0};
        }
#pragma GCC unroll 4
    for (int64_t p = 0; p < depth; p++) {
        const NAME(Vector) first = *(const NAME(Vector) *)right;
        const NAME(Vector) second = *(const NAME(Vector) *)(right + (vectors - 1) * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            /* or GCC reads the factors of all rows first, and has no registers left for the sums */
            __asm__ volatile("" ::: "memory");
            const float factor = left[i * left_row];
            sum[i][0] += factor * first;
            if (vectors > 1)
                sum[i][1] += factor * second;
        }
        left += left_step;
        right += PANEL;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            NAME(Vector) *const to = (NAME(Vector) *)(result + i * result_row + v * LANES);
            if (add)
                sum[i][v] += *to;
            *to = sum[i][v];
        }
}

/* A tile of any number of rows, a kind of them in each function: */
#define TILES(name, vectors, left_row, left_step)                                            \
    TARGET static void NAME(name)(int64_t rows, int64_t depth, const float *left,            \
                                  int64_t left_stride, const float *right, float *result,    \
                                  int64_t result_row, int add)                               \
    {                                                                                        \
        switch (rows) {                                                                      \
            EACH_NUMBER_OF_ROWS(vectors, left_row, left_step)                                \
        }                                                                                    \
    }
#define CASE(n, vectors, left_row, left_step)                                                \
    case n:                                                                                  \
        NAME(tile)(n, vectors, depth, left, left_row, left_step, right, result, result_row,  \
                   add);                                                                     \
        break;
#if ROWS == 8
#define EACH_NUMBER_OF_ROWS(...)                                                             \
    CASE(8, __VA_ARGS__) CASE(7, __VA_ARGS__) CASE(6, __VA_ARGS__) CASE(5, __VA_ARGS__)      \
    CASE(4, __VA_ARGS__) CASE(3, __VA_ARGS__) CASE(2, __VA_ARGS__) CASE(1, __VA_ARGS__)
#elif ROWS == 6
#define EACH_NUMBER_OF_ROWS(...)                                                             \
    CASE(6, __VA_ARGS__) CASE(5, __VA_ARGS__) CASE(4, __VA_ARGS__) CASE(3, __VA_ARGS__)      \
    CASE(2, __VA_ARGS__) CASE(1, __VA_ARGS__)
#else
#define EACH_NUMBER_OF_ROWS(...)                                                             \
    CASE(4, __VA_ARGS__) CASE(3, __VA_ARGS__) CASE(2, __VA_ARGS__) CASE(1, __VA_ARGS__)
#endif
TILES(of_rows, 2, left_stride, 1)
TILES(of_columns, 2, 1, left_stride)
TILES(narrow_of_rows, 1, left_stride, 1)
TILES(narrow_of_columns, 1, 1, left_stride)
#undef TILES
#undef CASE
#undef EACH_NUMBER_OF_ROWS

/* A tile at the right edge, of `columns` less than a whole number of registers. */
TARGET static void NAME(edge)(TileFunction *tile, int64_t rows, int64_t columns, int64_t depth,
                              const float *left, int64_t left_stride, const float *right,
                              float *result, int64_t result_row, int add)
{
    float whole[ROWS * PANEL];
    tile(rows, depth, left, left_stride, right, whole, PANEL, 0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            float *const to = result + i * result_row + j;
            *to = add ? *to + whole[i * PANEL + j] : whole[i * PANEL + j];
        }
}

/* The rows of a product from `begin` to before `end`. */
TARGET static int NAME(multiply)(const Product *product, int64_t begin, int64_t end)
{
    const float *const a = product->a, *const b = product->b;
    const int transpose_a = product->transpose_a, transpose_b = product->transpose_b;
    const int64_t columns = product->columns, depth = product->depth;
    const int64_t a_row = transpose_a ? product->rows : depth;
    const int64_t b_row = transpose_b ? depth : columns;
    const int64_t deep = share(depth, DEPTH, LANES), wide = share(columns, COLUMNS, PANEL);
    TileFunction *const two = transpose_a ? NAME(of_columns) : NAME(of_rows);
    TileFunction *const one = transpose_a ? NAME(narrow_of_columns) : NAME(narrow_of_rows);
    float *const block = take_lines(deep * wide);
    if (!block)
        return -1;
    for (int64_t first = 0; first < columns; first += wide)
        for (int64_t p = 0; p < depth; p += deep) {
            const int64_t width = least(columns - first, wide), count = least(depth - p, deep);
            const int add = product->add || p > 0;
            if (transpose_b)
                NAME(pack_transposed)(b + first * b_row + p, b_row, count, width, block);
            else
                NAME(pack)(b + p * b_row + first, b_row, count, width, block);
            for (int64_t i = begin; i < end; i += ROWS)
                for (int64_t j = 0; j < width; j += PANEL) {
                    const int64_t high = least(end - i, ROWS), most = least(width - j, PANEL);
                    const float *const left = a + (transpose_a ? p * a_row + i : i * a_row + p);
                    float *const to = product->c + i * columns + first + j;
                    TileFunction *const tile = most > LANES ? two : one;
                    if (most % LANES == 0)
                        tile(high, count, left, a_row, block + j * count, to, columns,
                             add);
                    else
                        NAME(edge)(tile, high, most, count, left, a_row, block + j * count, to,
                                   columns, add);
                }
        }
    free(block);
    return 0;
}

#undef PANEL
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
