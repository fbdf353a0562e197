/* One step of Adam or AdamW on a flat buffer: see reference.py for the equations.
 *
 * 28 bytes are moved for each parameter. What changes from step to step comes by value, or, so
 * that a recorded graph can be replayed, from `factors`, which adamw_factors computes on the
 * device. */
#include "pack.cuh"
#include "reduce.cuh"

enum Factor { GRAD_SCALE, DECAY, CORRECTION, STEP_SIZE, ACTIVE };

__device__ __forceinline__ void update(float *__restrict__ parameter,
                                       const float *__restrict__ grad,
                                       float *__restrict__ exp_avg,
                                       float *__restrict__ exp_avg_sq, long long size,
                                       float grad_scale, float decay, float addition, float rate1,
                                       float beta2, float rate2, float correction, float eps,
                                       float step_size)
{
    const long long start = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    const long long left = size - start;
    if (left <= 0)
        return;
    /* the buffer of a group of parameters begins anywhere in the buffer of all */
    const bool whole = left >= 4 && aligned<4>(parameter, grad, exp_avg, exp_avg_sq);
    float p[4], g[4], m[4], v[4];
    load_some<4>(p, parameter + start, left, whole);
    load_some<4>(g, grad + start, left, whole);
    load_some<4>(m, exp_avg + start, left, whole);
    load_some<4>(v, exp_avg_sq + start, left, whole);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        p[j] *= decay;
        g[j] = g[j] * grad_scale + p[j] * addition;
        m[j] += (g[j] - m[j]) * rate1;
        v[j] = v[j] * beta2 + g[j] * rate2 * g[j];
        p[j] -= m[j] * step_size / (sqrtf(v[j]) / correction + eps);
    }
    store_some<4>(parameter + start, p, left, whole);
    store_some<4>(exp_avg + start, m, left, whole);
    store_some<4>(exp_avg_sq + start, v, left, whole);
}

extern "C" __global__ void __launch_bounds__(256)
adamw_update(float *parameter, const float *grad, float *exp_avg, float *exp_avg_sq,
             long long size, float grad_scale, float decay, float addition, float rate1,
             float beta2, float rate2, float correction, float eps, float step_size)
{
    update(parameter, grad, exp_avg, exp_avg_sq, size, grad_scale, decay, addition, rate1, beta2,
           rate2, correction, eps, step_size);
}

extern "C" __global__ void __launch_bounds__(256)
adamw_update_recorded(float *parameter, const float *grad, float *exp_avg, float *exp_avg_sq,
                      long long size, const float *factors, float addition, float rate1,
                      float beta2, float rate2, float eps)
{
    if (factors[ACTIVE] != 0.0f)
        update(parameter, grad, exp_avg, exp_avg_sq, size, factors[GRAD_SCALE], factors[DECAY],
               addition, rate1, beta2, rate2, factors[CORRECTION], eps, factors[STEP_SIZE]);
}

/* Counts the step and computes its factors, in double precision; for one thread.
 *
 * `norm`, where not null, is that of all gradients, which are scaled down to have at most
 * `max_norm`; where it is not finite nothing is counted and nothing updated. */
extern "C" __global__ void adamw_factors(long long *step, const double *lr, const double *norm,
                                         double max_norm, double beta1, double beta2,
                                         double decay, float *factors)
{
    double scale = 1.0;
    if (norm) {
        const bool finite = *norm < infinity(); /* nor NaN */
        factors[ACTIVE] = finite ? 1.0f : 0.0f;
        if (!finite)
            return;
        scale = fmin(1.0, max_norm / (*norm + 1e-6));
    } else {
        factors[ACTIVE] = 1.0f;
    }
    const double count = static_cast<double>(++*step);
    factors[GRAD_SCALE] = static_cast<float>(scale);
    factors[DECAY] = static_cast<float>(1.0 - *lr * decay);
    factors[CORRECTION] = static_cast<float>(sqrt(1.0 - pow(beta2, count)));
    factors[STEP_SIZE] = static_cast<float>(*lr / (1.0 - pow(beta1, count)));
}
