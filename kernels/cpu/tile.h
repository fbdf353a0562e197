/* Products of small matrices that lie in the cache.
 *
 * Included behind panels.h, which says what elements and panels are, for each width of vector
 * registers, see each_width.h. ROWS times two registers are as many sums as the register file has
 * room for: enough of them that none has to wait for its own last addition. */

/* Which part of a product there is to do, where query i sees the first `seen + i` keys. */
#ifndef PART
#define PART
typedef enum {
    ALL,           /* everything */
    SEEN_COLUMNS,  /* result (queries, keys): what a query does not see is left as it is */
    SEEN_DEPTH,    /* result (queries, ...) of a sum over keys: over those that are seen */
    SEEING_DEPTH,  /* result (keys, ...) of a sum over queries: over those that see the key */
} Part;
#endif

/* result (rows, PANEL) = [result +] left (rows, begin to end) right (begin to end, PANEL), in
 * elements */
TARGET INLINE void NAME(tile)(int rows, int64_t begin, int64_t end, const NAME(Element) *left,
                              int64_t left_row, int64_t left_step, const NAME(Element) *right,
                              float *result, int64_t result_row, int add)
{
    NAME(Vector) sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        __builtin_prefetch(result + i * result_row, 1);
        sum[i][0] = sum[i][1] = (NAME(Vector)){0};
    }
    left += begin * left_step;
    right += begin * PANEL;
    for (int64_t p = begin; p < end; p++) {
        const NAME(Vector) first = *(const NAME(Vector) *)right;
        const NAME(Vector) second = *(const NAME(Vector) *)(right + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const NAME(Element) factor = left[i * left_row];
            sum[i][0] = NAME(multiply_add)(sum[i][0], factor, first);
            sum[i][1] = NAME(multiply_add)(sum[i][1], factor, second);
        }
        left += left_step;
        right += PANEL;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        NAME(Vector) *const to = (NAME(Vector) *)(result + i * result_row);
        if (add) {
            sum[i][0] += to[0];
            sum[i][1] += to[1];
        }
        to[0] = sum[i][0];
        to[1] = sum[i][1];
    }
}

/* result (rows, columns) = [result +] left (rows, depth) right (depth, columns)
 *
 * left has any strides, `row` and `step`, in elements; right lies in panels, whose beginnings are
 * `right_panel` elements apart; result has contiguous rows, of which whole panels are written.
 * `seen` is read unless part is ALL. Of a depth that is seen in part, the numbers of an element that
 * is not seen as a whole are to be 0. */
TARGET static void NAME(multiply)(Part part, int64_t seen, int64_t rows, int64_t columns,
                                  int64_t depth, const NAME(Element) *left, int64_t left_row,
                                  int64_t left_step, const NAME(Element) *right,
                                  int64_t right_panel, float *result, int64_t result_row, int add)
{
    for (int64_t j = 0; j < columns; j += PANEL) {
        for (int64_t i = 0; i < rows; i += ROWS) {
            const int count = rows - i < ROWS ? (int)(rows - i) : ROWS;
            const int64_t most = between(seen + i + count - 1, 0, depth);
            const int64_t last = part == SEEN_DEPTH ? most : depth, end = (last + DEEP - 1) / DEEP;
            const int64_t begin =
                part == SEEING_DEPTH ? between(i - seen + 1, 0, depth) / DEEP : 0;
            if (part == SEEN_COLUMNS && j >= seen + i + count - 1)
                continue;
            const NAME(Element) *const a = left + i * left_row;
            const NAME(Element) *const b = right + j / PANEL * right_panel;
            float *const c = result + i * result_row + j;
#define CASE(n)                                                                                 \
    case n:                                                                                     \
        NAME(tile)(n, begin, end, a, left_row, left_step, b, c, result_row, add);               \
        break;
            switch (count) {
#if ROWS > 8
                CASE(12) CASE(11) CASE(10) CASE(9)
#endif
#if ROWS > 6
                CASE(8) CASE(7)
#endif
#if ROWS > 4
                CASE(6) CASE(5)
#endif
                CASE(4) CASE(3) CASE(2) CASE(1)
            }
#undef CASE
        }
    }
}
