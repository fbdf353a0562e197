/* Scaled dot-product attention: see reference.py for the equations.
 *
 * Dao et al. 2022, arXiv:2205.14135, and Dao 2023, arXiv:2307.08691: the weights of a block of
 * queries and a tile of keys are made, used and forgotten in registers; a row's peak and sum are
 * corrected as tiles go by (the online softmax), and backward makes the weights again from peak and
 * sum. What a block walks over is copied to shared memory one tile ahead. Backward is one pass over
 * the keys' weights for dQ and one over the queries' for dK and dV, or with atomic additions one for
 * all three. Each makes the scores by the same additions, in the same order.
 *
 * HEAD is the head size, or the next that there is, up to which tiles are filled with zeros;
 * DROPOUT whether weights are dropped; ROWS how many times 16 rows each warp owns, and
 * FORWARD_OTHERS how many rows are in a tile that it walks over (what fits in registers).
 *
 * Variants: PRECISION=PLAIN|TF32 SCALAR=float HEAD=16|32|64 ROWS=1 FORWARD_OTHERS=64 DROPOUT=0|1
 * Variants: PRECISION=PLAIN|TF32 SCALAR=float HEAD=128 ROWS=1 FORWARD_OTHERS=32 DROPOUT=0|1
 * Variants: PRECISION=BF16 SCALAR=__nv_bfloat16 HEAD=16|32|64 ROWS=2 FORWARD_OTHERS=64 DROPOUT=0|1
 * Variants: PRECISION=BF16 SCALAR=__nv_bfloat16 HEAD=128 ROWS=1 FORWARD_OTHERS=64 DROPOUT=0|1
 *
 * Spills: up to 44 bytes, where backward for heads of 64 with dropout (BF16, sm_90) needs more than
 * the 255 registers that there are; the loops that leave out what is not seen need them, and are
 * seldom run.
 *
 * q, k, v and the like are views. Their strides along batch, head and position, in elements, are in
 * the variables whose names end in b, h and t. The elements of a head are neighbours and begin at a
 * multiple of sixteen bytes. */
#include "attention_tiles.cuh"

constexpr int M = ROWS, OWN = 16 * M * WARPS;

/* How a block's rows and its mask are numbered. */
struct Sequence {
    int batch, head;

    __device__ __forceinline__ explicit Sequence(int heads)
        : batch(blockIdx.x / heads), head(blockIdx.x % heads)
    {
    }

    template <typename T>
    __device__ __forceinline__ T *rows(T *array, long long b, long long h) const
    {
        return array + batch * b + head * h;
    }
};

