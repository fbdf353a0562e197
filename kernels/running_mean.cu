/* The mean of all positions so far: see running_mean.py for the equations. Arrays (B, T, C).
 *
 * A block has 32 channels of one sequence and walks over its positions, SPAN at a time. Each warp
 * adds up ROWS of them; what the warps before it have is added from shared memory. So memory is
 * read once and written once, and the order of a sum depends on the position alone.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int WARPS = 16, ROWS = 8, SPAN = WARPS * ROWS;

/* Forward walks from the first position to the last and divides sums; backward walks from the
 * last to the first and adds up what is divided already. */
template <bool FORWARD>
__device__ __forceinline__ void walk(const SCALAR *__restrict__ x, SCALAR *__restrict__ y,
                                     long long length, long long channels)
{
    /* two sets: a warp may write those of the next span while another still reads */
    __shared__ float totals[2][WARPS][WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const long long parts = (channels + WARP - 1) / WARP;
    const long long channel = blockIdx.x % parts * WARP + lane;
    const long long sequence = blockIdx.x / parts * length * channels + channel;
    float carried = 0.0f;
    for (long long start = 0; start < length; start += SPAN) {
        float(&here)[WARPS][WARP] = totals[start / SPAN % 2];
        const long long first = start + warp * ROWS;
        float sums[ROWS], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const long long t = FORWARD ? first + i : length - 1 - first - i;
            const bool exists = first + i < length && channel < channels;
            sums[i] = exists ? to_float(x[sequence + t * channels]) : 0.0f;
            if (!FORWARD && exists)
                sums[i] /= static_cast<float>(t + 1);
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            sums[i] = sum += sums[i];
        here[warp][lane] = sum;
        __syncthreads();
        float before = carried;
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            const float total = here[other][lane];
            before += other < warp ? total : 0.0f;
            carried += total;
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const long long t = FORWARD ? first + i : length - 1 - first - i;
            if (first + i >= length || channel >= channels)
                continue;
            const float result = before + sums[i];
            from_float(FORWARD ? result / static_cast<float>(t + 1) : result,
                       y[sequence + t * channels]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(512)
running_mean_forward(const SCALAR *__restrict__ x, SCALAR *__restrict__ y, long long length,
                     long long channels)
{
    walk<true>(x, y, length, channels);
}

extern "C" __global__ void __launch_bounds__(512)
running_mean_backward(const SCALAR *__restrict__ grad, SCALAR *__restrict__ grad_x,
                      long long length, long long channels)
{
    walk<false>(grad, grad_x, length, channels);
}
