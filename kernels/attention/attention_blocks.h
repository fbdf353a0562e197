/* Attention by blocks: see reference.py for the equations. Included for each width of vector
 * registers and each kind of elements, see each_width.h.
 *
 * A block of queries meets a block of keys at a time; their weights, which stay in the cache, are
 * all that there ever is of the (T, S) matrix. Forward keeps a running maximum and sum of each
 * row (Milakov and Gimelshein 2018, arXiv:1805.02867); backward computes the weights again, from
 * scores by the same additions in the same order: to the last bit those of which the maximum is
 * one. What a causal mask hides is not computed, but for the corners of register tiles. */
#include "panels.h"
#include "tile.h"

/* Returns where the mask's bits are set, `chosen`; elsewhere, `other`. */
TARGET INLINE NAME(Vector) NAME(select)(NAME(Integers) mask, NAME(Vector) chosen,
                                        NAME(Vector) other)
{
    return (NAME(Vector))(((NAME(Integers))chosen & mask) | ((NAME(Integers))other & ~mask));
}

/* exp(x) of each number, to about one unit in the last place, where x is less than 88: how far a
 * score is below the greatest of its row. x = n log 2 + r with
 * |r| <= log(2) / 2; exp(r) by a polynomial whose greatest relative error, 3e-9, is the least for
 * its degree; times 2^n, which is 0 from x = -88 down. In whole vectors, since the compiler turns
 * the bound of a loop over elements into branches and blends that cost as much as the rest. */
TARGET INLINE NAME(Vector) NAME(exponential)(NAME(Vector) x)
{
    /* adding 1.5 * 2^23 rounds to an integer, of which the exponent's bias of 127 is a part */
    const float shift = 12582912.0f + 127.0f;
    const NAME(Vector) low = (NAME(Vector)){0} - 88.0f;
    const NAME(Vector) z = NAME(select)(x < low, low, x); /* a NaN stays what it is */
    const NAME(Vector) shifted = z * 1.44269504f + shift, n = shifted - shift;
    const NAME(Vector) r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    NAME(Vector) p = r * 1.3814540580e-3f + 8.3687454462e-3f;
    p = p * r + 4.1668388993e-2f;
    p = p * r + 1.6666521132e-1f;
    p = p * r + 4.9999994040e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (NAME(Vector))((NAME(Integers))shifted << 23);
}

/* Returns the sum of the products of two rows' elements. */
TARGET INLINE float NAME(dot)(const float *x, const float *y, int64_t count)
{
    NAME(Vector) sums = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        sums += *(const NAME(Vector) *)(x + j) * *(const NAME(Vector) *)(y + j);
    float sum = 0;
    for (; j < count; j++)
        sum += x[j] * y[j];
    for (int i = 0; i < LANES; i++)
        sum += sums[i];
    return sum;
}

/* A left operand: its elements, and how far apart those of the next row and of the next step of the
 * depth lie. */
typedef struct {
    const NAME(Element) *data;
    int64_t row, step;
} NAME(Left);

/* Returns rows (rows, depth) as a left operand, of which row i is seen up to `seen + i`. Where an
 * element is more than a number, `room` holds them, and what is not seen of one has to be 0. */
TARGET INLINE NAME(Left) NAME(by_rows)(const float *from, int64_t from_row, int64_t rows,
                                       int64_t depth, int64_t seen, NAME(Element) *room)
{
#if DEEP == 1
    (void)rows, (void)depth, (void)seen, (void)room;
    return (NAME(Left)){from, from_row, 1};
#else
    const int64_t room_row = (depth + DEEP - 1) / DEEP;
    for (int64_t i = 0; i < rows; i++)
        NAME(copy_left)(from + i * from_row, from_row, 1,
                        between(seen + i + ROWS - 1 + DEEP - 1, 0, depth), room + i * room_row,
                        room_row);
    return (NAME(Left)){room, room_row, 1};
#endif
}

