/* What the passes of attention.cu share: tiles in shared memory and their products by warps.
 *
 * A tile is rows of HEAD elements, padded by sixteen bytes so that the accesses of a warp, which go
 * down a column of sixteen-byte units, meet no bank twice. Rows and columns that do not exist are
 * zeros.
 *
 * Sums are in the layout that the tensor cores have them in (mma.cuh): of a matrix of 16 M rows
 * and 8 N columns, c[m][n][e] is in row 16 m + g + 8 (e / 2) and column 8 n + 2 t + e % 2, where
 * lane = 4 g + t. The path without tensor cores keeps to it, so that the passes are the same.
 *
 * SCALAR is float or __nv_bfloat16; PRECISION is PLAIN (float32 sums of float32 products), TF32 or
 * BF16. */
#pragma once
#include "async_copy.cuh"
#include "fast_math.cuh"
#include "mma.cuh"
#include "pack.cuh"
#include "philox.cuh"
#include "reduce.cuh"

enum Precision { PLAIN, TF32, BF16 };

constexpr int UNIT = WIDTH<SCALAR>, UNITS = HEAD / UNIT, STRIDE = HEAD + UNIT;
constexpr int WARPS = 4, THREADS = WARPS * WARP, COLUMNS = HEAD / 8;
constexpr int BACKWARD_OTHERS = 32, SLOPE_STRIDE = BACKWARD_OTHERS + UNIT;

static_assert(HEAD % 16 == 0, "tensor cores multiply sixteen bfloat16 at a time");
static_assert((PRECISION == BF16) == (sizeof(SCALAR) == 2), "the precision of another type");

__device__ __forceinline__ int lane_group() { return threadIdx.x % WARP / 4; }
__device__ __forceinline__ int lane_member() { return threadIdx.x % 4; }

/* Rows of a tile that the block copies at once. */
constexpr int AT_ONCE = THREADS / UNITS;

/* Starts to copy COUNT rows of `size` elements, `stride` apart, of which `left` exist. */
template <int COUNT>
__device__ __forceinline__ void copy_tile(SCALAR *tile, const SCALAR *source, long long stride,
                                          int left, int size)
{
    const int row = threadIdx.x / UNITS, column = threadIdx.x % UNITS * UNIT;
    tile += row * STRIDE + column;
    source += row * stride + column;
    left = column < size ? left - row : 0;
#pragma unroll
    for (int i = 0; i < COUNT; i += AT_ONCE)
        if (COUNT % AT_ONCE == 0 || row + i < COUNT)
            cp_async16_zero_fill(tile + i * STRIDE, source + i * stride, i < left ? 16 : 0);
}

/* Makes what tensor cores take of the COUNT rows of a tile: for TF32 each number is rounded. Once
 * that the thread has waited for its copies, since it rounds what it has copied itself. */
template <int COUNT> __device__ __forceinline__ void round_tile(SCALAR *tile)
{
    if constexpr (PRECISION == TF32) {
        static_assert(COUNT % AT_ONCE == 0, "each thread has whole turns");
        tile += threadIdx.x / UNITS * STRIDE + threadIdx.x % UNITS * UNIT;
#pragma unroll
        for (int i = 0; i < COUNT; i += AT_ONCE) {
            float values[UNIT];
            load<UNIT>(values, tile + i * STRIDE);
#pragma unroll
            for (int j = 0; j < UNIT; j++)
                values[j] = __uint_as_float(to_tf32(values[j]));
            store_shared<UNIT>(tile + i * STRIDE, values);
        }
    }
}

/* Whether all elements of a tile are finite that this thread has copied. */
template <int COUNT> __device__ __forceinline__ bool copied_finite(const SCALAR *tile)
{
    const int row = threadIdx.x / UNITS;
    tile += row * STRIDE + threadIdx.x % UNITS * UNIT;
    float check = 0.0f; /* or NaN */
#pragma unroll
    for (int i = 0; i < COUNT; i += AT_ONCE)
        if (COUNT % AT_ONCE == 0 || row + i < COUNT) {
            float values[UNIT];
            load<UNIT>(values, tile + i * STRIDE);
#pragma unroll
            for (int j = 0; j < UNIT; j++)
                check = fmaf(values[j], 0.0f, check);
        }
    return check == 0.0f;
}

