/* What Muon does besides matrix products: see reference.py for the equations, cuda.py for the order.
 *
 * Blocks (matrix, part): each has its part of the elements of one matrix, and how many parts there
 * are depends on the matrices' size alone. */
#include "pack.cuh"
#include "reduce.cuh"

enum Factor { GRAD_SCALE, DECAY, CORRECTION, STEP_SIZE, ACTIVE }; /* as in adamw.cu */

constexpr int THREADS = 256;

/* The four elements at a time that a thread has of a matrix. */
#define EACH_FOUR(size)                                                                          \
    for (long long i = 4 * ((long long)blockIdx.y * THREADS + threadIdx.x); i < (size);          \
         i += 4LL * THREADS * gridDim.y)

/* x (count, size) = momentum and gradient as they will be added to the weights, and
 * partial (count, parts) = the sums of their squares. Without exp_avg, x is the gradient.
 *
 * What changes from step to step comes by value, or, where not null, from `factors`. */
extern "C" __global__ void __launch_bounds__(THREADS)
muon_direction(const float *__restrict__ grad, float *__restrict__ exp_avg,
               const long long *__restrict__ starts, long long size, float *__restrict__ x,
               double *__restrict__ partial, float grad_scale, float momentum, int nesterov,
               const float *__restrict__ factors)
{
    __shared__ double scratch[THREADS / WARP];
    const bool active = !factors || factors[ACTIVE] != 0.0f;
    const float scale = factors ? factors[GRAD_SCALE] : grad_scale, added = 1.0f - momentum;
    grad += starts[blockIdx.x];
    x += blockIdx.x * size;
    if (exp_avg)
        exp_avg += starts[blockIdx.x];
    const bool vector = aligned<4>(grad, x) && (!exp_avg || aligned<4>(exp_avg));
    double sum = 0.0;
    EACH_FOUR(size) {
        const long long left = size - i;
        const bool whole = vector && left >= 4;
        float g[4];
        load_some<4>(g, grad + i, left, whole);
        if (exp_avg) {
            float m[4];
            load_some<4>(m, exp_avg + i, left, whole);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                g[j] *= scale;
                m[j] += (g[j] - m[j]) * added;
                g[j] = nesterov ? m[j] * momentum + g[j] * added : m[j];
            }
            if (active)
                store_some<4>(exp_avg + i, m, left, whole);
        }
        store_some<4>(x + i, g, left, whole);
#pragma unroll
        for (int j = 0; j < 4; j++)
            sum += static_cast<double>(g[j]) * g[j];
    }
    sum = reduce_warps<Sum, THREADS / WARP>(sum, scratch);
    if (threadIdx.x == 0)
        partial[blockIdx.x * gridDim.y + blockIdx.y] = sum;
}

/* Divides each matrix of x by the root of its sum of squares, unless that is 0. */
extern "C" __global__ void __launch_bounds__(THREADS)
muon_normalize(float *__restrict__ x, long long size, const double *__restrict__ partial)
{
    double sum = 0.0;
    for (unsigned part = 0; part < gridDim.y; part++)
        sum += partial[blockIdx.x * gridDim.y + part];
    const double factor = sum == 0.0 ? 1.0 : 1.0 / sqrt(sum);
    x += blockIdx.x * size;
    const bool vector = aligned<4>(x);
    EACH_FOUR(size) {
        const long long left = size - i;
        const bool whole = vector && left >= 4;
        float values[4];
        load_some<4>(values, x + i, left, whole);
#pragma unroll
        for (int j = 0; j < 4; j++)
            values[j] = static_cast<float>(values[j] * factor);
        store_some<4>(x + i, values, left, whole);
    }
}

/* factor = a I + b gram + c factor, of matrices (rows, rows). */
extern "C" __global__ void __launch_bounds__(THREADS)
muon_polynomial(const float *__restrict__ gram, float *__restrict__ factor, int rows, float a,
                float b, float c)
{
    const long long size = (long long)rows * rows;
    gram += blockIdx.x * size;
    factor += blockIdx.x * size;
    for (long long i = (long long)blockIdx.y * THREADS + threadIdx.x; i < size;
         i += (long long)THREADS * gridDim.y)
        factor[i] = c * factor[i] + b * gram[i] + (i % (rows + 1) == 0 ? a : 0.0f);
}

/* Weights lose their decay, and the update (count, size) times lr stretch. */
extern "C" __global__ void __launch_bounds__(THREADS)
muon_apply(float *__restrict__ parameter, const float *__restrict__ update,
           const long long *__restrict__ starts, long long size, float decay, float lr,
           float stretch, const float *__restrict__ factors)
{
    if (factors && factors[ACTIVE] == 0.0f)
        return;
    const float kept = factors ? factors[DECAY] : decay;
    const float rate = (factors ? factors[STEP_SIZE] : lr) * stretch;
    parameter += starts[blockIdx.x];
    update += blockIdx.x * size;
    const bool vector = aligned<4>(parameter, update);
    EACH_FOUR(size) {
        const long long left = size - i;
        const bool whole = vector && left >= 4;
        float p[4], u[4];
        load_some<4>(p, parameter + i, left, whole);
        load_some<4>(u, update + i, left, whole);
#pragma unroll
        for (int j = 0; j < 4; j++)
            p[j] = p[j] * kept - u[j] * rate;
        store_some<4>(parameter + i, p, left, whole);
    }
}