/* The same of rows (depth, columns), transposed: of step i, columns up to `seen + i` are seen. */
TARGET INLINE NAME(Left) NAME(by_columns)(const float *from, int64_t from_row, int64_t depth,
                                          int64_t columns, int64_t seen, NAME(Element) *room)
{
#if DEEP == 1
    (void)depth, (void)columns, (void)seen, (void)room;
    return (NAME(Left)){from, 1, from_row};
#else
    const int64_t room_row = rounded_up(columns, LANES);
    for (int64_t i = 0; i < depth; i += DEEP) {
        const float *const row = from + i * from_row;
        NAME(Element) *const to = room + i / DEEP * room_row;
        const int64_t count = between(seen + i + ROWS - 1 + DEEP - 1, 0, columns);
        if (i + DEEP <= depth)
            for (int64_t j = 0; j < count; j += LANES)
                *(NAME(Vector) *)(to + j) = NAME(across)(row + j, from_row);
        else
            for (int64_t j = 0; j < count; j++)
                to[j] = NAME(one)(row + j, from_row, depth - i);
    }
    return (NAME(Left)){room, 1, room_row};
#endif
}

/* Multiplies what is computed of scores by the scale's sign. */
TARGET INLINE void NAME(turn)(float *scores, int64_t queries, int64_t keys, float sign)
{
    if (sign == 1)
        return;
    for (int64_t i = 0; i < queries; i++)
        for (int64_t j = 0; j < keys; j++)
            scores[i * WEIGHTS_ROW + j] *= sign;
}

/* How many elements of a row of weights are worked on: those that are seen, and those that a
 * register tile may read beside them, which are to be 0. */
INLINE int64_t NAME(worked_on)(int64_t seen, int64_t keys)
{
    return rounded_up(least(seen + ROWS - 1, keys), LANES);
}

/* Writes `value` into a row of weights from what is not seen on, at least as far as it is read. */
TARGET INLINE void NAME(hide)(float *row, int64_t seen, float value)
{
    for (int j = 0; j < PANEL; j++)
        row[seen + j] = value;
}

/* Returns the largest number of a row, and of `peak`. */
TARGET INLINE float NAME(highest)(const float *row, int64_t count, float peak)
{
    NAME(Vector) most = (NAME(Vector)){0} + peak;
    for (int64_t j = 0; j < count; j += LANES) {
        const NAME(Vector) x = *(const NAME(Vector) *)(row + j);
        most = NAME(select)(x > most, x, most);
    }
    for (int i = 0; i < LANES; i++)
        peak = most[i] > peak ? most[i] : peak;
    return peak;
}

/* Turns scores into exp(magnitude * (score - peak)) and adds each row's to its total, of LANES
 * parts. A loop of its own over the rows, in which the constants of the exponential stay in
 * registers. */
TARGET static void NAME(exponentials)(float *scores, int64_t seen, int64_t queries, int64_t keys,
                                      float magnitude, const float *peak, float *total)
{
    for (int64_t i = 0; i < queries; i++) {
        const int64_t count = NAME(worked_on)(between(seen + i, 0, keys), keys);
        float *const row = scores + i * WEIGHTS_ROW;
        NAME(Vector) *const sum = (NAME(Vector) *)(total + i * LANES);
        const float base = peak[i] == -INFINITY ? 0 : peak[i];
        NAME(Vector) more = *sum;
        for (int64_t j = 0; j < count; j += LANES) {
            NAME(Vector) *const at = (NAME(Vector) *)(row + j);
            const NAME(Vector) e = NAME(exponential)((*at - base) * magnitude);
            *at = e;
            more += e;
        }
        *sum = more;
    }
}

/* Multiplies what is seen of each row, and some elements beside it, by the factors of dropout. */
TARGET static void NAME(drop)(const Attention *a, int64_t head, int64_t query, int64_t queries,
                              int64_t key, int64_t keys, BitsRow *bits, float *weights)
{
    for (int64_t i = 0; i < queries; i++) {
        const uint16_t *const row = bits_of(a, bits, head, query, i, key);
        float *const to = weights + i * WEIGHTS_ROW;
        const int64_t visible = between(a->seen + query + i - key, 0, keys);
        for (int64_t j = 0; j < visible; j += PHILOX_LANES)
#pragma omp simd
            for (int64_t l = 0; l < PHILOX_LANES; l++)
                to[j + l] *= dropout_factor(a->mask, row[j + l]);
    }
}

/* Draws the bits of a block of the mask. All at once: a processor is slow to read, as a vector,
 * what it has only just written word by word. */
TARGET static void NAME(draw)(const Attention *a, int64_t head, int64_t query, int64_t queries,
                              int64_t key, int64_t keys, BitsRow *bits)
{
    for (int64_t i = 0; i < queries; i++)
        dropout_bits(a->mask, mask_start(a, head, query + i, key),
                     between(a->seen + query + i - key, 0, keys), bits[i]);
}