/* One block for OWN queries of a sequence, those that see the most keys first. */
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(const SCALAR *__restrict__ q, const SCALAR *__restrict__ k,
                  const SCALAR *__restrict__ v, SCALAR *__restrict__ out,
                  float *__restrict__ statistics, long long q_b, long long q_h, long long q_t,
                  long long k_b, long long k_h, long long k_t, long long v_b, long long v_h,
                  long long v_t, long long out_b, long long out_h, long long out_t, int heads,
                  int queries, int keys, int size, bool causal, float scale,
                  unsigned long long seed, unsigned long long call,
                  const unsigned long long *__restrict__ recorded, unsigned threshold,
                  float kept_scale)
{
    constexpr int OTHERS = FORWARD_OTHERS, N = OTHERS / 8;
    extern __shared__ __align__(16) SCALAR shared[];
    SCALAR *const q_tile = shared, *const others = shared + OWN * STRIDE;
    const Sequence sequence(heads);
    const Mask mask(seed, call, recorded, threshold, kept_scale);
    const int first = (gridDim.y - 1 - blockIdx.y) * OWN, warp_row = 16 * M * warp_number();
    const int row = first + warp_row;
    const int offset = keys - queries; /* query i sees the keys up to i + offset */
    const int end = causal ? min(keys, first + OWN + offset) : keys;
    const int seen_by_all = causal ? min(keys, row + offset + 1) : keys; /* of the warp */
    const int seen_by_any = causal ? row + 16 * M + offset : keys;
    k = sequence.rows(k, k_b, k_h);
    v = sequence.rows(v, v_b, v_h);

    const auto tiles_of = [&](int start) {
        return others + start / OTHERS % 2 * 2 * OTHERS * STRIDE;
    };
    const auto copy = [&](int start) {
        SCALAR *const tile = tiles_of(start);
        copy_tile<OTHERS>(tile, k + start * k_t, k_t, keys - start, size);
        copy_tile<OTHERS>(tile + OTHERS * STRIDE, v + start * v_t, v_t, keys - start, size);
    };
    copy_tile<OWN>(q_tile, sequence.rows(q, q_b, q_h) + first * q_t, q_t, queries - first, size);
    if (end > 0)
        copy(0);
    cp_async_commit();
    round_own<OWN>(q_tile);

    float result[M][COLUMNS][4] = {}, peak[M][2], total[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; m++)
        peak[m][0] = peak[m][1] = -infinity();
    const float factor = scale * LOG2_E;
    for (int start = 0; start < end; start += OTHERS) {
        SCALAR *const k_tile = tiles_of(start), *const v_tile = k_tile + OTHERS * STRIDE;
        cp_async_wait<0>();
        round_tile<OTHERS>(k_tile);
        round_tile<OTHERS>(v_tile);
        const bool hides = causal && start + OTHERS > first + offset + 1;
        const bool finite = !__syncthreads_or(hides && !copied_finite<OTHERS>(v_tile));
        if (start + OTHERS < end)
            copy(start + OTHERS);
        cp_async_commit();
        if (start >= seen_by_any)
            continue;

        unsigned kept[M][N / 2];
        if constexpr (DROPOUT) {
            const Word line = (Word)blockIdx.x * queries + row;
            draw_by_rows<M, N>(kept, mask, line * keys + start, keys);
        }
        const int seen = causal ? row + offset + 1 - start : keys; /* of this tile by the first row */
        const auto is_seen = [&](int i, int j) { return j < seen + i; };
        float weights[M][N][4] = {};
        multiply_rows(weights, q_tile + warp_row * STRIDE, k_tile);
        if (start + OTHERS > seen_by_all)
            hide_behind(weights, seen, keys - start, -infinity());

#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float highest = peak[m][half];
#pragma unroll
                for (int n = 0; n < N; n++)
                    highest = fmaxf(highest, fmaxf(weights[m][n][2 * half],
                                                   weights[m][n][2 * half + 1]));
                highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 2));
                /* as long as a row has seen no key nothing is subtracted */
                const float base = highest == -infinity() ? 0.0f : highest;
                const float correction = exp2_fast((peak[m][half] - base) * factor);
                peak[m][half] = highest;
                total[m][half] *= correction;
#pragma unroll
                for (int n = 0; n < COLUMNS; n++) {
                    result[m][n][2 * half] *= correction;
                    result[m][n][2 * half + 1] *= correction;
                }
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++) {
                        weights[m][n][e] = exp2_fast((weights[m][n][e] - base) * factor);
                        total[m][half] += weights[m][n][e];
                    }
            }

        if constexpr (DROPOUT) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (!is_kept_by_rows(kept, m, n, e))
                            weights[m][n][e] = 0.0f;
        }
        if (finite) /* weights of 0 hide what is finite */
            multiply_weights(result, weights, v_tile);
        else
            multiply_seen(result, weights, v_tile, is_seen);
    }
    cp_async_wait<0>();
    __syncthreads();

    statistics += 2 * (long long)blockIdx.x * queries;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            const float inverse = sum == 0.0f ? 0.0f : (DROPOUT ? kept_scale : 1.0f) / sum;
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) {
                result[m][n][2 * half] *= inverse;
                result[m][n][2 * half + 1] *= inverse;
            }
            const int query = row + 16 * m + lane_group() + 8 * half;
            if (lane_member() == 0 && query < queries) {
                const float pair[2] = {sum == 0.0f ? 0.0f : peak[m][half],
                                       sum == 0.0f ? 1.0f : sum};
                store<2>(statistics + 2 * query, pair);
            }
        }
    store_rows(q_tile + warp_row * STRIDE, result, sequence.rows(out, out_b, out_h) + row * out_t,
               out_t, queries - row, size);
}

