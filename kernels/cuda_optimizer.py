"""AdamW and the norm of all gradients by CUDA kernels."""

import math

import numpy as np

from tinygrad_char.kernels import adamw, global_norm
from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda_operation import SCALARS, Operation, serves

FACTORS = 5
"""Numbers that a step of AdamW depends on: those of `enum Factor` in adamw.cu."""

THREADS = 256
MOST_PARTS = 1024


class AdamW(Operation):
    """See adamw.py; adamw.cu."""

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
    ) -> None:
        """See adamw.update."""
        beta1, beta2 = betas
        if any(each.dtype != np.float32 for each in (parameter, grad, exp_avg, exp_avg_sq)):
            adamw.update(
                parameter,
                grad,
                exp_avg,
                exp_avg_sq,
                step=step,
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                decoupled=decoupled,
                grad_scale=grad_scale,
            )
            return
        self.launch(
            "adamw",
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
        """Update as `update` does, with what changes from step to step read from `factors`."""
        beta1, beta2 = betas
        self.launch(
            "adamw",
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
        """Count one step and compute its factors on the device, for `update_recorded`.

        step (1,) int64 holds the number of steps done, lr (1,) float64 the learning rate, factors
        (FACTORS,) float32 the result. With `norm`, that of all gradients, () float64, they are
        scaled to have at most `max_norm`; where it is not finite the step is not counted and
        updates nothing.
        """
        self.launch(
            "adamw",
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


class GlobalNorm(Operation):
    """See global_norm.py; global_norm.cu."""

    def forward(self, grad: Array) -> Array:
        """See global_norm.forward."""
        if not serves(grad):
            return global_norm.forward(grad)
        xp = namespace(grad)
        scalar = SCALARS[grad.dtype.name]
        parts = min(-(-grad.size // (THREADS * 16)), MOST_PARTS)
        partial, norm = xp.empty(parts, np.float64), xp.empty((), np.float64)
        self.launch(
            "global_norm",
            "sum_of_squares",
            (parts,),
            THREADS,
            grad,
            np.int64(grad.size),
            partial,
            SCALAR=scalar,
        )
        self.launch(
            "global_norm",
            "global_norm",
            (1,),
            THREADS,
            partial,
            np.int32(parts),
            norm,
            SCALAR=scalar,
        )
        return norm


def _grid(parameter: Array) -> tuple[int]:
    return (-(-parameter.size // (4 * THREADS)),)