#include "attention_few.h"
#include "attention_short.h"

INLINE int NAME(is_short)(const Attention *a)
{
    return a->queries <= LANES && a->keys <= KEYS;
}

TARGET static void NAME(forward_head)(const Attention *a, int64_t head, float *room)
{
    if (DEEP == 1 && a->queries < FEWEST_FOR_BLOCKS) {
        NAME(forward_few)(a, head, 0, a->queries, 0, room);
        return;
    }
    if (DEEP == 1 && NAME(is_short)(a)) {
        NAME(forward_short)(a, head, room);
        return;
    }
    const int64_t size = a->size, width = rounded_up(a->value_size, PANEL);
    const float *const q = head_of(a, &a->q, head), *const k = head_of(a, &a->k, head);
    float *const out = head_of(a, &a->out, head);
    NAME(Element) *const k_columns = take(&room, rounded_up(a->keys, PANEL) * size);
    NAME(Element) *const v_panels = take(&room, a->keys * width);
    NAME(Element) *const left = take(&room, DEEP > 1 ? QUERIES * (size + KEYS) : 0);
    float *const weights = take(&room, QUERIES * WEIGHTS_ROW);
    float *const sums = take(&room, QUERIES * width);
    float *const peak = take(&room, QUERIES), *const total = take(&room, QUERIES * LANES);
    BitsRow *const bits = (BitsRow *)take(&room, BITS_SIZE);
    const int64_t steps = (size + DEEP - 1) / DEEP, key_steps = (a->keys + DEEP - 1) / DEEP;
    NAME(pack_transposed)(k, a->k.row, size, a->keys, k_columns);
    NAME(pack)(head_of(a, &a->v, head), a->v.row, a->keys, a->value_size, v_panels);

    for (int64_t query = 0; query < a->queries; query += QUERIES) {
        const int64_t queries = least(QUERIES, a->queries - query);
        for (int64_t i = 0; i < queries; i++)
            peak[i] = -INFINITY;
        memset(total, 0, (size_t)(queries * LANES) * sizeof(float));
        memset(sums, 0, (size_t)(queries * width) * sizeof(float));
        const NAME(Left) own =
            NAME(by_rows)(q + query * a->q.row, a->q.row, queries, size, size, left);
        for (int64_t key = 0; key < a->keys; key += KEYS) {
            const int64_t keys = least(KEYS, a->keys - key), seen = a->seen + query - key;
            if (seen + queries - 1 <= 0)
                break;
            NAME(multiply)(SEEN_COLUMNS, seen, queries, rounded_up(keys, PANEL), size, own.data,
                           own.row, own.step, k_columns + key * steps, PANEL * steps, weights,
                           WEIGHTS_ROW, 0);
            NAME(turn)(weights, queries, keys, a->sign);
            for (int64_t i = 0; i < queries; i++) {
                float *const row = weights + i * WEIGHTS_ROW;
                const int64_t visible = between(seen + i, 0, keys);
                NAME(hide)(row, visible, -INFINITY);
                const float highest =
                    NAME(highest)(row, NAME(worked_on)(visible, keys), peak[i]);
                if (key > 0 && highest != peak[i]) {
                    const float shrink = exp_float((peak[i] - highest) * a->magnitude);
                    for (int64_t j = 0; j < LANES; j++)
                        total[i * LANES + j] *= shrink;
                    for (int64_t j = 0; j < width; j++)
                        sums[i * width + j] *= shrink;
                }
                peak[i] = highest;
            }
            NAME(exponentials)(weights, seen, queries, keys, a->magnitude, peak, total);
            if (a->mask) {
                NAME(draw)(a, head, query, queries, key, keys, bits);
                NAME(drop)(a, head, query, queries, key, keys, bits, weights);
            }
            const NAME(Left) shares = NAME(by_rows)(weights, WEIGHTS_ROW, queries, keys, seen,
                                                    left + QUERIES * size);
            NAME(multiply)(SEEN_DEPTH, seen, queries, width, keys, shares.data, shares.row,
                           shares.step, v_panels + key / DEEP * PANEL, key_steps * PANEL, sums,
                           width, 1);
        }
        for (int64_t i = 0; i < queries; i++) {
            float whole = 0;
            for (int j = 0; j < LANES; j++)
                whole += total[i * LANES + j];
            const float scale = whole == 0 ? 0 : 1 / whole;
            write_statistics(a, head, query + i, peak[i], whole);
            float *const to = out + (query + i) * a->out.row;
            float check = 0; /* NaN, where not all is finite */
#pragma omp simd reduction(+ : check)
            for (int64_t j = 0; j < a->value_size; j++) {
                to[j] = sums[i * width + j] * scale;
                check += 0 * to[j];
            }
            /* A register tile reads values that only its later queries see: weights of 0 hide
             * those that are finite. */
            if (check != 0 && a->seen + query + i < a->keys)
                NAME(forward_few)(a, head, query + i, query + i + 1, 1, room);
        }
    }
}

