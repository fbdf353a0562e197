/* Attention by blocks: see attention.py for the equations, tile.h for how this file is included.
 *
 * A block of queries meets a block of keys at a time; their weights, which stay in the cache, are
 * all that there ever is of the (T, S) matrix. Forward keeps a running maximum and sum of each
 * row (Milakov and Gimelshein 2018, arXiv:1805.02867); backward computes the weights again. What a
 * causal mask hides is not computed, but for the corners of register tiles. */
#include "tile.h"

/* to (columns of from, rows of from; QUERIES or KEYS long rows) = scale * from transposed */
TARGET static void NAME(transpose)(const float *from, int64_t from_row, int64_t rows,
                                   int64_t columns, float scale, float *to)
{
    for (int64_t j = 0; j < columns; j++) {
        for (int64_t i = 0; i < rows; i++)
            to[j * KEYS + i] = scale * from[i * from_row + j];
        memset(to + j * KEYS + rows, 0, (size_t)(KEYS - rows) * sizeof(float));
    }
}

/* Returns rows whose length is a multiple of PANEL: `from` itself, or a copy in `room`. */
TARGET static const float *NAME(padded)(const float *from, int64_t *from_row, int64_t rows,
                                        int64_t columns, float *room)
{
    if (columns % PANEL == 0)
        return from;
    const int64_t width = rounded_up(columns, PANEL);
    for (int64_t i = 0; i < rows; i++) {
        memcpy(room + i * width, from + i * *from_row, (size_t)columns * sizeof(float));
        memset(room + i * width + columns, 0, (size_t)(width - columns) * sizeof(float));
    }
    *from_row = width;
    return room;
}

/* Turns a row of scores into exp(score - peak), 0 where nothing is seen; returns their sum. */
TARGET static float NAME(exponentials)(float *scores, int64_t seen, float peak)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < seen; j++) {
        const float e = exp_float(scores[j] - peak);
        scores[j] = e;
        sum += e;
    }
    memset(scores + seen, 0, (size_t)(KEYS - seen) * sizeof(float));
    return sum;
}

