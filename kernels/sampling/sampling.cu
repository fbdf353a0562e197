/* One token for each row of logits: see reference.py.
 *
 * SCALAR is the type of the logits: float or __nv_bfloat16. One block for each row; each thread
 * has a stretch of neighbouring classes.
 *
 * Variants: SCALAR=float|__nv_bfloat16 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256, WARPS = THREADS / WARP;

/* A number whose order among integers is that of x. */
__device__ __forceinline__ unsigned rank(float x)
{
    const unsigned bits = __float_as_uint(x + 0.0f); /* both zeros are equal */
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Returns the rank of the k-th largest logit: eight bits at a time, from the highest, how many
 * logits begin with which bits decides which bits it begins with. */
__device__ __forceinline__ unsigned rank_of_largest(const SCALAR *logits, int classes, int k)
{
    __shared__ int counts[256];
    __shared__ unsigned prefix;
    __shared__ int left;
    unsigned known = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const unsigned mask = shift == 24 ? 0u : ~0u << (shift + 8);
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (int c = threadIdx.x; c < classes; c += THREADS) {
            const unsigned mine = rank(to_float(logits[c]));
            if ((mine & mask) == known)
                atomicAdd(&counts[mine >> shift & 255u], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = 255, remaining = shift == 24 ? k : left;
            for (; digit > 0 && counts[digit] < remaining; digit--)
                remaining -= counts[digit];
            prefix = known | static_cast<unsigned>(digit) << shift;
            left = remaining;
        }
        __syncthreads();
        known = prefix;
    }
    return known;
}

/* Chooses the first class at which the running sum of exp(logit / temperature) over those of at
 * least the rank of the k-th largest exceeds uniform times the total; with temperature 0 the first
 * of the largest. */
extern "C" __global__ void __launch_bounds__(THREADS)
sampling(const SCALAR *__restrict__ logits, const float *__restrict__ uniform,
         long long *__restrict__ tokens, int classes, float temperature, int k)
{
    __shared__ float scratch[WARPS];
    __shared__ int chosen, last;
    const int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    logits += (long long)blockIdx.x * classes;
    if (thread == 0) {
        chosen = classes;
        last = -1;
    }
    float peak = -infinity();
    for (int c = thread; c < classes; c += THREADS)
        peak = fmaxf(peak, to_float(logits[c]));
    peak = reduce_warps<Maximum, WARPS>(peak, scratch);
    const unsigned least = k < classes ? rank_of_largest(logits, classes, k) : 0u;

    const int stretch = (classes + THREADS - 1) / THREADS;
    const int first = min(classes, thread * stretch), end = min(classes, first + stretch);
    const auto weight = [&](int c) {
        const float logit = to_float(logits[c]);
        if (temperature == 0.0f) /* what is not finite makes the total no number */
            return logit == peak ? 1.0f + (peak - peak) : isnan(logit) ? logit : 0.0f;
        return rank(logit) >= least ? expf((logit - peak) / temperature) : 0.0f;
    };
    float mine = 0.0f;
    for (int c = first; c < end; c++)
        mine += weight(c);

    /* the sum of the threads before this one: within the warp, then of the warps before */
    float through = mine;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const float other = __shfl_up_sync(ALL_LANES, through, distance);
        through += lane >= distance ? other : 0.0f;
    }
    __syncthreads();
    if (lane == WARP - 1)
        scratch[warp] = through;
    __syncthreads();
    float before = through - mine, total = 0.0f;
    for (int each = 0; each < WARPS; each++) {
        before += each < warp ? scratch[each] : 0.0f;
        total += scratch[each];
    }

    const float threshold = (temperature == 0.0f ? 0.0f : uniform[blockIdx.x]) * total;
    float sum = before;
    int possible = -1;
    for (int c = first; c < end && sum <= threshold; c++) {
        const float each = weight(c);
        sum += each;
        possible = each > 0.0f ? c : possible;
        if (each > 0.0f && sum > threshold)
            atomicMin(&chosen, c);
    }
    atomicMax(&last, possible);
    __syncthreads();
    /* rounding may leave every sum at or below the threshold; a total that is not a number leaves
     * nothing possible, which is -1 */
    if (thread == 0)
        tokens[blockIdx.x] = chosen < classes ? chosen : last;
}
