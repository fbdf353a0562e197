/* Cross-entropy: see reference.py for the equations. logits (rows, classes), targets (rows);
 * every target lies within the classes, or is `ignored` and then does not count. */
#include "kernel.h"

/* How many targets are not ignored; -1 where one of them does not lie within the classes. */
KERNEL_PLAIN(int64_t, count_targets, IN_INT64(targets, rows), COUNT(rows), COUNT(classes),
             INTEGER(ignored))
{
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (targets[i] == ignored)
            continue;
        if (targets[i] < 0 || targets[i] >= classes)
            return -1;
        count++;
    }
    return count;
}

/* Writes each row's loss, its statistics, and unless `loss` is NULL the sum of the losses over
 * `divisor` there. */
KERNEL(void, cross_entropy_forward, IN(logits, rows * classes), IN_INT64(targets, rows),
       OUT(losses, rows), OUT(statistics, 2 * rows), OPTIONAL_OUT(loss, 1), COUNT(rows),
       COUNT(classes), INTEGER(ignored), COUNT(divisor))
{
    double total = 0;
    for (int64_t i = 0; i < rows; i++, logits += classes) {
        float peak = -INFINITY;
        double exponentials = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t j = 0; j < classes; j++)
            peak = logits[j] > peak ? logits[j] : peak;
        for (int64_t start = 0, end; start < classes; start = end) {
            end = part_end(start, classes);
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t j = start; j < end; j++)
                part += exp_float(logits[j] - peak);
            exponentials += (double)part;
        }
        const float sum = (float)exponentials;
        statistics[2 * i] = peak;
        statistics[2 * i + 1] = sum;
        losses[i] = targets[i] == ignored ? 0 : logf(sum) + (peak - logits[targets[i]]);
        total += losses[i];
    }
    if (loss)
        *loss = (float)(total / (double)divisor);
}

/* grad is that of the loss, of which each row's is a part: over `divisor`. */
KERNEL(void, cross_entropy_backward, IN(grad, 1), IN(logits, rows * classes),
       IN_INT64(targets, rows), IN(statistics, 2 * rows), OUT(grad_logits, rows * classes),
       COUNT(rows), COUNT(classes), INTEGER(ignored), COUNT(divisor))
{
    const float scale = (float)((double)*grad / (double)divisor);
    for (int64_t i = 0; i < rows; i++, logits += classes, grad_logits += classes) {
        if (targets[i] == ignored) {
            memset(grad_logits, 0, (size_t)classes * sizeof(float));
            continue;
        }
        const float peak = statistics[2 * i], factor = scale / statistics[2 * i + 1];
        for (int64_t j = 0; j < classes; j++)
            grad_logits[j] = exp_float(logits[j] - peak) * factor;
        float *const own = grad_logits + targets[i];
        /* infinity less infinity would be NaN */
        if (isinf(scale))
            *own = (exp_float(logits[targets[i]] - peak) / statistics[2 * i + 1] - 1) * scale;
        else
            *own -= scale;
    }
}