/* What backward needs of each query: all peaks of a sequence, all totals as logarithms of base 2,
 * and all delta, the sum of dO * O; 0, infinity and 0 for those that there are not, up to `padded`,
 * a multiple of BACKWARD_OTHERS. Eight threads for each query. */
extern "C" __global__ void __launch_bounds__(256)
attention_rows(const SCALAR *__restrict__ grad, const SCALAR *__restrict__ out,
               const float *__restrict__ statistics, float *__restrict__ rows, long long grad_b,
               long long grad_h, long long grad_t, long long out_b, long long out_h,
               long long out_t, int heads, int queries, int padded, int size)
{
    const Sequence sequence(heads);
    const int row = blockIdx.y * 32 + threadIdx.x / 8, member = threadIdx.x % 8;
    float sum = 0.0f;
    if (row < queries) {
        grad = sequence.rows(grad, grad_b, grad_h) + row * grad_t;
        out = sequence.rows(out, out_b, out_h) + row * out_t;
        for (int column = member * UNIT; column < size; column += 8 * UNIT) {
            float g[UNIT], o[UNIT];
            load<UNIT>(g, grad + column);
            load<UNIT>(o, out + column);
#pragma unroll
            for (int j = 0; j < UNIT; j++)
                sum += g[j] * o[j];
        }
    }
#pragma unroll
    for (int distance = 4; distance; distance /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    if (member || row >= padded)
        return;
    float pair[2] = {0.0f, infinity()};
    if (row < queries)
        load<2>(pair, statistics + 2 * ((long long)blockIdx.x * queries + row));
    rows += 3 * (long long)blockIdx.x * padded + row;
    rows[0] = pair[0];
    rows[padded] = log2f(pair[1]);
    rows[2 * padded] = sum;
}

/* dQ: one block for OWN queries of a sequence, which walks over the keys that they see. */
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_queries(
    const SCALAR *__restrict__ grad, const SCALAR *__restrict__ q, const SCALAR *__restrict__ k,
    const SCALAR *__restrict__ v, const float *__restrict__ rows, SCALAR *__restrict__ grad_q,
    long long grad_b, long long grad_h, long long grad_t, long long q_b, long long q_h,
    long long q_t, long long k_b, long long k_h, long long k_t, long long v_b, long long v_h,
    long long v_t, long long grad_q_b, long long grad_q_h, long long grad_q_t, int heads,
    int queries, int keys, int padded, int size, bool causal, float scale,
    unsigned long long seed, unsigned long long call,
    const unsigned long long *__restrict__ recorded, unsigned threshold, float kept_scale)
{
    constexpr int OTHERS = BACKWARD_OTHERS, N = OTHERS / 8;
    extern __shared__ __align__(16) SCALAR shared[];
    SCALAR *const q_tile = shared, *const grad_tile = shared + OWN * STRIDE;
    SCALAR *const others = shared + 2 * OWN * STRIDE;
    const Sequence sequence(heads);
    const Mask mask(seed, call, recorded, threshold, kept_scale);
    const int first = (gridDim.y - 1 - blockIdx.y) * OWN, warp_row = 16 * M * warp_number();
    const int row = first + warp_row;
    const int offset = keys - queries;
    const int end = causal ? min(keys, first + OWN + offset) : keys;
    const int seen_by_all = causal ? min(keys, row + offset + 1) : keys;
    const int seen_by_any = causal ? row + 16 * M + offset : keys;
    k = sequence.rows(k, k_b, k_h);
    v = sequence.rows(v, v_b, v_h);
    rows += 3 * (long long)blockIdx.x * padded;

    const auto tiles_of = [&](int start) {
        return others + start / OTHERS % 2 * 2 * OTHERS * STRIDE;
    };
    const auto copy = [&](int start) {
        SCALAR *const tile = tiles_of(start);
        copy_tile<OTHERS>(tile, k + start * k_t, k_t, keys - start, size);
        copy_tile<OTHERS>(tile + OTHERS * STRIDE, v + start * v_t, v_t, keys - start, size);
    };
    copy_tile<OWN>(q_tile, sequence.rows(q, q_b, q_h) + first * q_t, q_t, queries - first, size);
    copy_tile<OWN>(grad_tile, sequence.rows(grad, grad_b, grad_h) + first * grad_t, grad_t,
                   queries - first, size);
    if (end > 0)
        copy(0);
    cp_async_commit();
    round_own<OWN>(q_tile);
    round_own<OWN>(grad_tile);

    float result[M][COLUMNS][4] = {}, peak[M][2], log_total[M][2], delta[M][2];
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        const int query = row + 8 * i + lane_group();
        peak[i / 2][i % 2] = query < queries ? rows[query] : 0.0f;
        log_total[i / 2][i % 2] = query < queries ? rows[padded + query] : infinity();
        delta[i / 2][i % 2] = query < queries ? rows[2 * padded + query] : 0.0f;
    }
    const float factor = scale * LOG2_E;
    for (int start = 0; start < end; start += OTHERS) {
        SCALAR *const k_tile = tiles_of(start), *const v_tile = k_tile + OTHERS * STRIDE;
        cp_async_wait<0>();
        round_tile<OTHERS>(k_tile);
        round_tile<OTHERS>(v_tile);
        const bool hides = causal && start + OTHERS > first + offset + 1;
        const bool finite = !__syncthreads_or(hides && !copied_finite<OTHERS>(k_tile));
        if (start + OTHERS < end)
            copy(start + OTHERS);
        cp_async_commit();
        if (start >= seen_by_any)
            continue;

        unsigned kept[M][N / 2];
        if constexpr (DROPOUT) {
            const Word line = (Word)blockIdx.x * queries + row;
            draw_by_rows<M, N>(kept, mask, line * keys + start, keys);
        }
        const int seen = causal ? row + offset + 1 - start : keys; /* of this tile by the first row */
        const auto is_seen = [&](int i, int j) { return j < seen + i; };
        float weights[M][N][4] = {}, slopes[M][N][4] = {};
        multiply_rows(weights, q_tile + warp_row * STRIDE, k_tile);
        multiply_rows(slopes, grad_tile + warp_row * STRIDE, v_tile);
        if (start + OTHERS > seen_by_all)
            hide_behind(weights, seen, keys - start, -infinity());
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float below = weights[m][n][e] - peak[m][e / 2];
                    const float weight = exp2_fast(below * factor - log_total[m][e / 2]);
                    float slope = slopes[m][n][e];
                    if constexpr (DROPOUT)
                        slope = is_kept_by_rows(kept, m, n, e) ? slope * kept_scale : 0.0f;
                    weights[m][n][e] = weight * (slope - delta[m][e / 2]);
                }
        if (start + OTHERS > seen_by_all)
            hide_behind(weights, seen, keys - start, 0.0f);
        if (finite)
            multiply_weights(result, weights, k_tile);
        else
            multiply_seen(result, weights, k_tile, is_seen);
    }
    cp_async_wait<0>();
    __syncthreads();

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                result[m][n][e] *= scale;
    store_rows(q_tile + warp_row * STRIDE, result,
               sequence.rows(grad_q, grad_q_b, grad_q_h) + row * grad_q_t, grad_q_t, queries - row,
               size);
}

