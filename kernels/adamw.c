/* One step of Adam or AdamW: see adamw.py for the equations and the meaning of the scalars. */
#include "fused.h"

MULTIVERSION void adamw_update(float *parameter, const float *grad, float *exp_avg,
                               float *exp_avg_sq, int64_t size, float grad_scale, float decay,
                               float addition, float rate1, float beta2, float rate2,
                               float correction, float eps, float step_size)
{
    for (int64_t i = 0; i < size; i++) {
        const float p = parameter[i] * decay;
        const float g = grad[i] * grad_scale + p * addition;
        const float m = exp_avg[i] + (g - exp_avg[i]) * rate1;
        const float v = exp_avg_sq[i] * beta2 + g * rate2 * g;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        parameter[i] = p - m * step_size / (sqrtf(v) / correction + eps);
    }
}
