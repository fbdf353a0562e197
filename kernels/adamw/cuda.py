"""AdamW in CUDA C, in float32."""

from types import NotImplementedType
from typing import Unpack

import numpy as np

from tinygrad_char.kernels.adamw.reference import Options, fused_arguments
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
        **options: Unpack[Options],
    ) -> NotImplementedType | None:
        arrays = parameter, grad, exp_avg, exp_avg_sq
        if any(each.dtype != np.float32 for each in arrays):
            return NotImplemented
        self.launch(
            "adamw_update",
            _grid(parameter),
            THREADS,
            *arrays,
            np.int64(parameter.size),
            *map(np.float32, fused_arguments(options)),
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
            *(parameter, grad, exp_avg, exp_avg_sq, np.int64(parameter.size), factors),
            np.float32(0.0 if decoupled else weight_decay),
            *map(np.float32, (1 - beta1, beta2, 1 - beta2, eps)),
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
            *(step, lr, norm),
            *map(np.float64, (max_norm, *betas, weight_decay if decoupled else 0.0)),
            factors,
        )


def _grid(parameter: Array) -> tuple[int]:
    return (-(-parameter.size // (4 * THREADS)),)