/* Turns scores into weights, and the gradients of these into those of the scores. */
TARGET static void NAME(gradients)(float *scores, float *grads, int64_t seen, int64_t queries,
                                   int64_t keys, float magnitude, const float *statistics,
                                   const float *delta)
{
    for (int64_t i = 0; i < queries; i++) {
        const int64_t visible = between(seen + i, 0, keys);
        float *const row = scores + i * WEIGHTS_ROW, *const drow = grads + i * WEIGHTS_ROW;
        const float peak = statistics[2 * i], factor = 1 / statistics[2 * i + 1], mean = delta[i];
        for (int64_t j = 0; j < visible; j += LANES) {
            NAME(Vector) *const weight = (NAME(Vector) *)(row + j);
            NAME(Vector) *const grad = (NAME(Vector) *)(drow + j);
            *weight = NAME(exponential)((*weight - peak) * magnitude) * factor;
            *grad = (*grad - mean) * *weight;
        }
        NAME(hide)(row, visible, 0);
        NAME(hide)(drow, visible, 0);
    }
}

/* Writes scale * rows. Returns 0, or NaN where not all that was written is finite. */
TARGET static float NAME(write_scaled)(const Attention *a, const Heads *array, int64_t head,
                                       int64_t first, int64_t rows, int64_t columns,
                                       const float *from, int64_t from_row, float scale)
{
    float *const to = head_of(a, array, head) + first * array->row;
    float check = 0;
    for (int64_t i = 0; i < rows; i++)
#pragma omp simd reduction(+ : check)
        for (int64_t j = 0; j < columns; j++) {
            const float x = scale * from[i * from_row + j];
            to[i * array->row + j] = x;
            check += 0 * x;
        }
    return check;
}