/* dK and dV: one block for OWN keys of a sequence, which walks over the queries that see them. Its
 * weights are transposed, keys by queries.
 *
 * With WITH_QUERIES also dQ / scale, by atomic additions to q_sums (sequences, queries, HEAD),
 * which begins at zero. A tile's slopes go to shared memory. There, warps add up what all of the
 * block's keys give to each query. */
template <bool WITH_QUERIES>
__device__ __forceinline__ void walk_queries(
    const SCALAR *__restrict__ grad, const SCALAR *__restrict__ q, const SCALAR *__restrict__ k,
    const SCALAR *__restrict__ v, const float *__restrict__ rows, SCALAR *__restrict__ grad_k,
    SCALAR *__restrict__ grad_v, float *__restrict__ q_sums, long long grad_b, long long grad_h,
    long long grad_t, long long q_b, long long q_h, long long q_t, long long k_b, long long k_h,
    long long k_t, long long v_b, long long v_h, long long v_t, long long grad_k_b,
    long long grad_k_h, long long grad_k_t, long long grad_v_b, long long grad_v_h,
    long long grad_v_t, int heads, int queries, int keys, int padded, int size, bool causal,
    float scale, const Mask &mask)
{
    constexpr int OTHERS = BACKWARD_OTHERS, N = OTHERS / 8;
    constexpr int PART = 2 * OTHERS * STRIDE + 3 * OTHERS * sizeof(float) / sizeof(SCALAR);
    extern __shared__ __align__(16) SCALAR tiles[];
    SCALAR *const k_tile = tiles, *const v_tile = tiles + OWN * STRIDE;
    SCALAR *const others = tiles + 2 * OWN * STRIDE, *const slope_tile = others + 2 * PART;
    const Sequence sequence(heads);
    const int first = blockIdx.y * OWN, warp_row = 16 * M * warp_number();
    const int row = first + warp_row; /* a key */
    const int offset = keys - queries;
    const int begin = causal ? max(0, first - offset) / OTHERS * OTHERS : 0;
    q = sequence.rows(q, q_b, q_h);
    grad = sequence.rows(grad, grad_b, grad_h);
    rows += 3 * (long long)blockIdx.x * padded;
    if constexpr (WITH_QUERIES)
        q_sums += (long long)blockIdx.x * queries * HEAD;

    const auto tiles_of = [&](int start) { return others + start / OTHERS % 2 * PART; };
    const auto copy = [&](int start) {
        SCALAR *const tile = tiles_of(start);
        copy_tile<OTHERS>(tile, q + start * q_t, q_t, queries - start, size);
        copy_tile<OTHERS>(tile + OTHERS * STRIDE, grad + start * grad_t, grad_t, queries - start,
                          size);
        float *const row_tile = reinterpret_cast<float *>(tile + 2 * OTHERS * STRIDE);
        if (threadIdx.x < 3 * OTHERS / 4) {
            const int number = threadIdx.x / (OTHERS / 4), place = threadIdx.x % (OTHERS / 4) * 4;
            cp_async16(row_tile + 4 * threadIdx.x, rows + number * padded + start + place);
        }
    };
    copy_tile<OWN>(k_tile, sequence.rows(k, k_b, k_h) + first * k_t, k_t, keys - first, size);
    copy_tile<OWN>(v_tile, sequence.rows(v, v_b, v_h) + first * v_t, v_t, keys - first, size);
    if (begin < queries)
        copy(begin);
    cp_async_commit();
    round_own<OWN>(k_tile);
    round_own<OWN>(v_tile);

    float k_result[M][COLUMNS][4] = {}, v_result[M][COLUMNS][4] = {};
    const float factor = scale * LOG2_E;
    for (int start = begin; start < queries; start += OTHERS) {
        SCALAR *const q_tile = tiles_of(start), *const grad_tile = q_tile + OTHERS * STRIDE;
        cp_async_wait<0>();
        round_tile<OTHERS>(q_tile);
        round_tile<OTHERS>(grad_tile);
        const bool hides = causal && first + OWN > start + offset + 1;
        const bool finite =
            !__syncthreads_or(hides && !(copied_finite<OTHERS>(q_tile) &&
                                         copied_finite<OTHERS>(grad_tile) &&
                                         (!WITH_QUERIES || copied_finite<OWN>(k_tile))));
        const int unseeing = row - offset - start; /* queries of the tile, by the first row */
        if (start + OTHERS < queries)
            copy(start + OTHERS);
        cp_async_commit();
        const float *const row_tile = reinterpret_cast<const float *>(grad_tile + OTHERS * STRIDE);

        float slopes[M][N][4] = {};
        if (!causal || row < start + OTHERS + offset) { /* or none of these queries sees the keys */
            unsigned kept = 0;
            if constexpr (DROPOUT) {
                const Word line = (Word)blockIdx.x * queries + start;
                kept = draw_by_columns<M, N>(mask, line * keys + row, keys);
            }
            float weights[M][N][4] = {};
            multiply_rows(weights, k_tile + warp_row * STRIDE, q_tile);
            multiply_rows(slopes, v_tile + warp_row * STRIDE, grad_tile);
            const bool hidden = causal && row + 16 * M > start + offset + 1;
            if (hidden)
                hide_before(weights, unseeing, -infinity());
#pragma unroll
            for (int n = 0; n < N; n++) {
                float peak[2], log_total[2], delta[2]; /* of two queries */
                const float *const of_rows = row_tile + 8 * n + 2 * lane_member();
                load<2>(peak, of_rows);
                load<2>(log_total, of_rows + OTHERS);
                load<2>(delta, of_rows + 2 * OTHERS);
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float &weight = weights[m][n][e], &slope = slopes[m][n][e];
                        weight = exp2_fast((weight - peak[e % 2]) * factor - log_total[e % 2]);
                        const bool used = !DROPOUT || is_kept_by_columns<N>(kept, m, n, e);
                        if constexpr (DROPOUT)
                            slope = used ? slope * mask.scale : 0.0f;
                        slope = weight * (slope - delta[e % 2]);
                        weight = used ? weight : 0.0f;
                    }
            }
            if (hidden) { /* of a query that is NaN */
                hide_before(weights, unseeing, 0.0f);
                hide_before(slopes, unseeing, 0.0f);
            }
            if (finite) {
                multiply_weights(v_result, weights, grad_tile);
                multiply_weights(k_result, slopes, q_tile);
            } else {
                const auto is_seen = [&](int i, int j) { return j >= unseeing + i; };
                multiply_seen(v_result, weights, grad_tile, is_seen);
                multiply_seen(k_result, slopes, q_tile, is_seen);
            }
        }
        if constexpr (WITH_QUERIES) {
            store_slopes(slope_tile + warp_row * SLOPE_STRIDE, slopes, keys - row);
            __syncthreads();
            add_transposed<OWN>(q_sums + start * HEAD, slope_tile, k_tile, queries - start, size,
                                finite, start + offset - first);
        }
    }
    cp_async_wait<0>();
    __syncthreads();

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                k_result[m][n][e] *= scale;
                v_result[m][n][e] *= DROPOUT ? mask.scale : 1.0f;
            }
    store_rows(k_tile + warp_row * STRIDE, k_result,
               sequence.rows(grad_k, grad_k_b, grad_k_h) + row * grad_k_t, grad_k_t, keys - row,
               size);
    store_rows(v_tile + warp_row * STRIDE, v_result,
               sequence.rows(grad_v, grad_v_b, grad_v_h) + row * grad_v_t, grad_v_t, keys - row,
               size);
}

