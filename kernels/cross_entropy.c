/* Cross-entropy: see cross_entropy.py for the equations. logits (rows, classes), targets (rows);
 * every target lies within the classes, or is negative and then does not count. */
#include "fused.h"

MULTIVERSION void cross_entropy_forward(const float *logits, const int64_t *targets,
                                        float *losses, float *logsumexp, int64_t rows,
                                        int64_t classes)
{
    for (int64_t i = 0; i < rows; i++, logits += classes) {
        float peak = -INFINITY, sum = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t j = 0; j < classes; j++)
            peak = logits[j] > peak ? logits[j] : peak;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < classes; j++)
            sum += exp_float(logits[j] - peak);
        const float rest = logf(sum);
        logsumexp[i] = rest + peak;
        losses[i] = targets[i] < 0 ? 0 : rest + (peak - logits[targets[i]]);
    }
}

MULTIVERSION void cross_entropy_backward(const float *logits, const int64_t *targets,
                                         const float *logsumexp, float *grad_logits,
                                         int64_t rows, int64_t classes, float scale)
{
    for (int64_t i = 0; i < rows; i++, logits += classes, grad_logits += classes) {
        if (targets[i] < 0) {
            memset(grad_logits, 0, (size_t)classes * sizeof(float));
            continue;
        }
        const float total = logsumexp[i];
        for (int64_t j = 0; j < classes; j++)
            grad_logits[j] = exp_float(logits[j] - total) * scale;
        grad_logits[targets[i]] -= scale;
    }
}
