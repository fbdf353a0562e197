/* Rows of a table by index: see embedding.py.
 *
 * SCALAR is the type of the table and of its gradient: float or __nv_bfloat16.
 *
 * Variants: SCALAR=float VECTOR=1|4
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int TABLE_ROWS = 32, COLUMNS = 128, AHEAD = 4;

/* out[i] = table[indices[i]], NaN where there is no such row. A warp copies a row; VECTOR numbers,
 * which divide `columns`, are moved at a time. */
extern "C" __global__ void __launch_bounds__(256)
embedding_forward(const long long *__restrict__ indices, const SCALAR *__restrict__ table,
                  SCALAR *__restrict__ out, long long count, long long rows, int columns)
{
    const long long place = (long long)blockIdx.x * 8 + threadIdx.x / WARP;
    if (place >= count)
        return;
    const long long row = indices[place];
    const bool exists = row >= 0 && row < rows;
    for (int c = VECTOR * (threadIdx.x % WARP); c < columns; c += VECTOR * WARP) {
        float values[VECTOR];
        if (exists)
            load<VECTOR>(values, table + row * columns + c);
        else
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                values[j] = not_a_number();
        store<VECTOR>(out + place * columns + c, values);
    }
}

/* Adds up the rows of `grad` (count, columns) by index, in the order in which they stand.
 *
 * A block of 128 threads does 128 columns of 32 rows of the table, for the blockIdx.z-th part of
 * the indices. It writes `result` (rows, columns), or where that is null its part of the sum,
 * `partial` (gridDim.z, rows, columns), which column_sum adds up. Each 32 rows of the table have
 * all indices read anew, which is little for an alphabet and much for a large vocabulary: there
 * embedding_backward_atomic is faster. */
extern "C" __global__ void __launch_bounds__(COLUMNS)
embedding_backward(const SCALAR *__restrict__ grad, const long long *__restrict__ indices,
                   SCALAR *__restrict__ result, float *__restrict__ partial, long long count,
                   long long part, long long rows, int columns)
{
    __shared__ float sums[TABLE_ROWS][COLUMNS]; /* each thread has a column to itself */
    __shared__ int found_row[COLUMNS], found_place[COLUMNS];
    __shared__ int found_by_warp[COLUMNS / WARP];
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const int column = blockIdx.x * COLUMNS + thread;
    const long long first_row = (long long)blockIdx.y * TABLE_ROWS;
    const long long end = min(count, (blockIdx.z + 1) * part);
    for (int row = 0; row < TABLE_ROWS; row++)
        sums[row][thread] = 0.0f;

    for (long long start = blockIdx.z * part; start < end; start += COLUMNS) {
        /* the places of this stretch that belong to the block's rows, in order */
        const long long row = start + thread < end ? indices[start + thread] - first_row : -1;
        const bool mine = row >= 0 && row < TABLE_ROWS;
        const unsigned in_warp = __ballot_sync(ALL_LANES, mine);
        if (lane == 0)
            found_by_warp[warp] = __popc(in_warp);
        __syncthreads();
        int before = __popc(in_warp & ((1u << lane) - 1)), total = 0;
        for (int each = 0; each < COLUMNS / WARP; each++) {
            before += each < warp ? found_by_warp[each] : 0;
            total += found_by_warp[each];
        }
        if (mine) {
            found_row[before] = static_cast<int>(row);
            found_place[before] = thread;
        }
        __syncthreads();
        if (column >= columns)
            continue;
        for (int next = 0; next < total; next += AHEAD) {
            float values[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (next + i < total)
                    values[i] = to_float(grad[(start + found_place[next + i]) * columns + column]);
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (next + i < total)
                    sums[found_row[next + i]][thread] += values[i];
        }
    }
    if (column >= columns)
        return;
    for (int row = 0; row < TABLE_ROWS && first_row + row < rows; row++) {
        const long long place = (first_row + row) * columns + column;
        if (result)
            from_float(sums[row][thread], result[place]);
        else
            partial[blockIdx.z * rows * columns + place] = sums[row][thread];
    }
}

/* sums[indices[i]] += grad[i], for sums (rows, columns) that begin at zero. Each row of `grad` is a
 * warp's, whose lanes add to numbers side by side. Additions are in the order in which they happen
 * to reach memory, so sums differ from run to run in their last digits. */
extern "C" __global__ void __launch_bounds__(256)
embedding_backward_atomic(const SCALAR *__restrict__ grad, const long long *__restrict__ indices,
                          float *__restrict__ sums, long long count, long long rows, int columns)
{
    const long long place = (long long)blockIdx.x * 8 + threadIdx.x / WARP;
    if (place >= count)
        return;
    const long long row = indices[place];
    if (row < 0 || row >= rows)
        return;
    for (int c = threadIdx.x % WARP; c < columns; c += WARP)
        atomicAdd(sums + row * columns + c, to_float(grad[place * columns + c]));
}