TARGET static void NAME(drop)(float *weights, int64_t seen, const DropoutMask *mask,
                              const uint16_t *bits)
{
#pragma omp simd
    for (int64_t j = 0; j < seen; j++)
        weights[j] *= dropout_factor(mask, bits[j]);
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

TARGET static void NAME(forward_head)(const Attention *a, int64_t head, float *room)
{
    const int64_t size = a->size, width = rounded_up(a->value_size, PANEL);
    const float *const q = head_of(a, &a->q, head), *const k = head_of(a, &a->k, head);
    float *const out = head_of(a, &a->out, head), *const logsumexp = a->logsumexp + head * a->queries;
    float *const k_columns = take(&room, rounded_up(a->keys, KEYS) * size);
    float *const weights = take(&room, QUERIES * KEYS), *const sums = take(&room, QUERIES * width);
    float *const peak = take(&room, QUERIES), *const total = take(&room, QUERIES);
    BitsRow *const bits = (BitsRow *)take(&room, BITS_SIZE);
    int64_t v_row = a->v.row;
    const float *const v = NAME(padded)(head_of(a, &a->v, head), &v_row, a->keys, a->value_size, room);
    for (int64_t first = 0; first < a->keys; first += KEYS)
        NAME(transpose)(k + first * a->k.row, a->k.row, least(KEYS, a->keys - first), size,
                        a->scale, k_columns + first * size);

    for (int64_t query = 0; query < a->queries; query += QUERIES) {
        const int64_t queries = least(QUERIES, a->queries - query);
        for (int64_t i = 0; i < queries; i++) {
            peak[i] = -INFINITY;
            total[i] = 0;
        }
        memset(sums, 0, (size_t)(queries * width) * sizeof(float));
        for (int64_t key = 0; key < a->keys; key += KEYS) {
            const int64_t keys = least(KEYS, a->keys - key), seen = a->seen + query - key;
            if (seen + queries - 1 <= 0)
                break;
            NAME(multiply)(SEEN_COLUMNS, seen, queries, rounded_up(keys, PANEL), size,
                           q + query * a->q.row, a->q.row, 1, k_columns + key * size, KEYS,
                           weights, KEYS, 0);
            if (a->mask)
                NAME(draw)(a, head, query, queries, key, keys, bits);
            for (int64_t i = 0; i < queries; i++) {
                float *const row = weights + i * KEYS;
                const int64_t visible = between(seen + i, 0, keys);
                float highest = peak[i];
#pragma omp simd reduction(max : highest)
                for (int64_t j = 0; j < visible; j++)
                    highest = row[j] > highest ? row[j] : highest;
                const float base = highest == -INFINITY ? 0 : highest;
                if (key > 0 && highest != peak[i]) {
                    const float shrink = exp_float(peak[i] - base);
                    total[i] *= shrink;
                    for (int64_t j = 0; j < width; j++)
                        sums[i * width + j] *= shrink;
                }
                peak[i] = highest;
                total[i] += NAME(exponentials)(row, visible, base);
                if (a->mask)
                    NAME(drop)(row, visible, a->mask, bits_of(a, bits, head, query, i, key));
            }
            NAME(multiply)(SEEN_DEPTH, seen, queries, width, keys, weights, KEYS, 1,
                           v + key * v_row, v_row, sums, width, 1);
        }
        for (int64_t i = 0; i < queries; i++) {
            const float scale = total[i] == 0 ? 0 : 1 / total[i];
            logsumexp[query + i] =
                total[i] == 0 ? INFINITY : logf(total[i]) + (peak[i] == -INFINITY ? 0 : peak[i]);
            for (int64_t j = 0; j < a->value_size; j++)
                out[(query + i) * a->out.row + j] = sums[i * width + j] * scale;
        }
    }
}

/* One row of weights and of their gradients: scores become weights that dropout has passed, the
 * gradients of these become those of the scores. */
TARGET static void NAME(row_gradients)(float *scores, float *grads, int64_t seen, float logsumexp,
                                       float delta)
{
#pragma omp simd
    for (int64_t j = 0; j < seen; j++) {
        const float weight = exp_float(scores[j] - logsumexp);
        scores[j] = weight;
        grads[j] = (grads[j] - delta) * weight;
    }
}

TARGET static void NAME(row_gradients_dropped)(float *scores, float *grads, int64_t seen,
                                               float logsumexp, float delta,
                                               const DropoutMask *mask, const uint16_t *bits)
{
#pragma omp simd
    for (int64_t j = 0; j < seen; j++) {
        const float factor = dropout_factor(mask, bits[j]);
        const float weight = exp_float(scores[j] - logsumexp);
        scores[j] = weight * factor;
        grads[j] = (grads[j] * factor - delta) * weight;
    }
}

TARGET static void NAME(backward_head)(const Attention *a, int64_t head, float *room)
{
    const int64_t size = a->size, value_size = a->value_size;
    const int64_t width = rounded_up(size, PANEL), value_width = rounded_up(value_size, PANEL);
    const float *const logsumexp = a->logsumexp + head * a->queries;
    const float *const q = head_of(a, &a->q, head), *const k = head_of(a, &a->k, head);
    const float *const v = head_of(a, &a->v, head), *const out = head_of(a, &a->out, head);
    const float *const grad = head_of(a, &a->grad, head);
    float *const k_columns = take(&room, KEYS * size), *const v_columns = take(&room, KEYS * value_size);
    float *const weights = take(&room, QUERIES * KEYS), *const dscores = take(&room, QUERIES * KEYS);
    float *const dk = take(&room, KEYS * width), *const dv = take(&room, KEYS * value_width);
    float *const dq = take(&room, a->queries * width), *const delta = take(&room, a->queries);
    BitsRow *const bits = (BitsRow *)take(&room, BITS_SIZE);
    int64_t q_row = a->q.row, k_row = a->k.row, grad_row = a->grad.row;
    const float *const q_wide = NAME(padded)(q, &q_row, a->queries, size, take(&room, a->queries * width));
    const float *const k_wide = NAME(padded)(k, &k_row, a->keys, size, take(&room, a->keys * width));
    const float *const grad_wide = NAME(padded)(grad, &grad_row, a->queries, value_size, room);

    memset(dq, 0, (size_t)(a->queries * width) * sizeof(float));
    for (int64_t i = 0; i < a->queries; i++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < value_size; j++)
            sum += grad[i * a->grad.row + j] * out[i * a->out.row + j];
        delta[i] = sum;
    }
    for (int64_t key = 0; key < a->keys; key += KEYS) {
        const int64_t keys = least(KEYS, a->keys - key), columns = rounded_up(keys, PANEL);
        NAME(transpose)(k + key * a->k.row, a->k.row, keys, size, a->scale, k_columns);
        NAME(transpose)(v + key * a->v.row, a->v.row, keys, value_size, 1, v_columns);
        memset(dk, 0, (size_t)(keys * width) * sizeof(float));
        memset(dv, 0, (size_t)(keys * value_width) * sizeof(float));
        for (int64_t query = 0; query < a->queries; query += QUERIES) {
            const int64_t queries = least(QUERIES, a->queries - query);
            const int64_t seen = a->seen + query - key;
            if (seen + queries - 1 <= 0)
                continue;
            NAME(multiply)(SEEN_COLUMNS, seen, queries, columns, size, q + query * a->q.row,
                           a->q.row, 1, k_columns, KEYS, weights, KEYS, 0);
            NAME(multiply)(SEEN_COLUMNS, seen, queries, columns, value_size,
                           grad + query * a->grad.row, a->grad.row, 1, v_columns, KEYS, dscores,
                           KEYS, 0);
            if (a->mask)
                NAME(draw)(a, head, query, queries, key, keys, bits);
            for (int64_t i = 0; i < queries; i++) {
                float *const row = weights + i * KEYS, *const drow = dscores + i * KEYS;
                const int64_t visible = between(seen + i, 0, keys);
                const size_t hidden = (size_t)(KEYS - visible) * sizeof(float);
                if (a->mask)
                    NAME(row_gradients_dropped)(row, drow, visible, logsumexp[query + i],
                                                delta[query + i], a->mask,
                                                bits_of(a, bits, head, query, i, key));
                else
                    NAME(row_gradients)(row, drow, visible, logsumexp[query + i], delta[query + i]);
                memset(row + visible, 0, hidden);
                memset(drow + visible, 0, hidden);
            }
            NAME(multiply)(SEEING_DEPTH, seen, keys, value_width, queries, weights, 1, KEYS,
                           grad_wide + query * grad_row, grad_row, dv, value_width, 1);
            NAME(multiply)(SEEING_DEPTH, seen, keys, width, queries, dscores, 1, KEYS,
                           q_wide + query * q_row, q_row, dk, width, 1);
            NAME(multiply)(SEEN_DEPTH, seen, queries, width, keys, dscores, KEYS, 1,
                           k_wide + key * k_row, k_row, dq + query * width, width, 1);
        }
        write_scaled(a, &a->grad_k, head, key, keys, size, dk, width, a->scale);
        write_scaled(a, &a->grad_v, head, key, keys, value_size, dv, value_width, 1);
    }
    write_scaled(a, &a->grad_q, head, 0, a->queries, size, dq, width, a->scale);
}

#undef PANEL
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
