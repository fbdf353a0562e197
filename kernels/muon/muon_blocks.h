/* One matrix of Muon after the other: see muon.c.
 *
 * Included for each width of vector registers, see each_width.h; ROWS divides PANEL.
 *
 * All that becomes of G from step to step is a polynomial in the first G, so it is symmetric, and
 * any two commute. Only blocks of their products on and below the diagonal are computed; the others
 * are these, turned. They lie in panels as right operands do. A symmetric matrix is its transpose,
 * so that these are left operands, too, of which the elements that a tile needs are neighbours. */
#include "panels.h"
#include "tile.h"

/* result (rows, LANES) = [result +] left (rows, depth) right (depth, LANES): half of a tile's columns,
 * all of them in panels as in symmetric_product */
TARGET INLINE void NAME(half_tile)(int rows, int64_t depth, const float *left, const float *right,
                                   float *result, int add)
{
    NAME(Vector) sum[ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        sum[i] = add ? *(NAME(Vector) *)(result + i * PANEL) : (NAME(Vector)){0};
    for (int64_t p = 0; p < depth; p++) {
        const NAME(Vector) factors = *(const NAME(Vector) *)(right + p * PANEL);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            sum[i] += left[p * PANEL + i] * factors;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        *(NAME(Vector) *)(result + i * PANEL) = sum[i];
}

/* result (size, size) = left^T right, of panels (depth, size), where that is symmetric. Of a block
 * on the diagonal, a quarter is half of it turned. */
TARGET static void NAME(symmetric_product)(int64_t size, int64_t depth, const float *left,
                                           const float *right, float *result)
{
    for (int64_t j = 0; j < size; j += PANEL) {
        for (int64_t i = j; i < size; i += PANEL) {
            const int64_t rows = least(size - i, PANEL);
            const int64_t halved = i == j && rows == PANEL ? LANES : 0;
            float *const block = result + j * size + i * PANEL;
            for (int64_t p = 0; p < depth; p += DEPTH) {
                const float *const a = left + i * depth + p * PANEL;
                const float *const b = right + j * depth + p * PANEL;
                const int64_t deep = least(depth - p, DEPTH);
                for (int64_t k = 0; k < halved; k += ROWS)
                    NAME(half_tile)(ROWS, deep, a + k, b, block + k * PANEL, p > 0);
                NAME(multiply)(ALL, 0, rows - halved, PANEL, deep, a + halved, 1, PANEL, b, 0,
                               block + halved * PANEL, PANEL, p > 0);
            }
            if (halved)
                NAME(transpose)(block + LANES * PANEL, PANEL, block + LANES, PANEL);
            if (i > j)
                NAME(pack_transposed)(block, PANEL, PANEL, rows, result + i * size + j * PANEL);
        }
    }
}

/* factor = a I + b gram + c factor, which is the square of gram */
TARGET static void NAME(polynomial)(int64_t size, const double *step, const float *gram,
                                    float *factor)
{
    const float a = (float)step[0], b = (float)step[1], c = (float)step[2];
    const int64_t all = rounded_up(size, PANEL) * size;
    for (int64_t i = 0; i < all; i++)
        factor[i] = c * factor[i] + b * gram[i];
    for (int64_t i = 0; i < size; i++)
        factor[i / PANEL * PANEL * size + i * PANEL + i % PANEL] += a;
}

/* Returns the product of all factors, in panels, of x in panels (depth, size). */
TARGET static const float *NAME(all_factors)(const Muon *muon, int64_t size, int64_t depth,
                                             const float *x, const Room *room)
{
    float *gram = room->gram, *factor = room->factor, *product = room->product;
    float *total = room->total;
    NAME(symmetric_product)(size, depth, x, x, gram);
    for (int64_t step = 0; step < muon->steps; step++) {
        NAME(symmetric_product)(size, size, gram, gram, factor);
        NAME(polynomial)(size, muon->coefficients + 3 * step, gram, factor);
        if (step + 1 < muon->steps) {
            NAME(symmetric_product)(size, size, gram, factor, product);
            NAME(symmetric_product)(size, size, product, factor, gram);
        }
        float *const before = total;
        if (step == 0) {
            total = factor;
            factor = before;
        } else {
            NAME(symmetric_product)(size, size, total, factor, product);
            total = product;
            product = before;
        }
    }
    return total;
}

/* x = what the gradient adds to the weights of a matrix, and returns the sum of its squares */
TARGET static double NAME(direction)(const Muon *muon, int64_t start, float *restrict x)
{
    const int64_t size = muon->rows * muon->columns;
    const float *const grad = muon->grad + start;
    if (muon->exp_avg) {
        const float scale = muon->grad_scale, kept = muon->momentum, added = 1 - kept;
        float *restrict const exp_avg = muon->exp_avg + start;
        for (int64_t i = 0; i < size; i++) {
            const float g = grad[i] * scale;
            const float m = exp_avg[i] + (g - exp_avg[i]) * added;
            exp_avg[i] = m;
            x[i] = muon->nesterov ? m * kept + g * added : m;
        }
    } else {
        memcpy(x, grad, (size_t)size * sizeof(float));
    }
    double sums[SUMS] = {0}, sum = 0;
    const int64_t whole = size - size % SUMS;
    for (int64_t i = 0; i < whole; i += SUMS)
        for (int64_t lane = 0; lane < SUMS; lane++)
            sums[lane] += (double)x[i + lane] * x[i + lane];
    for (int64_t i = whole; i < size; i++)
        sum += (double)x[i] * x[i];
    for (int64_t lane = 0; lane < SUMS; lane++)
        sum += sums[lane];
    return sum;
}

/* Takes what x has become, in panels, to where it is wanted. */
TARGET static void NAME(apply)(const Muon *muon, int64_t start, const float *panels)
{
    const int64_t rows = muon->rows, columns = muon->columns;
    const float decay = muon->decay, rate = muon->rate;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j += PANEL) {
            const int64_t count = least(columns - j, PANEL), to = start + i * columns + j;
            const float *const from = panels + j * rows + i * PANEL;
            float *const p = muon->parameter + to;
            if (muon->result)
                memcpy(muon->result + to, from, (size_t)count * sizeof(float));
            else if (count == PANEL)
                for (int64_t l = 0; l < PANEL; l++)
                    p[l] = p[l] * decay - from[l] * rate;
            else
                for (int64_t l = 0; l < count; l++)
                    p[l] = p[l] * decay - from[l] * rate;
        }
}

TARGET static void NAME(each_matrix)(const Muon *muon, const Room *room, int64_t first,
                                     int64_t last)
{
    const int64_t rows = muon->rows, columns = muon->columns, all = rows * columns;
    const int wide = rows < columns;
    const int64_t size = least(rows, columns), depth = wide ? columns : rows;
    for (int64_t matrix = first; matrix < last; matrix++) {
        const int64_t start = muon->starts ? muon->starts[matrix] : matrix * all;
        const double squares = NAME(direction)(muon, start, room->x);
        const double factor = squares == 0 ? 1 : 1 / sqrt(squares);
        for (int64_t i = 0; i < all; i++)
            room->x[i] = (float)(room->x[i] * factor);
        NAME(pack)(room->x, columns, rows, columns, room->panels);
        if (wide)
            NAME(pack_transposed)(room->x, columns, columns, rows, room->turned);
        const float *const operand = wide ? room->turned : room->panels;
        const float *const total = NAME(all_factors)(muon, size, depth, operand, room);
        for (int64_t j = 0; j < columns; j += PANEL) {
            float *const to = room->turned + j * rows;
            for (int64_t p = 0; p < size; p += DEPTH) {
                const int64_t deep = least(size - p, DEPTH);
                if (!wide)
                    NAME(multiply)(ALL, 0, rows, PANEL, deep, room->x + p, columns, 1,
                                   total + j * size + p * PANEL, 0, to, PANEL, p > 0);
                else
                    for (int64_t i = 0; i < rows; i += PANEL)
                        NAME(multiply)(ALL, 0, least(rows - i, PANEL), PANEL, deep,
                                       total + i * size + p * PANEL, 1, PANEL,
                                       room->panels + j * rows + p * PANEL, 0, to + i * PANEL,
                                       PANEL, p > 0);
            }
        }
        NAME(apply)(muon, start, room->turned);
    }
}
