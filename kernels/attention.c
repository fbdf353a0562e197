/* The softmax inside attention: see attention.py for the equations. The products are BLAS's.
 * scores is (matrices, queries, keys), logsumexp and delta (matrices, queries). With `causal`,
 * query i sees the keys j <= i + keys - queries, and the rest of its row is never read. */
#include "fused.h"

static inline __attribute__((always_inline)) int64_t visible(int64_t query, int64_t queries, int64_t keys, int64_t causal)
{
    const int64_t seen = causal ? query + 1 + keys - queries : keys;
    return seen < 0 ? 0 : seen > keys ? keys : seen;
}

/* Turns scores into weights, in place, and writes logsumexp; infinity where nothing is seen. */
MULTIVERSION void attention_weights(float *scores, float *logsumexp, int64_t matrices,
                                    int64_t queries, int64_t keys, int64_t causal)
{
    for (int64_t row = 0; row < matrices * queries; row++, scores += keys) {
        const int64_t seen = visible(row % queries, queries, keys, causal);
        memset(scores + seen, 0, (size_t)(keys - seen) * sizeof(float));
        if (seen == 0) {
            logsumexp[row] = INFINITY;
            continue;
        }
        float peak = -INFINITY, sum = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t j = 0; j < seen; j++)
            peak = scores[j] > peak ? scores[j] : peak;
        if (peak == -INFINITY)
            peak = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < seen; j++) {
            const float e = exp_float(scores[j] - peak);
            scores[j] = e;
            sum += e;
        }
        logsumexp[row] = sum == 0 ? INFINITY : logf(sum) + peak;
        const float scale = sum == 0 ? 0 : 1 / sum;
        for (int64_t j = 0; j < seen; j++)
            scores[j] *= scale;
    }
}

/* Turns scores into weights, and the gradient of the weights into that of the scores, in place. */
MULTIVERSION void attention_gradients(float *scores, float *grad_weights,
                                      const float *logsumexp, const float *delta,
                                      int64_t matrices, int64_t queries, int64_t keys,
                                      int64_t causal)
{
    for (int64_t row = 0; row < matrices * queries; row++, scores += keys, grad_weights += keys) {
        const int64_t seen = visible(row % queries, queries, keys, causal);
        const size_t hidden = (size_t)(keys - seen) * sizeof(float);
        memset(scores + seen, 0, hidden);
        memset(grad_weights + seen, 0, hidden);
        const float total = logsumexp[row], d = delta[row];
        for (int64_t j = 0; j < seen; j++) {
            const float weight = exp_float(scores[j] - total);
            scores[j] = weight;
            grad_weights[j] = (grad_weights[j] - d) * weight;
        }
    }
}
