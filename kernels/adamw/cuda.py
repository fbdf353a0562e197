"""AdamW in CUDA C, in float32."""

from types import NotImplementedType
from typing import Unpack

import numpy as np

from tinygrad_char.kernels.adamw.reference import Options, Rule, addition, fused_arguments
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
        rule: Rule,
    ) -> None:
        beta1, beta2 = rule["betas"]
        self.launch(
            "adamw_update_recorded",
            _grid(parameter),
            THREADS,
            *(parameter, grad, exp_avg, exp_avg_sq, np.int64(parameter.size), factors),
            *map(np.float32, (addition(rule), 1 - beta1, beta2, 1 - beta2, rule["eps"])),
        )

    def count_step(
        self,
        step: Array,
        lr: Array,
        norm: Array | None,
        factors: Array,
        max_norm: float,
        rule: Rule,
    ) -> None:
        decay = rule["weight_decay"] if rule["decoupled"] else 0.0
        self.launch(
            "adamw_factors",
            (1,),
            1,
            *(step, lr, norm),
            *map(np.float64, (max_norm, *rule["betas"], decay)),
            factors,
        )


def _grid(parameter: Array) -> tuple[int]:
    return (-(-parameter.size // (4 * THREADS)),)
