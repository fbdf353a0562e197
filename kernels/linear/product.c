/* Matrix products: our own, or those of the BLAS that NumPy uses; of float32, or of operands that
 * are rounded to bfloat16.
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
 * which thread computes it.
 *
 * In bfloat16, the left operand is copied too, since an element is then a pair of rounded numbers:
 * a few rows at a time, right before they are multiplied. Sums are in float32, as is the result.
 * Their order does not depend on the processor, and one without the instruction gets to the same
 * bits, more slowly. */
#if defined(__clang__)
#pragma clang fp contract(fast) /* a multiplication and an addition are one operation */
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif
#include <stdatomic.h>
#include <stdlib.h>

#include "bfloat16.h"
#include "kernel.h"
#include "panels.h"
#include "parallel_for.h"
#include "widths.h"

/* The most elements that a block holds of the depth and of the columns: 48 KiB of a panel, 2.3 MB
 * of all. */
enum { DEPTH = 384, COLUMNS = 1536 };

/* Threads get a multiple of these rows: of every ROWS, and of every LANES in bfloat16. */
enum { ROWS_TOGETHER = 24, ROWS_OF_PAIRS = 16 };

/* What the parts of a depth in bfloat16 are multiples of, whatever the registers are. */
enum { PAIRS_TOGETHER = 32 };

enum { LINE = 16 };

typedef struct {
    const float *a, *b;
    float *c;
    int64_t rows, columns, depth;
    int transpose_a, transpose_b, add;
    int64_t part; /* rows of each thread */
    int bf16;
    atomic_int failed;
} Product;

typedef void TileFunction(int64_t rows, int64_t depth, const void *left, int64_t left_stride,
                          const void *right, float *result, int64_t result_row, int add);

/* Returns how much to take at a time of `all`, at most `most`, for the parts to be about equal. */
INLINE int64_t share(int64_t all, int64_t most, int64_t multiple)
{
    const int64_t parts = (all + most - 1) / most;
    return rounded_up((all + parts - 1) / parts, multiple);
}

INLINE void *take_lines(int64_t count)
{
    /* the size that aligned_alloc takes is a multiple of the alignment */
    return aligned_alloc(sizeof(float[LINE]), (size_t)rounded_up(count, LINE) * sizeof(float));
}

#define BLOCKS "../linear/product_blocks.h"
#define ROWS (LANES == 16 ? 8 : LANES == 8 ? 6 : 4)
#include "each_width.h"

#define BLOCKS "../linear/product_blocks.h"
#define ROWS (LANES == 16 ? 8 : 4)
#define DEEP 2
#include "each_width.h"

typedef int Multiply(const Product *product, int64_t begin, int64_t end);

static Multiply *multiply = multiply_portable, *multiply_bf16 = multiply_bf16_portable;
static int64_t lanes = 4;
Bf16Way bf16_way = BF16_PORTABLE;

KERNEL_PLAIN(int64_t, product_choose_lanes, INTEGER(most))
{
    lanes = widest_lanes(most);
    multiply = OF_WIDTH(lanes, multiply);
    return lanes;
}

/* Chooses how numbers in bfloat16 are multiplied: by the instruction for it (2), in the widest
 * registers (1), or by what each processor has (0); in the best way that there is, up to one.
 * Returns it. */
KERNEL_PLAIN(int64_t, product_choose_bf16, INTEGER(most))
{
    const int64_t widest = widest_lanes(most >= BF16_EMULATED ? INT64_MAX : 4);
    bf16_way = widest > 4 ? BF16_EMULATED : BF16_PORTABLE;
    multiply_bf16 = OF_WIDTH(widest, multiply_bf16);
#if HAS_BF16
    if (most >= BF16_INSTRUCTION && widest == 16 && __builtin_cpu_supports("avx512bf16")) {
        bf16_way = BF16_INSTRUCTION;
        multiply_bf16 = multiply_bf16_instruction;
    }
#endif
    return bf16_way;
}

AT_LOAD(product_choose_lanes)
AT_LOAD(product_choose_bf16)

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
    Multiply *const by = product->bf16 ? multiply_bf16 : multiply;
    if (by(product, first * product->part, end) < 0)
        atomic_store(&product->failed, 1);
}

/* Computes a product by our own kernels; returns -1 where there was no memory for it. */
static int compute(Product product, int64_t threads)
{
    const int64_t rows = product.rows, depth = product.depth;
    if (depth == 0 && !product.add)
        memset(product.c, 0, (size_t)(rows * product.columns) * sizeof(float));
    if (rows == 0 || product.columns == 0 || depth == 0)
        return 0;
    /* one part for each thread, since each copies the whole right operand */
    const int64_t together = product.bf16 ? ROWS_OF_PAIRS : ROWS_TOGETHER;
    product.part = threads > 1 ? share(rows, (rows + threads - 1) / threads, together) : rows;
    parallel_for(some_rows, &product, (rows + product.part - 1) / product.part, threads);
    return product.failed ? -1 : 0;
}

/* c (rows, columns) = [c +] a b, of which a (rows, depth) and b (depth, columns) may lie transposed
 * in memory: (depth, rows), (columns, depth). By `threads`, or by those that a BLAS
 * takes by itself. Returns -1 where there was no memory for it. */
KERNEL_PLAIN(int, product, IN(a, rows * depth), IN(b, depth * columns), OUT(c, rows * columns),
             COUNT(rows), COUNT(columns), COUNT(depth), COUNT(transpose_a), COUNT(transpose_b),
             COUNT(add), COUNT(threads))
{
    if (rows == 0 || columns == 0 || depth == 0 ||
        !is_for_blas(rows, columns, depth, transpose_a)) {
        const Product job = {a, b, c, rows, columns, depth, transpose_a, transpose_b, add, 0, 0, 0};
        return compute(job, threads);
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

/* The same of a and b rounded to bfloat16. */
KERNEL_PLAIN(int, product_bf16, IN(a, rows * depth), IN(b, depth * columns),
             OUT(c, rows * columns), COUNT(rows), COUNT(columns), COUNT(depth),
             COUNT(transpose_a), COUNT(transpose_b), COUNT(add), COUNT(threads))
{
    const Product job = {a, b, c, rows, columns, depth, transpose_a, transpose_b, add, 0, 1, 0};
    return compute(job, threads);
}
