/* Products of matrices that lie in the cache, a tile of the result at a time.
 *
 * Included once for each width of vector registers, with
 *   LANES    float32 numbers in a register
 *   ROWS     rows of a result that are summed up in registers at once
 *   TARGET   the attribute that lets the compiler use such registers
 *   NAME(x)  a name of its own for everything that is defined here
 * ROWS times two registers are as many sums as the register file has room for: enough of them that
 * none has to wait for its own last addition. */

#define PANEL (2 * LANES)

typedef float NAME(Vector) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(Integers) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* result (rows, vectors * LANES) = [result +] left (rows, depth) right (depth, PANEL)
 *
 * left has any strides, `row` and `step`; of a panel's row, the first `vectors` registers are read.
 * `rows` and `vectors` are to be constants where this is inlined: it is all one loop then. */
TARGET INLINE void NAME(tile)(int rows, int vectors, int64_t depth, const float *left,
                              int64_t left_row, int64_t left_step, const float *right,
                              float *result, int64_t result_row, int add)
{
    NAME(Vector) sum[ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(result + i * result_row + v * LANES, 1);
            sum[i][v] = (NAME(Vector)){0};
        }
#pragma GCC unroll 4
    for (int64_t p = 0; p < depth; p++) {
        const NAME(Vector) first = *(const NAME(Vector) *)right;
        const NAME(Vector) second = *(const NAME(Vector) *)(right + (vectors - 1) * LANES);
#pragma GCC unroll 16
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
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            NAME(Vector) *const to = (NAME(Vector) *)(result + i * result_row + v * LANES);
            if (add)
                sum[i][v] += *to;
            *to = sum[i][v];
        }
}
