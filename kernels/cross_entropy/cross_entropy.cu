/* Cross-entropy from logits and integer targets: see reference.py for the equations.
 *
 * SCALAR, float or __nv_bfloat16, is the type of the logits (rows, classes) and their gradient;
 * losses and sums are float32. VECTOR elements, which divide `classes`, are moved at a time. WARPS
 * warps, 1 or all 8, share a row. A target that is ignored gives a loss and a gradient of 0; one
 * that is no class, NaN.
 *
 * In training the logits are read once and their gradient is written once:
 *
 *                            reads                       writes
 *     share                  targets                     one number
 *     one_pass               logits, targets             losses, statistics, gradient
 *     reduce                 losses, targets             the loss
 *     rescale                one number (the gradient)   nothing (the gradient)
 *
 * where rescale does what stands in brackets only if the loss is not the last thing that is
 * computed, or is one of several. A pass backward of its own would read the logits again. forward
 * serves where no gradient is wanted, backward where one is wanted a second time.
 *
 * Variants: SCALAR=float VECTOR=1|4 WARPS=1|8
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 WARPS=1|8 */
#include "online.cuh"
#include "reduce.cuh"
#include "row.cuh"

/* What the gradient of each row is multiplied by, where only the target decides. */
__device__ __forceinline__ float row_factor(float factor, long long target, int classes,
                                            long long ignore_index)
{
    if (target == ignore_index)
        return 0.0f;
    return target < 0 || target >= classes ? not_a_number() : factor;
}

__device__ __forceinline__ float row_loss(const Online &online, const SCALAR *logits,
                                          long long target, int classes, long long ignore_index)
{
    if (target == ignore_index)
        return 0.0f;
    if (target < 0 || target >= classes)
        return not_a_number();
    /* so the loss keeps the digits that logsumexp - logit loses to a large peak */
    return logf(online.total) + (online.peak - to_float(logits[target]));
}

__device__ __forceinline__ void store_statistics(float *statistics, const Online &online)
{
    const float pair[2] = {online.peak, online.total};
    store<2>(statistics, pair);
}

/* From logits in registers to their gradient: (softmax - onehot) * factor. */
__device__ __forceinline__ void differentiate(float (&values)[N], int first, float peak,
                                              float inverse, long long target, float factor)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float weight = expf(values[j] - peak) * inverse;
        values[j] = factor == 0.0f ? 0.0f : (weight - (first + j == target)) * factor;
    }
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy_forward(const SCALAR *__restrict__ logits, const long long *__restrict__ targets,
                      float *__restrict__ losses, float *__restrict__ statistics, long long rows,
                      int classes, long long ignore_index)
{
    __shared__ float scratch[WARPS];
    const long long row = own_row();
    if (row >= rows)
        return;
    logits += row * classes;
    const int first = own_column();
    Online online;
    for (int c = first; c < classes; c += STEP) {
        float values[N];
        load<N>(values, logits + c);
        online.add(values);
    }
    online.reduce<WARPS>(scratch);
    if (first)
        return;
    losses[row] = row_loss(online, logits, targets[row], classes, ignore_index);
    store_statistics(statistics + 2 * row, online);
}

/* The same, and the gradient for a cotangent of one: of the mean, of which each target that counts
 * has `share`, or where that is null of the sum of the losses. */
extern "C" __global__ void __launch_bounds__(256, 2)
cross_entropy_one_pass(const SCALAR *__restrict__ logits, const long long *__restrict__ targets,
                       const float *__restrict__ share, float *__restrict__ losses,
                       float *__restrict__ statistics, SCALAR *__restrict__ grad_logits,
                       long long rows, int classes, long long ignore_index)
{
    __shared__ float scratch[WARPS];
    const long long row = own_row();
    if (row >= rows)
        return;
    logits += row * classes;
    grad_logits += row * classes;
    const long long target = targets[row];
    const int first = own_column();

    const Row<SCALAR, N, STEP> own(logits, first, classes);
    Online online;
    own.each([&](int, const float (&values)[N]) { online.add(values); });
    online.reduce<WARPS>(scratch);
    if (first == 0) {
        losses[row] = row_loss(online, logits, target, classes, ignore_index);
        store_statistics(statistics + 2 * row, online);
    }

    const float inverse = 1.0f / online.total;
    const float factor = row_factor(share ? *share : 1.0f, target, classes, ignore_index);
    own.each([&](int c, float (&values)[N]) {
        differentiate(values, c, online.peak, inverse, target, factor);
        store<N>(grad_logits + c, values);
    });
}

/* share = one over the number of targets that are not ignored, at least 1; one block. */
extern "C" __global__ void __launch_bounds__(1024)
cross_entropy_share(const long long *__restrict__ targets, float *__restrict__ share,
                    long long rows, long long ignore_index)
{
    __shared__ float scratch[32];
    float counted = 0.0f;
    for (long long row = threadIdx.x; row < rows; row += 1024)
        counted += targets[row] != ignore_index;
    counted = reduce_warps<Sum, 32>(counted, scratch);
    if (threadIdx.x == 0)
        *share = 1.0f / fmaxf(counted, 1.0f);
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

/* Multiplies a gradient by the cotangent, one number for all rows or one for each. Rows whose
 * cotangent is one are left alone. Blocks take several rows: few are started for nothing. */
extern "C" __global__ void __launch_bounds__(256)
cross_entropy_rescale(const float *__restrict__ cotangent, SCALAR *__restrict__ grad_logits,
                      long long rows, int classes, bool for_each)
{
    const int first = own_column();
    for (long long row = own_row(); row < rows; row += (long long)gridDim.x * ROWS) {
        const float factor = cotangent[for_each ? row : 0];
        if (factor == 1.0f)
            continue;
        for (int c = first; c < classes; c += STEP) {
            float values[N];
            load<N>(values, grad_logits + row * classes + c);
#pragma unroll
            for (int j = 0; j < N; j++) /* rows that do not count stay 0, even times infinity */
                values[j] = values[j] == 0.0f ? 0.0f : values[j] * factor;
            store<N>(grad_logits + row * classes + c, values);
        }
    }
}

/* The gradient from what forward has saved. `cotangent` is one number for all rows or one for
 * each, of which each target that counts has `share` where that is not null. */
extern "C" __global__ void __launch_bounds__(256)
cross_entropy_backward(const float *__restrict__ cotangent, const SCALAR *__restrict__ logits,
                       const long long *__restrict__ targets, const float *__restrict__ share,
                       const float *__restrict__ statistics, SCALAR *__restrict__ grad_logits,
                       long long rows, int classes, long long ignore_index, bool for_each)
{
    const long long row = own_row();
    if (row >= rows)
        return;
    logits += row * classes;
    grad_logits += row * classes;
    const long long target = targets[row];
    const float peak = statistics[2 * row], inverse = 1.0f / statistics[2 * row + 1];
    const float scale = cotangent[for_each ? row : 0];
    const float factor = row_factor(share ? scale * *share : scale, target, classes, ignore_index);
    for (int c = own_column(); c < classes; c += STEP) {
        float values[N];
        load<N>(values, logits + c);
        differentiate(values, c, peak, inverse, target, factor);
        store<N>(grad_logits + c, values);
    }
}
