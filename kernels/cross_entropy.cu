/* Cross-entropy from logits and integer targets: see cross_entropy.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of the logits (rows, classes) and their gradient;
 * losses and sums are float32. VECTOR numbers, which divide `classes`, are moved at a time. WARPS
 * warps, 1 or all 8, share a row. A target that is ignored gives 0; one that is no class NaN.
 *
 * Variants: SCALAR=float VECTOR=1|4 WARPS=1|8
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 WARPS=1|8 */
#include "online.cuh"
#include "pack.cuh"
#include "reduce.cuh"

constexpr int N = VECTOR, ROWS = 8 / WARPS;

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_forward(const SCALAR *__restrict__ logits, const long long *__restrict__ targets,
                      float *__restrict__ losses, float *__restrict__ logsumexp, long long rows,
                      int classes, long long ignore_index)
{
    __shared__ float scratch[WARPS];
    const long long row = (long long)blockIdx.x * ROWS + threadIdx.x / (WARPS * WARP);
    if (row >= rows)
        return;
    logits += row * classes;
    const int first = N * (threadIdx.x % (WARPS * WARP)), step = N * WARPS * WARP;
    Online online;
    for (int c = first; c < classes; c += step) {
        float values[N];
        load<N>(values, logits + c);
        online.add(values);
    }
    online.reduce<WARPS>(scratch);
    if (first)
        return;
    const float rest = logf(online.total);
    const long long target = targets[row];
    /* rest + (peak - logit) keeps the digits that logsumexp - logit loses to a large peak */
    if (target == ignore_index)
        losses[row] = 0.0f;
    else if (target < 0 || target >= classes)
        losses[row] = not_a_number();
    else
        losses[row] = rest + (online.peak - to_float(logits[target]));
    logsumexp[row] = rest + online.peak;
}

/* loss = the sum of the losses, over the number of targets that count for the mean; one block. */
extern "C" __global__ void __launch_bounds__(1024)
cross_entropy_reduce(const float *__restrict__ losses, const long long *__restrict__ targets,
                     float *__restrict__ loss, long long rows, long long ignore_index, bool mean)
{
    __shared__ float scratch[32];
    float sum = 0.0f, counted = 0.0f;
    for (long long row = threadIdx.x; row < rows; row += 1024) {
        sum += losses[row];
        counted += targets[row] != ignore_index;
    }
    sum = reduce_warps<Sum, 32>(sum, scratch);
    counted = reduce_warps<Sum, 32>(counted, scratch);
    if (threadIdx.x == 0)
        *loss = mean ? sum / counted : sum;
}

/* scale = grad over the number of targets that count, at least 1; for one block. */
extern "C" __global__ void __launch_bounds__(1024)
cross_entropy_mean_scale(const float *__restrict__ grad, const long long *__restrict__ targets,
                         float *__restrict__ scale, long long rows, long long ignore_index)
{
    __shared__ float scratch[32];
    float counted = 0.0f;
    for (long long row = threadIdx.x; row < rows; row += 1024)
        counted += targets[row] != ignore_index;
    counted = reduce_warps<Sum, 32>(counted, scratch);
    if (threadIdx.x == 0)
        *scale = *grad / fmaxf(counted, 1.0f);
}

/* `scale` is what each row's gradient is multiplied by: one number for all, or one for each. */
extern "C" __global__ void __launch_bounds__(256)
cross_entropy_backward(const float *__restrict__ scale, const SCALAR *__restrict__ logits,
                       const long long *__restrict__ targets, const float *__restrict__ logsumexp,
                       SCALAR *__restrict__ grad_logits, long long rows, int classes,
                       long long ignore_index, bool scale_for_each)
{
    const long long row = (long long)blockIdx.x * ROWS + threadIdx.x / (WARPS * WARP);
    if (row >= rows)
        return;
    logits += row * classes;
    grad_logits += row * classes;
    const long long target = targets[row];
    const float factor = scale[scale_for_each ? row : 0], total = logsumexp[row];
    const int first = N * (threadIdx.x % (WARPS * WARP)), step = N * WARPS * WARP;
    for (int c = first; c < classes; c += step) {
        float values[N];
        load<N>(values, logits + c);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float weight = expf(values[j] - total);
            values[j] = target == ignore_index ? 0.0f : (weight - (c + j == target)) * factor;
        }
        store<N>(grad_logits + c, values);
    }
}
