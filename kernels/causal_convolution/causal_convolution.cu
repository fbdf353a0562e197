/* Causal depthwise convolution: see reference.py for the equations. Arrays (B, T, channels) of
 * SCALAR; weights (TAPS, channels), and their gradients, are float32. VECTOR elements, which divide
 * `channels`, are moved at a time.
 *
 * A warp has VECTOR * 32 channels of a stretch of positions of one sequence. It walks over them with
 * the last TAPS rows in registers, so that each row is read once, but for those before a stretch.
 *
 * Variants: SCALAR=float VECTOR=1|4 TAPS=2|3|4
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 TAPS=2|3|4 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int BLOCK = 256, BLOCK_WARPS = BLOCK / WARP, STRETCH = 32;

/* A stretch of a sequence: its positions, and the row of the sequence's first. */
struct Stretch {
    int first, last, length;
    long long row;

    __device__ __forceinline__ Stretch(long long number, long long length)
        : length(static_cast<int>(length))
    {
        const long long each = (length + STRETCH - 1) / STRETCH;
        row = number / each * length;
        first = static_cast<int>(number % each * STRETCH);
        last = min(first + STRETCH, this->length);
    }
};

__device__ __forceinline__ int own_channel()
{
    return (blockIdx.y * WARP + threadIdx.x % WARP) * VECTOR;
}

__device__ __forceinline__ void load_weights(float (&weights)[TAPS][VECTOR], const float *weight,
                                             int channel, int channels)
{
#pragma unroll
    for (int k = 0; k < TAPS; k++)
        load<VECTOR>(weights[k], weight + (long long)k * channels + channel);
}

/* Makes room for the next row of a window, in which [k] is the row k steps ago. */
__device__ __forceinline__ void step(float (&window)[TAPS][VECTOR])
{
#pragma unroll
    for (int k = TAPS - 1; k > 0; k--)
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            window[k][j] = window[k - 1][j];
}

/* y = window[0] + the taps of the rows that exist, of which there are `seen`. */
__device__ __forceinline__ void add_taps(float (&y)[VECTOR], const float (&window)[TAPS][VECTOR],
                                         const float (&weights)[TAPS][VECTOR], int seen)
{
#pragma unroll
    for (int j = 0; j < VECTOR; j++)
        y[j] = window[0][j];
#pragma unroll
    for (int k = 0; k < TAPS; k++)
        if (k < seen)
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                y[j] += weights[k][j] * window[k][j];
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
causal_convolution_forward(const SCALAR *__restrict__ x, const float *__restrict__ weight,
                           SCALAR *__restrict__ y, long long stretches, long long length,
                           int channels)
{
    const long long number = (long long)blockIdx.x * BLOCK_WARPS + threadIdx.x / WARP;
    const int channel = own_channel();
    if (number >= stretches || channel >= channels)
        return;
    const Stretch at(number, length);
    float weights[TAPS][VECTOR], window[TAPS][VECTOR] = {};
    load_weights(weights, weight, channel, channels);
    for (int t = max(0, at.first - TAPS + 1); t < at.last; t++) {
        const long long place = (at.row + t) * channels + channel;
        step(window);
        load<VECTOR>(window[0], x + place);
        if (t < at.first)
            continue;
        float sums[VECTOR];
        add_taps(sums, window, weights, t + 1);
        store<VECTOR>(y + place, sums);
    }
}

/* Writes grad_x, unless it is null, and where `partial` (gridDim.x, TAPS, channels) is not null,
 * each block's part of the weights' gradient, which column_sum adds up. A block's warps take every
 * gridDim.x * BLOCK_WARPS-th stretch, from its last position to its first. */
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
causal_convolution_backward(const SCALAR *__restrict__ grad, const SCALAR *__restrict__ x,
                            const float *__restrict__ weight, SCALAR *__restrict__ grad_x,
                            float *__restrict__ partial, long long stretches, long long length,
                            int channels)
{
    __shared__ float shared[TAPS][VECTOR][WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, channel = own_channel();
    float totals[TAPS][VECTOR] = {}; /* of stretches, so that errors do not grow with their number */
    const long long all = (long long)gridDim.x * BLOCK_WARPS;
    float weights[TAPS][VECTOR] = {};
    if (channel < channels)
        load_weights(weights, weight, channel, channels);
    for (long long number = (long long)blockIdx.x * BLOCK_WARPS + warp;
         number < stretches && channel < channels; number += all) {
        const Stretch at(number, length);
        float window[TAPS][VECTOR] = {}, sums[TAPS][VECTOR] = {};
        for (int t = min(at.length, at.last + TAPS - 1) - 1; t >= at.first; t--) {
            const long long place = (at.row + t) * channels + channel;
            const int seen = at.length - t;
            step(window);
            load<VECTOR>(window[0], grad + place);
            if (t >= at.last)
                continue;
            if (grad_x) {
                float result[VECTOR];
                add_taps(result, window, weights, seen);
                store<VECTOR>(grad_x + place, result);
            }
            if (!partial)
                continue;
            float own[VECTOR];
            load<VECTOR>(own, x + place);
#pragma unroll
            for (int k = 0; k < TAPS; k++)
                if (k < seen)
#pragma unroll
                    for (int j = 0; j < VECTOR; j++)
                        sums[k][j] += own[j] * window[k][j];
        }
#pragma unroll
        for (int k = 0; k < TAPS; k++)
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                totals[k][j] += sums[k][j];
    }
    if (!partial)
        return;
    for (int turn = 0; turn < BLOCK_WARPS; turn++) { /* warp after warp, always in this order */
        if (turn == warp)
#pragma unroll
            for (int k = 0; k < TAPS; k++)
#pragma unroll
                for (int j = 0; j < VECTOR; j++)
                    shared[k][j][lane] = turn ? shared[k][j][lane] + totals[k][j] : totals[k][j];
        __syncthreads();
    }
    if (warp == 0 && channel < channels)
#pragma unroll
        for (int k = 0; k < TAPS; k++) {
            float sums[VECTOR];
#pragma unroll
            for (int j = 0; j < VECTOR; j++)
                sums[j] = shared[k][j][lane];
            store<VECTOR>(partial + ((long long)blockIdx.x * TAPS + k) * channels + channel, sums);
        }
}
