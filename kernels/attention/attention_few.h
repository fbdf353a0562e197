/* Attention of so few queries that packing keys into blocks would be most of the work: see
 * attention.py for the equations. Included by attention_blocks.h for each width of registers.
 *
 * One query after the other reads each key and value once, where it lies. */

/* Writes the scores of the keys that a query sees, before the scale; returns the greatest of them.
 * A function of its own, so that forward and backward have the same bits. */
TARGET static __attribute__((noinline)) float NAME(scores_of)(const Attention *a, int64_t head,
                                                              int64_t query, int64_t seen,
                                                              float *scores)
{
    const float *const q = head_of(a, &a->q, head) + query * a->q.row;
    const float *const k = head_of(a, &a->k, head);
    float peak = -INFINITY;
    for (int64_t j = 0; j < seen; j++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < a->size; i++)
            sum += q[i] * k[j * a->k.row + i];
        scores[j] = sum * a->sign;
        peak = scores[j] > peak ? scores[j] : peak;
    }
    return peak;
}

/* Writes the results of queries, and their statistics if they are not written yet. */
TARGET static void NAME(forward_few)(const Attention *a, int64_t head, int64_t first, int64_t last,
                                     int written, float *room)
{
    const float *const v = head_of(a, &a->v, head);
    const float magnitude = a->magnitude; /* which no store into `room` changes */
    for (int64_t query = first; query < last; query++) {
        float *const out = head_of(a, &a->out, head) + query * a->out.row;
        const int64_t seen = between(a->seen + query, 0, a->keys);
        const float highest = NAME(scores_of)(a, head, query, seen, room);
        const float peak = highest == -INFINITY ? 0 : highest;
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < seen; j++) {
            const float e = exp_float((room[j] - peak) * magnitude);
            room[j] = e;
            total += e;
        }
        if (a->mask)
            dropout_apply(a->mask, mask_start(a, head, query, 0), seen, room, room);
        memset(out, 0, (size_t)a->value_size * sizeof(float));
        const float factor = total == 0 ? 0 : 1 / total;
        for (int64_t j = 0; j < seen; j++) {
            const float weight = room[j] * factor;
            for (int64_t i = 0; i < a->value_size; i++)
                out[i] += weight * v[j * a->v.row + i];
        }
        if (!written)
            write_statistics(a, head, query, peak, total);
    }
}

/* to = factor * from, added to what is there. */
TARGET INLINE void NAME(add_scaled)(const float *from, float factor, float *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] += factor * from[i];
}

/* With `own` statistics, of the scores as they are added up here. */
TARGET static void NAME(backward_few)(const Attention *a, int64_t head, int own, float *room)
{
    const float *const k = head_of(a, &a->k, head), *const v = head_of(a, &a->v, head);
    float *const grad_k = head_of(a, &a->grad_k, head), *const grad_v = head_of(a, &a->grad_v, head);
    float *const weights = take(&room, a->keys), *const kept = take(&room, a->keys);
    const float magnitude = a->magnitude;
    for (int64_t j = 0; j < a->keys; j++) {
        memset(grad_k + j * a->grad_k.row, 0, (size_t)a->size * sizeof(float));
        memset(grad_v + j * a->grad_v.row, 0, (size_t)a->value_size * sizeof(float));
    }
    for (int64_t query = 0; query < a->queries; query++) {
        const float *const q = head_of(a, &a->q, head) + query * a->q.row;
        const float *const grad = head_of(a, &a->grad, head) + query * a->grad.row;
        const float *const out = head_of(a, &a->out, head) + query * a->out.row;
        float *const grad_q = head_of(a, &a->grad_q, head) + query * a->grad_q.row;
        const int64_t seen = between(a->seen + query, 0, a->keys);
        const float mean = NAME(dot)(grad, out, a->value_size);
        const float highest = NAME(scores_of)(a, head, query, seen, weights);
        float peak = statistics_of(a, head, query)[0], total = statistics_of(a, head, query)[1];
        if (own) {
            peak = highest == -INFINITY ? 0 : highest;
            total = 0;
            for (int64_t j = 0; j < seen; j++)
                total += exp_float((weights[j] - peak) * magnitude);
            total = total == 0 ? 1 : total;
        }
        const float factor = 1 / total;
#pragma omp simd
        for (int64_t j = 0; j < seen; j++) {
            weights[j] = exp_float((weights[j] - peak) * magnitude) * factor;
            kept[j] = 1;
        }
        if (a->mask)
            dropout_apply(a->mask, mask_start(a, head, query, 0), seen, kept, kept);
        memset(grad_q, 0, (size_t)a->size * sizeof(float));
        for (int64_t j = 0; j < seen; j++) {
            const float dweight = NAME(dot)(grad, v + j * a->v.row, a->value_size) * kept[j];
            const float dscore = a->scale * (dweight - mean) * weights[j];
            NAME(add_scaled)(k + j * a->k.row, dscore, grad_q, a->size);
            NAME(add_scaled)(q, dscore, grad_k + j * a->grad_k.row, a->size);
            NAME(add_scaled)(grad, weights[j] * kept[j], grad_v + j * a->grad_v.row, a->value_size);
        }
    }
}
