/* Attention of few queries, which fit in the lanes of one vector register: see reference.py for the
 * equations. Included by attention_blocks.h for each width of registers.
 *
 * Where sequences are short there are many heads, each of which has hardly any work: blocks and
 * panels would be mostly padding. Here scores and weights (keys, LANES) have a query in each lane,
 * so that maxima and sums over keys need nothing from other lanes. */

/* Four elements, as which the rows of short heads are moved. */
#ifndef QUARTER
#define QUARTER 4
typedef float Quarter __attribute__((vector_size(4 * QUARTER), aligned(4), may_alias));
#endif

INLINE void NAME(copy)(const float *from, float *to, int64_t count)
{
    int64_t j = 0;
    for (; j + QUARTER <= count; j += QUARTER)
        *(Quarter *)(to + j) = *(const Quarter *)(from + j);
    for (; j < count; j++)
        to[j] = from[j];
}

/* Copies the rows of a head, one to `width` elements, and fills up with zeros. */
TARGET INLINE void NAME(copy_rows)(const float *from, int64_t from_row, int64_t rows,
                                   int64_t columns, float *to, int64_t width)
{
    for (int64_t i = 0; i < rows; i++, from += from_row, to += width) {
        NAME(copy)(from, to, columns);
        for (int64_t j = columns; j < width; j++)
            to[j] = 0;
    }
}

/* Copies scale * the rows of a head, transposed: each is a lane, and lanes beyond are 0. */
TARGET INLINE void NAME(copy_lanes)(const float *from, int64_t from_row, int64_t rows,
                                    int64_t columns, float scale, float *to)
{
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t j = 0; j < columns; j++)
            to[j * LANES + i] = i < rows ? scale * from[i * from_row + j] : 0;
}

/* Returns for each lane the sum of row[j] * lanes[j]. */
TARGET INLINE NAME(Vector) NAME(times_row)(const float *row, const float *lanes, int64_t count)
{
    NAME(Vector) even = {0}, odd = {0};
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
        even += row[j] * *(const NAME(Vector) *)(lanes + j * LANES);
        odd += row[j + 1] * *(const NAME(Vector) *)(lanes + (j + 1) * LANES);
    }
    if (j < count)
        even += row[j] * *(const NAME(Vector) *)(lanes + j * LANES);
    return even + odd;
}

/* to (columns) = scale * the sum of weights[i * step] * rows[i], for i from `begin` to `end`. */
TARGET INLINE void NAME(weigh_rows)(const float *weights, int64_t step, int64_t begin, int64_t end,
                                    const float *rows, int64_t width, float scale, float *to,
                                    int64_t columns)
{
    for (int64_t j = 0; j < columns; j += LANES) {
        NAME(Vector) even = {0}, odd = {0};
        int64_t i = begin;
        for (; i + 2 <= end; i += 2) {
            even += weights[i * step] * *(const NAME(Vector) *)(rows + i * width + j);
            odd += weights[(i + 1) * step] * *(const NAME(Vector) *)(rows + (i + 1) * width + j);
        }
        if (i < end)
            even += weights[i * step] * *(const NAME(Vector) *)(rows + i * width + j);
        const NAME(Vector) sum = scale * (even + odd);
        if (j + LANES <= columns)
            *(NAME(Vector) *)(to + j) = sum;
        else
            NAME(copy)((const float *)&sum, to + j, columns - j);
    }
}

/* Returns all bits set in the lanes of the queries that see a key. */
TARGET INLINE NAME(Integers) NAME(seeing)(const Attention *a, int64_t key)
{
    NAME(Integers) query;
    for (int i = 0; i < LANES; i++)
        query[i] = i;
    return query >= (int32_t)between(key + 1 - a->seen, 0, LANES);
}

/* Draws a head's whole mask, of queries times keys elements; returns its bits, within `room`. */
TARGET INLINE const uint16_t *NAME(draw_all)(const Attention *a, int64_t head, uint16_t *room)
{
    const int64_t first = mask_start(a, head, 0, 0), count = a->queries * a->keys;
    for (int64_t done = 0; done < count; done += DROPOUT_CHUNK)
        dropout_bits(a->mask, first + done, least(DROPOUT_CHUNK, count - done), room + done);
    return room + first % PHILOX_LANES;
}

/* Returns what the weights of a key are multiplied by. */
TARGET INLINE NAME(Vector) NAME(factors)(const Attention *a, const uint16_t *bits, int64_t key)
{
    NAME(Vector) factors = {0};
    for (int64_t i = 0; i < a->queries; i++)
        factors[i] = dropout_factor(a->mask, bits[i * a->keys + key]);
    return factors;
}

