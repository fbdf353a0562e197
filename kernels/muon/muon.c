/* Muon on matrices of one shape: see reference.py for the equations, and muon_blocks.h for the
 * products. Each matrix is one thread's from its gradient to its weights, and all that is computed
 * of it on the way lies in the nearer caches; so its bits do not depend on others, nor on threads. */
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
#include "widths.h"

/* Of the widest registers; numbers whose squares are added up side by side; of a product at a time,
 * so that what it reads of a panel stays in the nearest cache. */
enum { WIDEST_PANEL = 32, LINE = 16, SUMS = 32, DEPTH = 384 };

typedef struct {
    float *parameter, *exp_avg, *result; /* `result` is for what is not applied to parameters */
    const float *grad;
    const int64_t *starts;
    int64_t rows, columns, steps;
    const double *coefficients;
    float grad_scale, momentum, decay, rate;
    int nesterov;
    atomic_int failed;
} Muon;

/* What a thread works with. Matrices are in panels but for x, which lies by rows; `panels` and
 * `turned` have x and its transpose, or in the end what x has become. */
typedef struct {
    float *x, *panels, *turned, *gram, *factor, *product, *total;
} Room;

INLINE int64_t between(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

#define BLOCKS "../muon/muon_blocks.h"
#define ROWS (LANES == 16 ? 8 : 4)
#include "each_width.h"

typedef void EachMatrix(const Muon *muon, const Room *room, int64_t first, int64_t last);

static EachMatrix *each_matrix = each_matrix_portable;

KERNEL_PLAIN(int64_t, muon_choose_lanes, INTEGER(most))
{
    const int64_t lanes = widest_lanes(most);
    each_matrix = OF_WIDTH(lanes, each_matrix);
    return lanes;
}

AT_LOAD(muon_choose_lanes)

static void some_matrices(void *job, int64_t first, int64_t last)
{
    Muon *const muon = job;
    const int64_t rows = rounded_up(muon->rows, WIDEST_PANEL);
    const int64_t columns = rounded_up(muon->columns, WIDEST_PANEL);
    const int64_t all = rows * columns, square = least(rows, columns) * least(rows, columns);
    /* the size that aligned_alloc takes is a multiple of the alignment */
    float *const memory = aligned_alloc(sizeof(float[LINE]),
                                        (size_t)(3 * all + 4 * square) * sizeof(float));
    if (!memory) {
        atomic_store(&muon->failed, 1);
        return;
    }
    float *const squares = memory + 3 * all;
    const Room room = {memory,           memory + all,         memory + 2 * all,    squares,
                       squares + square, squares + 2 * square, squares + 3 * square};
    each_matrix(muon, &room, first, last);
    free(memory);
}

/* `starts` of matrices (rows, columns) are within the buffers; `coefficients` are (steps, 3). */
KERNEL_PLAIN(int, muon_update, OUT(parameter, size), IN(grad, size), OUT(exp_avg, size),
             IN_INT64(starts, count), IN_DOUBLE(coefficients, 3 * steps), COUNT(size), COUNT(count),
             COUNT(rows), COUNT(columns), COUNT(steps), REAL(grad_scale), REAL(momentum),
             COUNT(nesterov), REAL(decay), REAL(lr), REAL(stretch), COUNT(threads))
{
    for (int64_t i = 0; i < count; i++)
        if (starts[i] < 0 || starts[i] > size - rows * columns)
            return -1;
    Muon job = {parameter,    exp_avg,    NULL,     grad,  starts,       rows,          columns, steps,
                coefficients, grad_scale, momentum, decay, lr * stretch, nesterov != 0, 0};
    parallel_for(some_matrices, &job, count, threads);
    return job.failed ? -1 : 0;
}

/* result = x (count, rows, columns), each matrix with its singular values brought near to 1 */
KERNEL_PLAIN(int, muon_orthogonalize, IN(x, count * rows * columns),
             OUT(result, count * rows * columns), IN_DOUBLE(coefficients, 3 * steps), COUNT(count),
             COUNT(rows), COUNT(columns), COUNT(steps), COUNT(threads))
{
    Muon job = {NULL,         NULL, result, x, NULL, rows, columns, steps,
                coefficients, 1,    0,      1, 0,    0,    0};
    parallel_for(some_matrices, &job, count, threads);
    return job.failed ? -1 : 0;
}