/* The same for a tile that was copied before the first that the block walks over. */
template <int COUNT> __device__ __forceinline__ void round_own(SCALAR *tile)
{
    if constexpr (PRECISION == TF32)
        cp_async_wait<0>();
    round_tile<COUNT>(tile);
}

/* Writes a warp's 16 M rows, of which `left` exist, by way of a tile that only this warp uses. */
template <int M>
__device__ __forceinline__ void store_rows(SCALAR *tile, const float (&c)[M][COLUMNS][4],
                                           SCALAR *target, long long stride, int left, int size)
{
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = 16 * m + lane_group() + 8 * half;
                const float pair[2] = {c[m][n][2 * half], c[m][n][2 * half + 1]};
                store_shared<2>(tile + row * STRIDE + 8 * n + 2 * lane_member(), pair);
            }
    __syncwarp();
    const int row = threadIdx.x % WARP / UNITS, column = threadIdx.x % UNITS * UNIT;
#pragma unroll
    for (int i = row; i < row + 16 * M; i += WARP / UNITS)
        if (i < left && column < size)
            *reinterpret_cast<uint4 *>(target + i * stride + column) =
                *reinterpret_cast<const uint4 *>(tile + i * STRIDE + column);
}

/* The operand a of sixteen rows, and b of sixteen rows for two products: 32 bytes of each row, by
 * one instruction, which for TF32 moves each number as two halves. */
__device__ __forceinline__ void load_a(unsigned (&a)[4], const SCALAR *rows)
{
    const int lane = threadIdx.x % WARP;
    ldmatrix_x4(a, rows + lane % 16 * STRIDE + lane / 16 * UNIT);
}

__device__ __forceinline__ void load_b(unsigned (&b)[4], const SCALAR *rows)
{
    const int lane = threadIdx.x % WARP;
    ldmatrix_x4(b, rows + (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * UNIT);
}

__device__ __forceinline__ void multiply(float *c, const unsigned *a, const unsigned *b)
{
    if constexpr (PRECISION == BF16)
        mma_m16n8k16_bf16(c, a, b);
    else
        mma_m16n8k8_tf32(c, a, b);
}

__device__ __forceinline__ float dot(const float4 &a, const float4 &b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* c += a b^T, for the warp's 16 M rows of a tile a and all 8 N rows of a tile b. */
template <int M, int N>
__device__ __forceinline__ void multiply_rows(float (&c)[M][N][4], const SCALAR *a,
                                              const SCALAR *b)
{
    if constexpr (PRECISION == PLAIN) {
        const SCALAR *own = a + lane_group() * STRIDE, *other = b + 2 * lane_member() * STRIDE;
#pragma unroll 4
        for (int k = 0; k < HEAD; k += 4) {
            float4 rows[2 * M];
#pragma unroll
            for (int i = 0; i < 2 * M; i++)
                rows[i] = *reinterpret_cast<const float4 *>(own + 8 * i * STRIDE + k);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const float4 column =
                        *reinterpret_cast<const float4 *>(other + (8 * n + j) * STRIDE + k);
#pragma unroll
                    for (int i = 0; i < 2 * M; i++) {
                        float &sum = c[i / 2][n][i % 2 * 2 + j];
                        sum = dot(rows[i], column, sum);
                    }
                }
        }
    } else {
#pragma unroll
        for (int k = 0; k < HEAD; k += 2 * UNIT) {
            unsigned rows[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
                load_a(rows[m], a + 16 * m * STRIDE + k);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                unsigned columns[4];
                load_b(columns, b + 8 * n * STRIDE + k);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply(c[m][n], rows[m], columns);
                    multiply(c[m][n + 1], rows[m], columns + 2);
                }
            }
        }
    }
}

/* c += w b, for the warp's 16 M rows of weights w, in registers in the layout of sums, and the 8 N
 * rows of a tile b.
 *
 * The layout of sums is not that of the operand a. For BF16 it is but a matter of which registers
 * go together. For TF32 the order of a product's eight terms is changed in both operands: t and
 * t + 4 stand for the columns 2 t and 2 t + 1. */