TARGET static void NAME(forward_short)(const Attention *a, int64_t head, float *room)
{
    const int64_t size = a->size, width = rounded_up(a->value_size, LANES);
    const float *const k = head_of(a, &a->k, head);
    float *const out = head_of(a, &a->out, head);
    float *const q_lanes = take(&room, LANES * size), *const v_rows = take(&room, KEYS * width);
    float *const weights = take(&room, KEYS * LANES);
    const uint16_t *bits = NULL;
    if (a->mask)
        bits = NAME(draw_all)(a, head, (uint16_t *)take(&room, BITS_SIZE));
    NAME(copy_lanes)(head_of(a, &a->q, head), a->q.row, a->queries, size, a->sign, q_lanes);
    NAME(copy_rows)(head_of(a, &a->v, head), a->v.row, a->keys, a->value_size, v_rows, width);
    const float magnitude = a->magnitude; /* which no store into `weights` changes */
    const NAME(Vector) nothing = (NAME(Vector)){0} - INFINITY;
    NAME(Vector) peak = nothing, total = {0};
    for (int64_t j = 0; j < a->keys; j++) {
        const NAME(Vector) x = NAME(select)(
            NAME(seeing)(a, j), NAME(times_row)(k + j * a->k.row, q_lanes, size), nothing);
        *(NAME(Vector) *)(weights + j * LANES) = x;
        peak = NAME(select)(x > peak, x, peak);
    }
    peak = NAME(select)(peak == nothing, (NAME(Vector)){0}, peak);
    for (int64_t j = 0; j < a->keys; j++) {
        NAME(Vector) *const at = (NAME(Vector) *)(weights + j * LANES);
        *at = NAME(exponential)((*at - peak) * magnitude);
        total += *at;
        if (bits)
            *at *= NAME(factors)(a, bits, j);
    }
    for (int64_t i = 0; i < a->queries; i++) {
        const int64_t seen = between(a->seen + i, 0, a->keys);
        NAME(weigh_rows)(weights + i, LANES, 0, seen, v_rows, width,
                         total[i] == 0 ? 0 : 1 / total[i], out + i * a->out.row, a->value_size);
        write_statistics(a, head, i, peak[i], total[i]);
    }
}

TARGET static void NAME(backward_short)(const Attention *a, int64_t head, float *room)
{
    const int64_t size = a->size, value_size = a->value_size;
    const int64_t width = rounded_up(size, LANES), value_width = rounded_up(value_size, LANES);
    const float *const q = head_of(a, &a->q, head), *const k = head_of(a, &a->k, head);
    const float *const v = head_of(a, &a->v, head), *const grad = head_of(a, &a->grad, head);
    float *const q_lanes = take(&room, LANES * size), *const k_rows = take(&room, KEYS * width);
    float *const q_rows = take(&room, LANES * width), *const weights = take(&room, KEYS * LANES);
    float *const grad_lanes = take(&room, LANES * value_size);
    float *const grad_rows = take(&room, LANES * value_width);
    float *const dscores = take(&room, KEYS * LANES);
    const uint16_t *bits = NULL;
    if (a->mask)
        bits = NAME(draw_all)(a, head, (uint16_t *)take(&room, BITS_SIZE));
    NAME(copy_lanes)(q, a->q.row, a->queries, size, a->sign, q_lanes);
    NAME(copy_lanes)(grad, a->grad.row, a->queries, value_size, 1, grad_lanes);
    NAME(copy_rows)(q, a->q.row, a->queries, size, q_rows, width);
    NAME(copy_rows)(k, a->k.row, a->keys, size, k_rows, width);
    NAME(copy_rows)(grad, a->grad.row, a->queries, value_size, grad_rows, value_width);
    const float magnitude = a->magnitude;
    const NAME(Vector) nothing = {0};
    NAME(Vector) peak = {0}, total = nothing + 1, mean = {0};
    for (int64_t i = 0; i < a->queries; i++) {
        peak[i] = statistics_of(a, head, i)[0];
        total[i] = statistics_of(a, head, i)[1];
    }
    const NAME(Vector) factor = 1 / total;
    for (int64_t j = 0; j < a->keys; j++) {
        const NAME(Integers) seeing = NAME(seeing)(a, j);
        const NAME(Vector) x = NAME(times_row)(k + j * a->k.row, q_lanes, size);
        const NAME(Vector) e = NAME(exponential)((x - peak) * magnitude);
        const NAME(Vector) weight = NAME(select)(seeing, e * factor, nothing);
        NAME(Vector) dweight = NAME(select)(
            seeing, NAME(times_row)(v + j * a->v.row, grad_lanes, value_size), nothing);
        if (bits)
            dweight *= NAME(factors)(a, bits, j);
        *(NAME(Vector) *)(weights + j * LANES) = weight;
        *(NAME(Vector) *)(dscores + j * LANES) = dweight;
        mean += weight * dweight;
    }
    for (int64_t j = 0; j < a->keys; j++) {
        NAME(Vector) *const weight = (NAME(Vector) *)(weights + j * LANES);
        NAME(Vector) *const dscore = (NAME(Vector) *)(dscores + j * LANES);
        *dscore = (*dscore - mean) * *weight;
        if (bits)
            *weight *= NAME(factors)(a, bits, j);
    }
    for (int64_t i = 0; i < a->queries; i++)
        NAME(weigh_rows)(dscores + i, LANES, 0, between(a->seen + i, 0, a->keys), k_rows, width,
                         a->scale, head_of(a, &a->grad_q, head) + i * a->grad_q.row, size);
    for (int64_t j = 0; j < a->keys; j++) {
        const int64_t first = between(j + 1 - a->seen, 0, a->queries); /* query that sees the key */
        NAME(weigh_rows)(dscores + j * LANES, 1, first, a->queries, q_rows, width, a->scale,
                         head_of(a, &a->grad_k, head) + j * a->grad_k.row, size);
        NAME(weigh_rows)(weights + j * LANES, 1, first, a->queries, grad_rows, value_width, 1,
                         head_of(a, &a->grad_v, head) + j * a->grad_v.row, value_size);
    }
}
