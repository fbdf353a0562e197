/* One step of Adam or AdamW: see reference.py for the equations and the meaning of the scalars. */
#include "kernel.h"
#include "parallel_for.h"

typedef struct {
    float *parameter, *exp_avg, *exp_avg_sq;
    const float *grad;
    float grad_scale, decay, addition, rate1, beta2, rate2, correction, eps, step_size;
} Update;

MULTIVERSION static void update(void *job, int64_t first, int64_t last)
{
    const Update u = *(const Update *)job;
    for (int64_t i = first; i < last; i++) {
        const float p = u.parameter[i] * u.decay;
        const float g = u.grad[i] * u.grad_scale + p * u.addition;
        const float m = u.exp_avg[i] + (g - u.exp_avg[i]) * u.rate1;
        const float v = u.exp_avg_sq[i] * u.beta2 + g * u.rate2 * g;
        u.exp_avg[i] = m;
        u.exp_avg_sq[i] = v;
        u.parameter[i] = p - m * u.step_size / (sqrtf(v) / u.correction + u.eps);
    }
}

KERNEL_PLAIN(void, adamw_update, OUT(parameter, size), IN(grad, size), OUT(exp_avg, size),
             OUT(exp_avg_sq, size), COUNT(size), REAL(grad_scale), REAL(decay), REAL(addition),
             REAL(rate1), REAL(beta2), REAL(rate2), REAL(correction), REAL(eps), REAL(step_size),
             COUNT(threads))
{
    Update job = {parameter,  exp_avg, exp_avg_sq, grad,       grad_scale, decay,    addition,
                  rate1,      beta2,   rate2,      correction, eps,        step_size};
    parallel_for(update, &job, size, threads);
}