template <int M, int N>
__device__ __forceinline__ void multiply_weights(float (&c)[M][COLUMNS][4],
                                                 const float (&w)[M][N][4], const SCALAR *b)
{
    const int lane = threadIdx.x % WARP, g = lane_group(), t = lane_member();
    if constexpr (PRECISION == BF16) {
#pragma unroll
        for (int k = 0; k < N; k += 2) {
            unsigned rows[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    rows[m][i] = pack_bf16(w[m][k + i / 2][i % 2 * 2],
                                           w[m][k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
            for (int n = 0; n < COLUMNS; n += 2) {
                unsigned columns[4];
                ldmatrix_x4_trans(columns, b + (8 * k + lane % 16) * STRIDE + 8 * (n + lane / 16));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    multiply(c[m][n], rows[m], columns);
                    multiply(c[m][n + 1], rows[m], columns + 2);
                }
            }
        }
    } else if constexpr (PRECISION == TF32) {
#pragma unroll
        for (int k = 0; k < N; k++) {
            unsigned rows[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    rows[m][i] = to_tf32(w[m][k][i % 2 * 2 + i / 2]);
            const SCALAR *first = b + (8 * k + 2 * t) * STRIDE + g;
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) {
                const unsigned columns[2] = {__float_as_uint(first[8 * n]),
                                             __float_as_uint(first[STRIDE + 8 * n])};
#pragma unroll
                for (int m = 0; m < M; m++)
                    multiply(c[m][n], rows[m], columns);
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < 8 * N; k++) {
            /* the weights of column k, from the lanes of this row that have them */
            float rows[2 * M];
#pragma unroll
            for (int i = 0; i < 2 * M; i++)
                rows[i] = __shfl_sync(ALL_LANES, w[i / 2][k / 8][i % 2 * 2 + k % 2],
                                      4 * g + k % 8 / 2);
            const SCALAR *first = b + k * STRIDE + 2 * t;
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) {
                float columns[2];
                load<2>(columns, first + 8 * n);
#pragma unroll
                for (int i = 0; i < 2 * M; i++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        c[i / 2][n][i % 2 * 2 + j] += rows[i] * columns[j];
            }
        }
    }
}

/* The same without what is not seen, of which there may be infinities and NaN: seen(row, column)
 * says so of a weight. In float32 for every precision; in loops that are seldom run, and short. */
template <int M, int N, typename Seen>
__device__ __forceinline__ void multiply_seen(float (&c)[M][COLUMNS][4],
                                              const float (&w)[M][N][4], const SCALAR *b,
                                              const Seen &seen)
{
    const int g = lane_group(), t = lane_member();
#pragma unroll 1
    for (int k = 0; k < 8 * N; k++) {
        float rows[2 * M];
        bool sees[2 * M];
#pragma unroll
        for (int i = 0; i < 2 * M; i++) {
            float own = 0.0f; /* the weight of column k, where this lane has it */
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    own = k / 8 == n && k % 2 == j ? w[i / 2][n][i % 2 * 2 + j] : own;
            rows[i] = __shfl_sync(ALL_LANES, own, 4 * g + k % 8 / 2);
            sees[i] = seen(8 * i + g, k);
        }
        const SCALAR *first = b + k * STRIDE + 2 * t;
#pragma unroll
        for (int n = 0; n < COLUMNS; n++) {
            float columns[2];
            load<2>(columns, first + 8 * n);
#pragma unroll
            for (int i = 0; i < 2 * M; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    if (sees[i])
                        c[i / 2][n][i % 2 * 2 + j] += rows[i] * columns[j];
        }
    }
}

/* Writes a warp's 16 M rows of weights, SLOPE_STRIDE apart, as tensor cores take them; zeros from
 * row `left` on. */
template <int M, int N>
__device__ __forceinline__ void store_slopes(SCALAR *tile, const float (&w)[M][N][4], int left)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = 16 * m + lane_group() + 8 * half;
                float pair[2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    pair[j] = row < left ? w[m][n][2 * half + j] : 0.0f;
                    if constexpr (PRECISION == TF32)
                        pair[j] = __uint_as_float(to_tf32(pair[j]));
                }
                store_shared<2>(tile + row * SLOPE_STRIDE + 8 * n + 2 * lane_member(), pair);
            }
}

/* Adds two elements to neighbours in global memory, the first at a multiple of eight bytes. */
__device__ __forceinline__ void add_pair(float *target, float first, float second)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v2.f32 [%0], {%1, %2};\n" ::"l"(__cvta_generic_to_global(target)),
                 "f"(first), "f"(second)
                 : "memory");
#else
    atomicAdd(target, first);
    atomicAdd(target + 1, second);
#endif
}

