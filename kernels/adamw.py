"""One step of Adam or AdamW on a flat buffer.

Adam: Kingma and Ba 2015, arXiv:1412.6980. AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

import math

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.half import in_float32

CHUNK = 1 << 15
"""Elements worked on at once, so that the passes over them stay in the processor's cache."""


@in_float32
def update(
    parameter: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: float = 1.0,
) -> None:
    """Update parameter, exp_avg (m) and exp_avg_sq (v), flat arrays of one dtype, in place.

    g = grad_scale * grad (+ weight_decay * p for Adam),  p *= 1 - lr * weight_decay (AdamW),
    m += (g - m)(1 - beta1),  v = beta2 v + (1 - beta2) g^2,
    p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps).

    `step` counts from 1. Scalars are computed in double precision and rounded once; the order of
    the operations is PyTorch's, so that only its fused multiply-adds make a difference in the
    last place.
    """
    beta1, beta2 = betas
    dtype = parameter.dtype.type
    decay = dtype(1 - lr * weight_decay)
    scale, correction = dtype(grad_scale), dtype(math.sqrt(1 - beta2**step))
    step_size = dtype(lr / (1 - beta1**step))
    xp = namespace(parameter)
    chunk = CHUNK if xp is np else parameter.size
    for start in range(0, parameter.size, chunk):
        part = slice(start, start + chunk)
        p, g, m, v = parameter[part], grad[part], exp_avg[part], exp_avg_sq[part]
        if grad_scale != 1.0:
            g = g * scale
        if weight_decay != 0.0:
            if decoupled:
                p *= decay
            else:
                g = g + p * dtype(weight_decay)
        work = g - m
        work *= dtype(1 - beta1)
        m += work
        xp.multiply(g, dtype(1 - beta2), out=work)
        work *= g
        v *= dtype(beta2)
        v += work
        xp.sqrt(v, out=work)
        work /= correction
        work += dtype(eps)
        p -= m * step_size / work
