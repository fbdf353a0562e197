"""AdamW in CUDA C, in float32."""

import math
from types import NotImplementedType

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.operation import Operation

THREADS = 256


class AdamW(Operation):
    def update(
        self,
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
        beta1, beta2 = betas
        if any(each.dtype != np.float32 for each in (parameter, grad, exp_avg, exp_avg_sq)):
            return NotImplemented
        self.launch(
            "adamw_update",
            _grid(parameter),
            THREADS,
            parameter,
            grad,
            exp_avg,
            exp_avg_sq,
            np.int64(parameter.size),
            np.float32(grad_scale),
            np.float32(1 - lr * weight_decay if decoupled else 1.0),
            np.float32(0.0 if decoupled else weight_decay),
            np.float32(1 - beta1),
            np.float32(beta2),
            np.float32(1 - beta2),
            np.float32(math.sqrt(1 - beta2**step)),
            np.float32(eps),
            np.float32(lr / (1 - beta1**step)),
        )
        return None

    def update_recorded(
        self,
        parameter: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        factors: Array,
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        beta1, beta2 = betas
        self.launch(
            "adamw_update_recorded",
            _grid(parameter),
            THREADS,
            parameter,
            grad,
            exp_avg,
            exp_avg_sq,
            np.int64(parameter.size),
            factors,
            np.float32(0.0 if decoupled else weight_decay),
            np.float32(1 - beta1),
            np.float32(beta2),
            np.float32(1 - beta2),
            np.float32(eps),
        )

    def count_step(
        self,
        step: Array,
        lr: Array,
        norm: Array | None,
        factors: Array,
        *,
        max_norm: float,
        betas: tuple[float, float],
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        self.launch(
            "adamw_factors",
            (1,),
            1,
            step,
            lr,
            norm,
            np.float64(max_norm),
            *map(np.float64, betas),
            np.float64(weight_decay if decoupled else 0.0),
            factors,
        )


def _grid(parameter: Array) -> tuple[int]:
    return (-(-parameter.size // (4 * THREADS)),)