/* sums += a^T b by atomic additions, for tiles a of COUNT rows and 32 columns, SLOPE_STRIDE apart,
 * and b of COUNT rows. `sums` has rows of HEAD elements; `left` rows of `size` exist. Unless
 * all of b is `finite`, row i of the sums is of the rows up to i + shift alone.
 *
 * Each warp has sixteen of the 32 rows and half of the columns, over all rows of the tiles, so
 * that the block adds but once to each number. */
template <int COUNT>
__device__ __forceinline__ void add_transposed(float *sums, const SCALAR *a, const SCALAR *b,
                                               int left, int size, bool finite, int shift)
{
    if (!finite) { /* one number after the other, as registers are few */
#pragma unroll 1
        for (int place = threadIdx.x; place < BACKWARD_OTHERS * HEAD; place += THREADS) {
            const int i = place / HEAD, j = place % HEAD, end = min(COUNT, i + shift + 1);
            float sum = 0.0f;
#pragma unroll 1
            for (int k = 0; k < end; k++)
                sum += to_float(a[k * SLOPE_STRIDE + i]) * to_float(b[k * STRIDE + j]);
            if (i < left && j < size)
                atomicAdd(sums + i * HEAD + j, sum);
        }
        return;
    }
    /* how many products at a time, as registers are few on the tensor cores' path */
    constexpr int N = PRECISION == PLAIN || COLUMNS < 8 ? COLUMNS / 2 : 4;
    const int lane = threadIdx.x % WARP, g = lane_group(), t = lane_member();
    const int warp = threadIdx.x / WARP, row = 16 * (warp % 2);
    a += row;
#pragma unroll 1
    for (int column = COLUMNS / 2 * 8 * (warp / 2), end = column + COLUMNS / 2 * 8; column < end;
         column += 8 * N) {
        float c[N][4] = {};
        if constexpr (PRECISION == BF16) {
#pragma unroll 2
            for (int k = 0; k < COUNT; k += 16) {
                unsigned rows[4];
                ldmatrix_x4_trans(rows, a + (k + lane / 16 * 8 + lane % 8) * SLOPE_STRIDE +
                                            lane / 8 % 2 * 8);
#pragma unroll
                for (int n = 0; n < N; n++) {
                    unsigned columns[2];
                    ldmatrix_x2_trans(columns, b + (k + lane % 16) * STRIDE + column + 8 * n);
                    multiply(c[n], rows, columns);
                }
            }
        } else if constexpr (PRECISION == TF32) {
            /* t and t + 4 stand for the terms 2 t and 2 t + 1, as in multiply_weights */
#pragma unroll 2
            for (int k = 0; k < COUNT; k += 8) {
                const SCALAR *first = b + (k + 2 * t) * STRIDE + column + g;
                unsigned rows[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int term = k + 2 * t + i / 2;
                    rows[i] = __float_as_uint(a[term * SLOPE_STRIDE + g + i % 2 * 8]);
                }
#pragma unroll
                for (int n = 0; n < N; n++) {
                    const unsigned columns[2] = {__float_as_uint(first[8 * n]),
                                                 __float_as_uint(first[STRIDE + 8 * n])};
                    multiply(c[n], rows, columns);
                }
            }
        } else {
#pragma unroll 4
            for (int k = 0; k < COUNT; k++) {
                const float rows[2] = {to_float(a[k * SLOPE_STRIDE + g]),
                                       to_float(a[k * SLOPE_STRIDE + g + 8])};
#pragma unroll
                for (int n = 0; n < N; n++) {
                    float columns[2];
                    load<2>(columns, b + k * STRIDE + column + 8 * n + 2 * t);
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        c[n][e] += rows[e / 2] * columns[e % 2];
                }
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int i = row + g + 8 * half, j = column + 8 * n + 2 * t;
                if (i < left && j < size)
                    add_pair(sums + i * HEAD + j, c[n][2 * half], c[n][2 * half + 1]);
            }
    }
}

/* Gives those of the warp's 16 M rows and 8 N columns a value that are hidden: in row i all columns
 * from `first + i` on, and from `count` on. */
template <int M, int N>
__device__ __forceinline__ void hide_behind(float (&c)[M][N][4], int first, int count,
                                            float value)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 16 * m + lane_group() + 8 * half;
            const int own = min(count, first + row) - 2 * lane_member();
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    if (8 * n + j >= own)
                        c[m][n][2 * half + j] = value;
        }
}