/* dQ has a pass of its own, above, which makes scores and slopes a second time (seven products
 * instead of five) but adds up in a fixed order. */
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_keys(
    const SCALAR *__restrict__ grad, const SCALAR *__restrict__ q, const SCALAR *__restrict__ k,
    const SCALAR *__restrict__ v, const float *__restrict__ rows, SCALAR *__restrict__ grad_k,
    SCALAR *__restrict__ grad_v, long long grad_b, long long grad_h, long long grad_t,
    long long q_b, long long q_h, long long q_t, long long k_b, long long k_h, long long k_t,
    long long v_b, long long v_h, long long v_t, long long grad_k_b, long long grad_k_h,
    long long grad_k_t, long long grad_v_b, long long grad_v_h, long long grad_v_t, int heads,
    int queries, int keys, int padded, int size, bool causal, float scale, unsigned long long seed,
    unsigned long long call, const unsigned long long *__restrict__ recorded, unsigned threshold,
    float kept_scale)
{
    walk_queries<false>(grad, q, k, v, rows, grad_k, grad_v, nullptr, grad_b, grad_h, grad_t, q_b,
                        q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, grad_k_b, grad_k_h, grad_k_t,
                        grad_v_b, grad_v_h, grad_v_t, heads, queries, keys, padded, size, causal,
                        scale, Mask(seed, call, recorded, threshold, kept_scale));
}

