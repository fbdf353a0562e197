/* Matrix products: our own, or those of the BLAS that NumPy uses.
 *
 * Ours copies a block of the right operand at a time, DEPTH by COLUMNS, into panels. A tile of a
 * few rows of the result then goes through all panels, one after the other. The processor foresees
 * that and has each in its nearest cache in time, though only the second or third has room for all.
 *
 * The left operand is read where it lies. A tile's few rows stay in the nearest cache, and of a
 * transposed operand the elements that a tile needs at a time are neighbours. The first block of
 * the depth writes the result, and later ones add to it. A BLAS made for large matrices copies the
 * left operand, too, and begins with a result of zeros. That takes a tenth of its time at the sizes
 * of a small model.
 *
 * The order of a sum depends on its length and on the processor, not on where the operands lie or
 * which thread computes it. */
#if defined(__clang__)
#pragma clang fp contract(fast) /* a multiplication and an addition are one operation */
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif
#include <stdatomic.h>
#include <stdlib.h>

#include "kernel.h"
#include "panels.h"
#include "parallel_for.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDER_REGISTERS 1
#endif

/* The most that a block holds of the depth and the columns: 48 KiB of a panel, 2.3 MB of all. */
enum { DEPTH = 384, COLUMNS = 1536 };

/* Threads get a multiple of these rows: of every ROWS. */
enum { ROWS_TOGETHER = 24 };

enum { LINE = 16 };

typedef struct {
    const float *a, *b;
    float *c;
    int64_t rows, columns, depth;
    int transpose_a, transpose_b, add;
    int64_t part; /* rows of each thread */
    atomic_int failed;
} Product;

typedef void TileFunction(int64_t rows, int64_t depth, const float *left, int64_t left_stride,
                          const float *right, float *result, int64_t result_row, int add);

/* Returns how much to take at a time of `all`, at most `most`, for the parts to be about equal. */
INLINE int64_t share(int64_t all, int64_t most, int64_t multiple)
{
    const int64_t parts = (all + most - 1) / most;
    return rounded_up((all + parts - 1) / parts, multiple);
}

INLINE float *take_lines(int64_t count)
{
    /* the size that aligned_alloc takes is a multiple of the alignment */
    return aligned_alloc(sizeof(float[LINE]), (size_t)rounded_up(count, LINE) * sizeof(float));
}

#define LANES 4
#define ROWS 4
#define TARGET
#define NAME(name) name##_portable
#include "product_blocks.h"

#if HAS_WIDER_REGISTERS
#define LANES 8
#define ROWS 6
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(name) name##_avx2
#include "product_blocks.h"

#define LANES 16
#define ROWS 8
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define NAME(name) name##_avx512
#include "product_blocks.h"
#endif

typedef int Multiply(const Product *product, int64_t begin, int64_t end);

static Multiply *multiply = multiply_portable;
static int64_t lanes = 4;

KERNEL_PLAIN(int64_t, product_choose_lanes, INTEGER(most))
{
    multiply = multiply_portable;
    lanes = 4;
#if HAS_WIDER_REGISTERS
    if (most >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        multiply = multiply_avx512;
        lanes = 16;
    } else if (most >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        multiply = multiply_avx2;
        lanes = 8;
    }
#else
    (void)most;
#endif
    return lanes;
}

#if HAS_WIDER_REGISTERS
__attribute__((constructor)) static void choose_widest(void)
{
    __builtin_cpu_init();
    product_choose_lanes(INT64_MAX);
}
#endif

/* cblas_sgemm, with integers of four or eight bytes: whose library NumPy uses, see blas.py. */
typedef void Sgemm4(int order, int transpose_a, int transpose_b, int32_t rows, int32_t columns,
                    int32_t depth, float alpha, const float *a, int32_t a_row, const float *b,
                    int32_t b_row, float beta, float *c, int32_t c_row);
typedef void Sgemm8(int order, int transpose_a, int transpose_b, int64_t rows, int64_t columns,
                    int64_t depth, float alpha, const float *a, int64_t a_row, const float *b,
                    int64_t b_row, float beta, float *c, int64_t c_row);
static Sgemm4 *sgemm4;
static Sgemm8 *sgemm8;
static int64_t largest_size;
enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };

/* Takes the function at an address for product(), or none, and the largest size that it is given;
 * returns the bytes of its integers, or 0. */
KERNEL_PLAIN(int64_t, bind_sgemm, INTEGER(address), COUNT(integer_bytes), COUNT(largest))
{
    largest_size = integer_bytes == 4 && largest > INT32_MAX ? INT32_MAX : largest;
    sgemm4 = integer_bytes == 4 ? (Sgemm4 *)(intptr_t)address : NULL;
    sgemm8 = integer_bytes == 8 ? (Sgemm8 *)(intptr_t)address : NULL;
    return integer_bytes;
}

/* Whether a BLAS takes such sizes, and OpenBLAS was faster, where it was measured: not with 512 bits
 * in a register; with 256 it copies a transposed left operand to better effect than the 24 bytes of
 * a cache line that our tiles take at a time. */
static int is_for_blas(int64_t rows, int64_t columns, int64_t depth, int transpose_a)
{
    return (sgemm4 || sgemm8) && (lanes < 8 || (lanes == 8 && transpose_a)) &&
           rows <= largest_size && columns <= largest_size && depth <= largest_size;
}

static void some_rows(void *job, int64_t first, int64_t last)
{
    Product *const product = job;
    const int64_t end = least(last * product->part, product->rows);
    if (multiply(product, first * product->part, end) < 0)
        atomic_store(&product->failed, 1);
}

/* c (rows, columns) = [c +] a b, of which a (rows, depth) and b (depth, columns) may lie transposed
 * in memory: (depth, rows), (columns, depth). By `threads`, or by those that a BLAS
 * takes by itself. Returns -1 where there was no memory for it. */
KERNEL_PLAIN(int, product, IN(a, rows * depth), IN(b, depth * columns), OUT(c, rows * columns),
             COUNT(rows), COUNT(columns), COUNT(depth), COUNT(transpose_a), COUNT(transpose_b),
             COUNT(add), COUNT(threads))
{
    if (depth == 0 && !add)
        memset(c, 0, (size_t)(rows * columns) * sizeof(float));
    if (rows == 0 || columns == 0 || depth == 0)
        return 0;
    if (!is_for_blas(rows, columns, depth, transpose_a)) {
        /* one part for each thread, since each copies the whole right operand */
        const int64_t part = threads > 1 ? share(rows, (rows + threads - 1) / threads, ROWS_TOGETHER)
                                         : rows;
        Product job = {a, b, c, rows, columns, depth, transpose_a, transpose_b, add, part, 0};
        parallel_for(some_rows, &job, (rows + part - 1) / part, threads);
        return job.failed ? -1 : 0;
    }
    const int ta = transpose_a ? TRANSPOSED : AS_IT_IS, tb = transpose_b ? TRANSPOSED : AS_IT_IS;
    const int64_t a_row = transpose_a ? rows : depth, b_row = transpose_b ? depth : columns;
    const float beta = add ? 1 : 0;
    if (sgemm8)
        sgemm8(ROW_MAJOR, ta, tb, rows, columns, depth, 1, a, a_row, b, b_row, beta, c, columns);
    else
        sgemm4(ROW_MAJOR, ta, tb, (int32_t)rows, (int32_t)columns, (int32_t)depth, 1, a,
               (int32_t)a_row, b, (int32_t)b_row, beta, c, (int32_t)columns);
    return 0;
}
