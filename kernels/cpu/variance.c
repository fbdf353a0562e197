/* The variance over axes, with one look at each element: see reduce.py.
 *
 * Of each block of elements that follow each other the sums of d and d^2 are taken in double
 * precision, where d is the distance from the block's first element: of so few, and from one of
 * them, no digit is lost that single precision has. Blocks are joined by their means and sums of
 * squares (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"). */
#include "kernel.h"
#include "parallel_for.h"

/* Elements of a row in a block, and rows; columns that are worked on at once, and rows that are read
 * side by side; accumulators of a row, so that an addition need not wait for the last; and rows that
 * there must be at least for each of those that are taken for one. */
enum { BLOCK = 4096, BLOCK_ROWS = 128, LANES = 512, TOGETHER = 4, CHAINS = 32, FEWEST = 8 };

typedef struct {
    const float *x;
    float *mean, *y;
    int64_t rows, columns, stripes;
    double divisor;
} Job;

typedef struct {
    double mean, squares; /* squares: the sum of (x - mean)^2 */
} Moments;

/* Joins the moments of `count` elements to those of `seen` others. */
INLINE void join(double *mean, double *squares, int64_t seen, double other_mean,
                 double other_squares, int64_t count)
{
    const double share = (double)count / (double)(seen + count);
    const double delta = other_mean - *mean;
    *mean += delta * share;
    *squares += other_squares + delta * delta * ((double)seen * share);
}

/* The moments of elements of which each is `shift` + d, from the sums of d and d^2. */
INLINE Moments centred(double shift, double sum, double squares, int64_t count)
{
    const double rest = sum / (double)count;
    return (Moments){shift + rest, squares - rest * sum};
}

INLINE Moments of_block(const float *x, int64_t count)
{
    const double shift = (double)x[0];
    double sums[CHAINS] = {0}, squares[CHAINS] = {0};
    int64_t i = 0;
    for (; i + CHAINS <= count; i += CHAINS)
#pragma omp simd
        for (int64_t k = 0; k < CHAINS; k++) {
            const double d = (double)x[i + k] - shift;
            sums[k] += d;
            squares[k] += d * d;
        }
    for (; i < count; i++) {
        const double d = (double)x[i] - shift;
        sums[0] += d;
        squares[0] += d * d;
    }
    for (int64_t half = CHAINS / 2; half; half /= 2)
        for (int64_t k = 0; k < half; k++) {
            sums[k] += sums[k + half];
            squares[k] += squares[k + half];
        }
    return centred(shift, sums[0], squares[0], count);
}

MULTIVERSION static void of_rows(void *job, int64_t first, int64_t last)
{
    const Job *const a = job;
    for (int64_t i = first; i < last; i++) {
        const float *const x = a->x + i * a->rows;
        double mean = 0, squares = 0;
        for (int64_t start = 0; start < a->rows; start += BLOCK) {
            const int64_t count = a->rows - start < BLOCK ? a->rows - start : BLOCK;
            const Moments block = of_block(x + start, count);
            join(&mean, &squares, start, block.mean, block.squares, count);
        }
        a->mean[i] = (float)mean;
        a->y[i] = (float)(squares / a->divisor);
    }
}

typedef struct {
    double mean[LANES], squares[LANES];
    double shift[LANES], sum[LANES], sum_of_squares[LANES]; /* of a block */
} Lanes;

/* Joins rows that are `stride` apart to `seen` rows before, of some columns. */
INLINE void add_rows(Lanes *at, int64_t seen, const float *x, int64_t rows, int64_t stride,
                     int64_t columns)
{
    while (rows > 0) {
        const int64_t count = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
        for (int64_t j = 0; j < columns; j++) {
            at->shift[j] = (double)x[j];
            at->sum[j] = at->sum_of_squares[j] = 0;
        }
        int64_t i = 0;
        for (; i + TOGETHER <= count; i += TOGETHER, x += TOGETHER * stride)
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) {
                const double shift = at->shift[j];
                const double a = (double)x[j] - shift, b = (double)x[stride + j] - shift;
                const double c = (double)x[2 * stride + j] - shift;
                const double d = (double)x[3 * stride + j] - shift;
                at->sum[j] += (a + b) + (c + d);
                at->sum_of_squares[j] += (a * a + b * b) + (c * c + d * d);
            }
        for (; i < count; i++, x += stride)
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) {
                const double d = (double)x[j] - at->shift[j];
                at->sum[j] += d;
                at->sum_of_squares[j] += d * d;
            }
        for (int64_t j = 0; j < columns; j++) {
            const Moments block =
                centred(at->shift[j], at->sum[j], at->sum_of_squares[j], count);
            join(&at->mean[j], &at->squares[j], seen, block.mean, block.squares, count);
        }
        seen += count;
        rows -= count;
    }
}

/* Stripes of columns. Of short rows several are taken for one, whose parts are joined at the end. */
MULTIVERSION static void of_columns(void *job, int64_t first, int64_t last)
{
    const Job *const a = job;
    const int64_t rows = a->rows, columns = a->columns;
    const int64_t fit = LANES / columns, enough = rows / FEWEST;
    const int64_t beside = fit < 2 || enough < 2 ? 1 : fit < enough ? fit : enough;
    const int64_t whole = rows / beside;
    Lanes at;
    for (int64_t i = first; i < last; i++) {
        const int64_t start = i % a->stripes * LANES;
        const int64_t width = columns - start < LANES ? columns - start : LANES;
        const int64_t result = i / a->stripes * columns + start;
        const float *const x = a->x + i / a->stripes * rows * columns + start;
        memset(at.mean, 0, sizeof at.mean);
        memset(at.squares, 0, sizeof at.squares);
        add_rows(&at, 0, x, whole, beside * columns, beside * width);
        for (int64_t k = 1; k < beside; k++)
            for (int64_t j = 0; j < width; j++)
                join(&at.mean[j], &at.squares[j], k * whole, at.mean[k * width + j],
                     at.squares[k * width + j], whole);
        add_rows(&at, beside * whole, x + beside * whole * columns, rows - beside * whole, columns,
                 width);
        for (int64_t j = 0; j < width; j++) {
            a->mean[result + j] = (float)at.mean[j];
            a->y[result + j] = (float)(at.squares[j] / a->divisor);
        }
    }
}

/* Writes the mean (count, columns) over the rows of x (count, rows, columns), and y, the sum of
 * (x - mean)^2, divided. */
KERNEL_PLAIN(void, variance, IN(x, count * rows * columns), OUT(mean, count * columns),
             OUT(y, count * columns), COUNT(count), COUNT(rows), COUNT(columns),
             DOUBLE(divisor), COUNT(threads))
{
    const int64_t stripes = (columns + LANES - 1) / LANES;
    Job job = {x, mean, y, rows, columns, stripes, divisor};
    if (columns == 1)
        parallel_for(of_rows, &job, count, threads);
    else if (columns)
        parallel_for(of_columns, &job, count * stripes, threads);
}