/* dQ / scale, dK and dV in one pass: faster for long sequences, where the two products that it
 * saves are what time goes into. But additions to dQ are in the order in which they happen to reach
 * memory, so sums differ from run to run in their last digits. */
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_atomic(
    const SCALAR *__restrict__ grad, const SCALAR *__restrict__ q, const SCALAR *__restrict__ k,
    const SCALAR *__restrict__ v, const float *__restrict__ rows, SCALAR *__restrict__ grad_k,
    SCALAR *__restrict__ grad_v, float *__restrict__ q_sums, long long grad_b, long long grad_h,
    long long grad_t, long long q_b, long long q_h, long long q_t, long long k_b, long long k_h,
    long long k_t, long long v_b, long long v_h, long long v_t, long long grad_k_b,
    long long grad_k_h, long long grad_k_t, long long grad_v_b, long long grad_v_h,
    long long grad_v_t, int heads, int queries, int keys, int padded, int size, bool causal,
    float scale, unsigned long long seed, unsigned long long call,
    const unsigned long long *__restrict__ recorded, unsigned threshold, float kept_scale)
{
    walk_queries<true>(grad, q, k, v, rows, grad_k, grad_v, q_sums, grad_b, grad_h, grad_t, q_b,
                       q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, grad_k_b, grad_k_h, grad_k_t,
                       grad_v_b, grad_v_h, grad_v_t, heads, queries, keys, padded, size, causal,
                       scale, Mask(seed, call, recorded, threshold, kept_scale));
}

/* grad_q = scale * q_sums. Eight threads for each query. */
extern "C" __global__ void __launch_bounds__(256)
attention_scale_queries(const float *__restrict__ q_sums, SCALAR *__restrict__ grad_q,
                        long long grad_q_b, long long grad_q_h, long long grad_q_t, int heads,
                        int queries, int size, float scale)
{
    const Sequence sequence(heads);
    const int row = blockIdx.y * 32 + threadIdx.x / 8;
    if (row >= queries)
        return;
    q_sums += ((long long)blockIdx.x * queries + row) * HEAD;
    grad_q = sequence.rows(grad_q, grad_q_b, grad_q_h) + row * grad_q_t;
    for (int column = threadIdx.x % 8 * UNIT; column < size; column += 8 * UNIT) {
        float values[UNIT];
        load<UNIT>(values, q_sums + column);
#pragma unroll
        for (int j = 0; j < UNIT; j++)
            values[j] *= scale;
        store<UNIT>(grad_q + column, values);
    }
}
