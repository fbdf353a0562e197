/* Matrix products by blocks: see product.c for the order.
 *
 * Included for each width of vector registers and each kind of elements, see each_width.h. */
#include "panels.h"

#if DEEP > 1
/* Copies rows of the left operand, at most LANES of them, of an a that lies transposed: to LANES
 * elements that are multiplied one by one. */
TARGET static void NAME(copy_transposed)(const float *a, int64_t a_row, int64_t rows,
                                         int64_t depth, NAME(Element) *to)
{
    for (int64_t p = 0; p < depth; p += DEEP, a += DEEP * a_row, to += LANES) {
        for (int i = 0; i < DEEP; i++)
            __builtin_prefetch(a + (ROWS_AHEAD + i) * a_row);
        if (rows == LANES && p + DEEP <= depth)
            *(NAME(Vector) *)to = NAME(across)(a, a_row);
        else
            for (int64_t l = 0; l < rows; l++)
                to[l] = NAME(one)(a + l, a_row, depth - p);
    }
}
#endif

/* result (rows, vectors * LANES) = [result +] left (rows, depth) right (depth, PANEL), in elements
 *
 * left has any strides, `row` and `step`; of a panel's row, the first `vectors` registers are read.
 * Unlike the tile of tile.h, it is for a great depth and a result that is not in the cache. */
TARGET INLINE void NAME(tile)(int rows, int vectors, int64_t depth, const NAME(Element) *left,
                              int64_t left_row, int64_t left_step, const NAME(Element) *right,
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
            const NAME(Element) factor = left[i * left_row];
            sum[i][0] = NAME(multiply_add)(sum[i][0], factor, first);
            if (vectors > 1)
                sum[i][1] = NAME(multiply_add)(sum[i][1], factor, second);
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
    TARGET static void NAME(name)(int64_t rows, int64_t depth, const void *left,             \
                                  int64_t left_stride, const void *right, float *result,     \
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
                              const void *left, int64_t left_stride, const void *right,
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
    const int64_t deep = share(depth, DEEP * DEPTH, DEEP > 1 ? PAIRS_TOGETHER : LANES);
    const int64_t wide = share(columns, COLUMNS, PANEL), most_steps = (deep + DEEP - 1) / DEEP;
    TileFunction *const two = transpose_a ? NAME(of_columns) : NAME(of_rows);
    TileFunction *const one = transpose_a ? NAME(narrow_of_columns) : NAME(narrow_of_rows);
    NAME(Element) *const block = take_lines(most_steps * (wide + (DEEP > 1 ? LANES : 0)));
    if (!block)
        return -1;
#if DEEP > 1
    const int64_t together = LANES;
    NAME(Element) *const left = block + most_steps * wide;
#else
    const int64_t together = ROWS;
#endif
    for (int64_t first = 0; first < columns; first += wide)
        for (int64_t p = 0; p < depth; p += deep) {
            const int64_t width = least(columns - first, wide), count = least(depth - p, deep);
            const int64_t steps = (count + DEEP - 1) / DEEP;
            const int add = product->add || p > 0;
            if (transpose_b)
                NAME(pack_transposed)(b + first * b_row + p, b_row, count, width, block);
            else
                NAME(pack)(b + p * b_row + first, b_row, count, width, block);
            for (int64_t from = begin; from < end; from += together) {
                const int64_t to = least(from + together, end);
                const float *const rows = a + (transpose_a ? p * a_row + from : from * a_row + p);
#if DEEP > 1
                const int64_t left_row = transpose_a ? LANES : steps;
                if (transpose_a)
                    NAME(copy_transposed)(rows, a_row, to - from, count, left);
                else
                    NAME(copy_left)(rows, a_row, to - from, count, left, steps);
#else
                const NAME(Element) *const left = rows;
                const int64_t left_row = a_row;
#endif
                for (int64_t j = 0; j < width; j += PANEL)
                    for (int64_t i = from; i < to; i += ROWS) {
                        const int64_t high = least(to - i, ROWS), most = least(width - j, PANEL);
                        const NAME(Element) *const factors =
                            left + (i - from) * (transpose_a ? 1 : left_row);
                        float *const result = product->c + i * columns + first + j;
                        TileFunction *const tile = most > LANES ? two : one;
                        if (most % LANES == 0)
                            tile(high, steps, factors, left_row, block + j * steps, result,
                                 columns, add);
                        else
                            NAME(edge)(tile, high, most, steps, factors, left_row,
                                       block + j * steps, result, columns, add);
                    }
            }
        }
    free(block);
    return 0;
}