TARGET static void NAME(backward_head)(const Attention *a, int64_t head, float *room)
{
    if (DEEP == 1 && a->queries < FEWEST_FOR_BLOCKS) {
        NAME(backward_few)(a, head, 0, room);
        return;
    }
    if (DEEP == 1 && NAME(is_short)(a)) {
        NAME(backward_short)(a, head, room);
        return;
    }
    float *const whole_room = room;
    float check = 0;
    const int64_t size = a->size, value_size = a->value_size;
    const int64_t width = rounded_up(size, PANEL), value_width = rounded_up(value_size, PANEL);
    const float *const q = head_of(a, &a->q, head), *const k = head_of(a, &a->k, head);
    const float *const v = head_of(a, &a->v, head), *const out = head_of(a, &a->out, head);
    const float *const grad = head_of(a, &a->grad, head);
    NAME(Element) *const k_columns = take(&room, KEYS * size);
    NAME(Element) *const v_columns = take(&room, KEYS * value_size);
    NAME(Element) *const k_panels = take(&room, KEYS * width);
    NAME(Element) *const q_panels = take(&room, a->queries * width);
    NAME(Element) *const grad_panels = take(&room, a->queries * value_width);
    NAME(Element) *const q_rows = take(&room, DEEP > 1 ? a->queries * size : 0);
    NAME(Element) *const grad_rows = take(&room, DEEP > 1 ? a->queries * value_size : 0);
    NAME(Element) *const left = take(&room, DEEP > 1 ? QUERIES * KEYS : 0);
    float *const weights = take(&room, QUERIES * WEIGHTS_ROW);
    float *const dscores = take(&room, QUERIES * WEIGHTS_ROW);
    float *const dk = take(&room, KEYS * width), *const dv = take(&room, KEYS * value_width);
    float *const dq = take(&room, a->queries * width), *const delta = take(&room, a->queries);
    BitsRow *const bits = (BitsRow *)take(&room, BITS_SIZE);

    const int64_t steps = (size + DEEP - 1) / DEEP, value_steps = (value_size + DEEP - 1) / DEEP;
    const int64_t query_steps = (a->queries + DEEP - 1) / DEEP;
    NAME(pack)(q, a->q.row, a->queries, size, q_panels);
    NAME(pack)(grad, a->grad.row, a->queries, value_size, grad_panels);
    const NAME(Left) qs = NAME(by_rows)(q, a->q.row, a->queries, size, size, q_rows);
    const NAME(Left) grads = NAME(by_rows)(grad, a->grad.row, a->queries, value_size, value_size,
                                           grad_rows);
    memset(dq, 0, (size_t)(a->queries * width) * sizeof(float));
    for (int64_t i = 0; i < a->queries; i++)
        delta[i] = NAME(dot)(grad + i * a->grad.row, out + i * a->out.row, value_size);
    for (int64_t key = 0; key < a->keys; key += KEYS) {
        const int64_t keys = least(KEYS, a->keys - key), columns = rounded_up(keys, PANEL);
        const int64_t key_steps = (keys + DEEP - 1) / DEEP;
        NAME(pack_transposed)(k + key * a->k.row, a->k.row, size, keys, k_columns);
        NAME(pack_transposed)(v + key * a->v.row, a->v.row, value_size, keys, v_columns);
        NAME(pack)(k + key * a->k.row, a->k.row, keys, size, k_panels);
        memset(dk, 0, (size_t)(keys * width) * sizeof(float));
        memset(dv, 0, (size_t)(keys * value_width) * sizeof(float));
        for (int64_t query = 0; query < a->queries; query += QUERIES) {
            const int64_t queries = least(QUERIES, a->queries - query);
            const int64_t seen = a->seen + query - key;
            if (seen + queries - 1 <= 0)
                continue;
            NAME(multiply)(SEEN_COLUMNS, seen, queries, columns, size, qs.data + query * qs.row,
                           qs.row, qs.step, k_columns, PANEL * steps, weights, WEIGHTS_ROW, 0);
            NAME(turn)(weights, queries, keys, a->sign);
            NAME(multiply)(SEEN_COLUMNS, seen, queries, columns, value_size,
                           grads.data + query * grads.row, grads.row, grads.step, v_columns,
                           PANEL * value_steps, dscores, WEIGHTS_ROW, 0);
            if (a->mask) {
                NAME(draw)(a, head, query, queries, key, keys, bits);
                NAME(drop)(a, head, query, queries, key, keys, bits, dscores);
            }
            NAME(gradients)(weights, dscores, seen, queries, keys, a->magnitude,
                            statistics_of(a, head, query), delta + query);
            if (a->mask)
                NAME(drop)(a, head, query, queries, key, keys, bits, weights);
            NAME(Left) by =
                NAME(by_columns)(weights, WEIGHTS_ROW, queries, keys, seen, left);
            NAME(multiply)(SEEING_DEPTH, seen, keys, value_width, queries, by.data, by.row, by.step,
                           grad_panels + query / DEEP * PANEL, query_steps * PANEL, dv,
                           value_width, 1);
            by = NAME(by_columns)(dscores, WEIGHTS_ROW, queries, keys, seen, left);
            NAME(multiply)(SEEING_DEPTH, seen, keys, width, queries, by.data, by.row, by.step,
                           q_panels + query / DEEP * PANEL, query_steps * PANEL, dk, width, 1);
            by = NAME(by_rows)(dscores, WEIGHTS_ROW, queries, keys, seen, left);
            NAME(multiply)(SEEN_DEPTH, seen, queries, width, keys, by.data, by.row, by.step,
                           k_panels, key_steps * PANEL, dq + query * width, width, 1);
        }
        check += NAME(write_scaled)(a, &a->grad_k, head, key, keys, size, dk, width, a->scale);
        check += NAME(write_scaled)(a, &a->grad_v, head, key, keys, value_size, dv, value_width, 1);
    }
    check += NAME(write_scaled)(a, &a->grad_q, head, 0, a->queries, size, dq, width, a->scale);
    if (check != 0 && a->seen < a->keys) /* as in forward */
        NAME(backward_few)(a, head, 1, whole_room);
}