/* The same for columns before `first + i`, in row i. */
template <int M, int N>
__device__ __forceinline__ void hide_before(float (&c)[M][N][4], int first, float value)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int own = first + 16 * m + lane_group() + 8 * half - 2 * lane_member();
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    if (8 * n + j < own)
                        c[m][n][2 * half + j] = value;
        }
}

/* Draws the mask of the warp's 16 M rows and 8 N columns: `element` is the number of the first,
 * rows are `stride` apart. kept[m][i] has columns 16 i to 16 i + 15 of row 16 m + g in its low
 * half and of row 16 m + g + 8 in its high half, all of it shifted so that this lane's are where
 * those of lane 0 would be. */
template <int M, int N>
__device__ __forceinline__ void draw_by_rows(unsigned (&kept)[M][N / 2], const Mask &mask,
                                             Word element, Word stride)
{
    const int g = lane_group(), t = lane_member();
#pragma unroll
    for (int first = 0; first < M * N; first += 4) {
        /* the four lanes of a row each draw sixteen columns of one of its two halves */
        const int mine = first + t, pair = mine / 2;
        const int row = pair / (N / 2) * 16 + g + mine % 2 * 8, column = pair % (N / 2) * 16;
        const unsigned drawn = mask.kept(element + row * stride + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned other = __shfl_sync(ALL_LANES, drawn, 4 * g + i);
            unsigned &both = kept[(first + i) / 2 / (N / 2)][(first + i) / 2 % (N / 2)];
            both = i % 2 ? (both | other << 16) >> 2 * t : other;
        }
    }
}

template <int M, int N>
__device__ __forceinline__ bool is_kept_by_rows(const unsigned (&kept)[M][N], int m, int n, int e)
{
    return kept[m][n / 2] >> (e / 2 * 16 + n % 2 * 8 + e % 2) & 1u;
}

/* The same where the mask's rows are the columns here: columns are `stride` apart. Four bits of the
 * result are those of this lane's four sums of a product. */
template <int M, int N>
__device__ __forceinline__ unsigned draw_by_columns(const Mask &mask, Word element, Word stride)
{
    static_assert(N == 4 && M * N <= 8, "a lane has 32 columns' bits to ask for, and 32 to keep");
    const int column = threadIdx.x % WARP, g = lane_group(), t = lane_member();
    unsigned kept = 0;
#pragma unroll
    for (int m = 0; m < M; m++) {
        const unsigned drawn = mask.kept(element + column * stride + 16 * m);
#pragma unroll
        for (int n = 0; n < N; n++) {
            const unsigned first = __shfl_sync(ALL_LANES, drawn, 8 * n + 2 * t);
            const unsigned second = __shfl_sync(ALL_LANES, drawn, 8 * n + 2 * t + 1);
            /* rows g and g + 8: bits 0 and 8 of either column; the product has them side by side */
            const unsigned own = (first | second << 16) >> g & 0x01010101u;
            kept |= (own * 0x01020408u >> 24) << 4 * (N * m + n);
        }
    }
    return kept;
}

template <int N>
__device__ __forceinline__ bool is_kept_by_columns(unsigned kept, int m, int n, int e)
{
    return kept >> (4 * (N * m + n) + e % 2 * 2 + e / 2) & 1u;
}
