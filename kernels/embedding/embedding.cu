/* Rows of a table by index: see reference.py.
 *
 * SCALAR is the type of what is made of them, and of its gradient: float or __nv_bfloat16; TABLE
 * that of the table, of what is added and of their gradients. VECTOR elements, which divide
 * `columns`, are moved at a time.
 *
 * Variants: SCALAR=float TABLE=float VECTOR=1|4
 * Variants: SCALAR=__nv_bfloat16 TABLE=float|__nv_bfloat16 VECTOR=1|8 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int BLOCK = 256, BLOCK_WARPS = BLOCK / WARP, AHEAD = 4;

/* out[i] = table[indices[i]] + addend[i % period], NaN where there is no such row; nothing is added
 * where `addend` is null. Each warp makes a row. */
extern "C" __global__ void __launch_bounds__(BLOCK)
embedding_forward(const long long *__restrict__ indices, const TABLE *__restrict__ table,
                  const TABLE *__restrict__ addend, SCALAR *__restrict__ out, long long count,
                  long long period, long long rows, int columns)
{
    const long long place = (long long)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
    if (place >= count)
        return;
    const long long row = indices[place], beside = addend ? place % period : 0;
    const bool exists = row >= 0 && row < rows;
    for (int c = VECTOR * (threadIdx.x % WARP); c < columns; c += VECTOR * WARP) {
        float values[VECTOR], others[VECTOR] = {};
        if (addend)
            load<VECTOR>(others, addend + beside * columns + c);
        if (exists)
            load<VECTOR>(values, table + row * columns + c);
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            values[j] = exists ? values[j] + others[j] : not_a_number();
        store<VECTOR>(out + place * columns + c, values);
    }
}

/* Adds up the rows of `grad` (count, columns) by index, in the order in which they stand.
 *
 * Each warp adds up one row of the table, VECTOR * 32 columns of it, for the blockIdx.z-th part of
 * the indices. It writes `result` (rows, columns), or where that is null its part of the sum,
 * `partial` (gridDim.z, rows, columns), which column_sum adds up. Each eight rows of the table have
 * all indices read anew, which is little for an alphabet and much for a large vocabulary: there
 * embedding_backward_atomic is faster. */
extern "C" __global__ void __launch_bounds__(BLOCK)
embedding_backward(const SCALAR *__restrict__ grad, const long long *__restrict__ indices,
                   TABLE *__restrict__ result, float *__restrict__ partial, long long count,
                   long long part, long long rows, int columns)
{
    __shared__ int found_row[BLOCK], found_place[BLOCK];
    __shared__ int found_by_warp[BLOCK_WARPS];
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const int column = (blockIdx.y * WARP + lane) * VECTOR;
    const long long first_row = (long long)blockIdx.x * BLOCK_WARPS;
    const long long end = min(count, (blockIdx.z + 1) * part);
    float totals[VECTOR] = {}; /* of stretches, so that errors do not grow with their number */

    for (long long start = blockIdx.z * part; start < end; start += BLOCK) {
        /* the places of this stretch that belong to the block's rows, in order */
        const long long row = start + thread < end ? indices[start + thread] - first_row : -1;
        const bool ours = row >= 0 && row < BLOCK_WARPS;
        const unsigned in_warp = __ballot_sync(ALL_LANES, ours);
        if (lane == 0)
            found_by_warp[warp] = __popc(in_warp);
        __syncthreads();
        int before = __popc(in_warp & ((1u << lane) - 1)), total = 0;
        for (int each = 0; each < BLOCK_WARPS; each++) {
            before += each < warp ? found_by_warp[each] : 0;
            total += found_by_warp[each];
        }
        if (ours) {
            found_row[before] = static_cast<int>(row);
            found_place[before] = thread;
        }
        __syncthreads();
        float sums[VECTOR] = {};
        for (int first = 0; first < total; first += WARP) {
            const bool mine = first + lane < total && found_row[first + lane] == warp;
            unsigned left = __ballot_sync(ALL_LANES, mine);
            while (left) {
                Pack<SCALAR, VECTOR> rows_ahead[AHEAD];
                bool exists[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    exists[i] = left && column < columns;
                    if (exists[i]) {
                        const long long place = start + found_place[first + __ffs(left) - 1];
                        rows_ahead[i] = fetch<VECTOR>(grad + place * columns + column);
                    }
                    left &= left - 1; /* without its lowest bit */
                }
#pragma unroll
                for (int i = 0; i < AHEAD; i++)
                    if (exists[i])
#pragma unroll
                        for (int j = 0; j < VECTOR; j++)
                            sums[j] += to_float(rows_ahead[i].at[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            totals[j] += sums[j];
    }
    const long long place = (first_row + warp) * columns + column;
    if (first_row + warp >= rows || column >= columns)
        return;
    if (result)
        store<VECTOR>(result + place, totals);
    else
        store<VECTOR>(partial + blockIdx.z * rows * columns + place, totals);
}

/* sums[indices[i]] += grad[i], for sums (rows, columns) that begin at zero. Each row of `grad` is a
 * warp's, whose lanes add to elements side by side. Additions are in the order in which they happen
 * to reach memory, so sums differ from run to run in their last digits. */
extern "C" __global__ void __launch_bounds__(BLOCK)
embedding_backward_atomic(const SCALAR *__restrict__ grad, const long long *__restrict__ indices,
                          float *__restrict__ sums, long long count, long long rows, int columns)
{
    const long long place = (long long)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
    if (place >= count)
        return;
    const long long row = indices[place];
    if (row < 0 || row >= rows)
        return;
    for (int c = threadIdx.x % WARP; c < columns; c += WARP)
        atomicAdd(sums + row * columns + c, to_float(grad[place * columns + c]));
}
