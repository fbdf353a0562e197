"""Optimizers, gradient clipping, a mean of weights, and learning-rate schedules, by their names.

An optimizer moves the parameters that it trains into one flat buffer, of which they become views,
and their gradients into another: see optimizer.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tinygrad_char.adam import Adam as Adam
from tinygrad_char.adam import AdamW as AdamW
from tinygrad_char.averaging import WeightAverage as WeightAverage
from tinygrad_char.kernels import global_norm, sgd
from tinygrad_char.kernels.array import Array, in_float32, namespace
from tinygrad_char.muon import Muon as Muon
from tinygrad_char.muon import MuonAdamW as MuonAdamW
from tinygrad_char.optimizer import Optimizer as Optimizer
from tinygrad_char.optimizer import check_max_norm
from tinygrad_char.schedules import constant as constant
from tinygrad_char.schedules import warmup_cosine as warmup_cosine
from tinygrad_char.schedules import warmup_linear as warmup_linear
from tinygrad_char.schedules import warmup_stable_decay as warmup_stable_decay
from tinygrad_char.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, see kernels/sgd/reference.py."""

    slots = ("velocity",)

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        self.backend.chosen().kernels[sgd.update](
            self.flat[span],
            self.flat_grad[span],
            self.state["velocity"][span] if options["momentum"] else None,
            step=step,
            grad_scale=scale,
            **options,
        )


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), with the momentum and centering of Graves 2013, arXiv:1308.0850.

    g = grad + weight_decay p;  v = alpha v + (1 - alpha) g^2;  m = alpha m + (1 - alpha) g;
    d = g / (sqrt(v) + eps), or with `centered` of v - m^2;  u = momentum u + d;  p -= lr u.
    """

    slots = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        own = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, lr=lr, **own, centered=centered)

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        state = (self.state[slot][span] for slot in self.slots)
        _rmsprop(self.flat[span], self.flat_grad[span], *state, grad_scale=scale, **options)


@in_float32
def _rmsprop(
    parameter: Array,
    grad: Array,
    square_avg: Array,
    grad_avg: Array,
    momentum_buffer: Array,
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    centered: bool,
    grad_scale: float,
) -> None:
    xp, dtype = namespace(parameter), parameter.dtype.type
    g = grad * dtype(grad_scale)
    if weight_decay != 0:
        g += parameter * dtype(weight_decay)
    square_avg *= dtype(alpha)
    square_avg += g * g * dtype(1 - alpha)
    second = square_avg
    if centered:
        grad_avg += (g - grad_avg) * dtype(1 - alpha)
        second = xp.maximum(square_avg - grad_avg * grad_avg, 0)  # which rounding may make negative
    g /= xp.sqrt(second) + dtype(eps)
    if momentum > 0:
        momentum_buffer *= dtype(momentum)
        momentum_buffer += g
        g = momentum_buffer
    parameter -= g * dtype(lr)


def decay_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices with weight decay, vectors (biases, norms) without."""
    tensors = list(parameters)
    groups = [
        {"params": [each for each in tensors if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in tensors if each.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale the gradients in place to have together at most `max_norm`; return the norm before.

    Optimizers do the same in `step(max_norm=...)` without a pass of its own. Gradients whose norm
    is not finite are left as they are.

    Raises
    ------
    ValueError
        `max_norm` is not above 0.
    """
    check_max_norm("clip_grad_norm_", max_norm)
    grads = [each.grad for each in parameters if each.grad is not None]
    norm = math.hypot(
        *(
            float(g.backend.chosen().kernels[global_norm.forward](g.array.reshape(-1)))
            for g in grads
        )
    )
    scale = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and scale < 1:
        for g in grads:
            g.copy_(g * scale)
    return norm
