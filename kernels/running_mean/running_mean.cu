/* The mean of all positions so far: see reference.py for the equations. Arrays (B, T, C).
 *
 * A block has 32 channels of one sequence and walks over its positions, SPAN at a time. Of each
 * ROWS positions N neighbouring channels, sixteen bytes, are a thread's, so a warp has several
 * groups of positions. Sums go from thread to group, from there through the warp, and from warp to
 * warp by shared memory. So memory is read once and written once, and the order of a sum depends on
 * the position alone.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int WARPS = 16, CHANNELS = 32;
constexpr int N = WIDTH<SCALAR>, LANES = CHANNELS / N, GROUPS = WARP / LANES; /* of a warp */
constexpr int ROWS = 8 / GROUPS, SPAN = WARPS * GROUPS * ROWS;

/* Forward walks from the first position to the last and divides sums; backward walks from the
 * last to the first and adds up what is divided already. */
template <bool FORWARD>
__device__ __forceinline__ void walk(const SCALAR *__restrict__ x, SCALAR *__restrict__ y,
                                     long long length, long long channels)
{
    /* two sets: a warp may write those of the next span while another still reads */
    __shared__ __align__(16) float totals[2][WARPS][CHANNELS];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, mine = N * (lane % LANES);
    const long long parts = (channels + CHANNELS - 1) / CHANNELS;
    const long long channel = blockIdx.x % parts * CHANNELS + mine, left = channels - channel;
    const long long sequence = blockIdx.x / parts * length * channels + channel;
    const bool whole = channels % N == 0 && left > 0 && aligned<N>(x, y);
    /* the sum of the spans before, and what its roundings have added to it (Kahan 1965, "Further
     * remarks on reducing truncation errors") */
    float carried[N] = {}, excess[N] = {};
    for (long long start = 0; start < length; start += SPAN) {
        float(&here)[WARPS][CHANNELS] = totals[start / SPAN % 2];
        const long long first = start + (warp * GROUPS + lane / LANES) * ROWS;
        float sums[ROWS][N], through[N] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const long long t = FORWARD ? first + i : length - 1 - first - i;
            const bool exists = first + i < length;
            load_some<N>(sums[i], x + sequence + t * channels, exists ? left : 0, exists && whole);
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (!FORWARD && exists)
                    sums[i][j] /= static_cast<float>(t + 1);
                sums[i][j] = through[j] += sums[i][j];
            }
        }
        float before[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
#pragma unroll
            for (int distance = LANES; distance < WARP; distance *= 2) {
                const float other = __shfl_up_sync(ALL_LANES, through[j], distance);
                through[j] += lane >= distance ? other : 0.0f;
            }
            const float other = __shfl_up_sync(ALL_LANES, through[j], LANES);
            before[j] = lane >= LANES ? other : 0.0f;
        }
        if (lane >= WARP - LANES)
            store_shared<N>(&here[warp][mine], through);
        __syncthreads();
        float span[N] = {};
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            float total[N];
            load<N>(total, &here[other][mine]);
#pragma unroll
            for (int j = 0; j < N; j++) {
                before[j] += other < warp ? total[j] : 0.0f;
                span[j] += total[j];
            }
        }
#pragma unroll
        for (int j = 0; j < N; j++) {
            before[j] += carried[j];
            const float more = span[j] - excess[j], sum = carried[j] + more;
            excess[j] = fabsf(sum) < infinity() ? (sum - carried[j]) - more : 0.0f;
            carried[j] = sum;
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const long long t = FORWARD ? first + i : length - 1 - first - i;
            const bool exists = first + i < length;
#pragma unroll
            for (int j = 0; j < N; j++) {
                sums[i][j] += before[j];
                if (FORWARD)
                    sums[i][j] /= static_cast<float>(t + 1);
            }
            store_some<N>(y + sequence + t * channels, sums[i], exists ? left : 0,
                          exists && whole);
        }
    }
}

extern "C" __global__ void __launch_bounds__(512, 2)
running_mean_forward(const SCALAR *__restrict__ x, SCALAR *__restrict__ y, long long length,
                     long long channels)
{
    walk<true>(x, y, length, channels);
}

extern "C" __global__ void __launch_bounds__(512, 2)
running_mean_backward(const SCALAR *__restrict__ grad, SCALAR *__restrict__ grad_x,
                      long long length, long long channels)
{
    walk<false>(grad, grad_x, length, channels);
}
