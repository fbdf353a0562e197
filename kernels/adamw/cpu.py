"""AdamW in C, for contiguous float32 arrays of the host: see reference.py."""

import math
from types import NotImplementedType

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled


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
) -> NotImplementedType | None:
    if not fits(parameter, grad, exp_avg, exp_avg_sq):
        return NotImplemented
    beta1, beta2 = betas
    compiled.adamw_update(
        parameter,
        grad,
        exp_avg,
        exp_avg_sq,
        parameter.size,
        grad_scale,
        1 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else weight_decay,
        1 - beta1,
        beta2,
        1 - beta2,
        math.sqrt(1 - beta2**step),
        eps,
        lr / (1 - beta1**step),
        threads_for(8 * parameter.size),
    )
    return None
