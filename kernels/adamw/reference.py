"""One step of Adam or AdamW on a flat buffer.

Adam: Kingma and Ba 2015, arXiv:1412.6980. AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict, Unpack

import numpy as np

from tinygrad_char.kernels.array import Array, in_float32, namespace

FACTORS = 5
"""Numbers that a step depends on, see `count_step`: those of `enum Factor` in adamw.cu."""
CHUNK = 1 << 15
"""Elements worked on at once, so that the passes over them stay in the processor's cache."""


class Rule(TypedDict):
    """What is the same in each step: of Adam, or with `decoupled` of AdamW."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool


class Options(Rule):
    """What `update` takes by name: besides a rule the step, counted from 1, and its rate."""

    step: int
    lr: float
    grad_scale: NotRequired[float]


@in_float32
def update(
    parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, **options: Unpack[Options]
) -> None:
    """Update parameter, exp_avg (m) and exp_avg_sq (v), flat arrays of one dtype, in place.

    g = grad_scale * grad (+ weight_decay * p for Adam),  p *= 1 - lr * weight_decay (AdamW),
    m += (g - m)(1 - beta1),  v = beta2 v + (1 - beta2) g^2,
    p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps).

    Scalars are computed in double precision and rounded once; the order of the operations is
    PyTorch's, so that only its fused multiply-adds make a difference in the last place.
    """
    factors = options.get("grad_scale", 1.0), *_factors(options["step"], options["lr"], options)
    _update(parameter, grad, exp_avg, exp_avg_sq, factors, options)


def update_recorded(
    parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, factors: Array, rule: Rule
) -> None:
    """Update as `update` does, with what changes from step to step read from `factors`."""
    *found, active = factors.tolist()
    if active:
        _update(parameter, grad, exp_avg, exp_avg_sq, found, rule)


def count_step(
    step: Array, lr: Array, norm: Array | None, factors: Array, max_norm: float, rule: Rule
) -> None:
    """Count one step and compute its factors where they are, for `update_recorded`.

    step (1,) int64 holds the number of steps done, lr (1,) float64 the learning rate, factors
    (FACTORS,) float32 the result: grad_scale, 1 - lr * weight_decay, sqrt(1 - beta2^step),
    lr / (1 - beta1^step), and whether to update. With `norm`, that of all gradients, they are
    scaled to have at most `max_norm`; where it is not finite the step is not counted and updates
    nothing.
    """
    scale = 1.0
    if norm is not None:
        if not float(norm) < math.inf:
            factors[-1:] = 0
            return
        scale = min(1.0, max_norm / (float(norm) + 1e-6))
    step += 1
    found = [scale, *_factors(int(step[0]), float(lr[0]), rule), 1.0]
    factors[:] = namespace(factors).asarray(found, factors.dtype)


def fused_arguments(options: Options) -> tuple[float, ...]:
    """Return the numbers of a step in the order in which the fused kernels take them."""
    beta1, beta2 = options["betas"]
    decay, correction, step_size = _factors(options["step"], options["lr"], options)
    return (
        *(options.get("grad_scale", 1.0), decay, addition(options)),
        *(1 - beta1, beta2, 1 - beta2),
        *(correction, options["eps"], step_size),
    )


def addition(rule: Rule) -> float:
    """Return the parameters' share that is added to the gradient: 0 where decay is decoupled."""
    return 0.0 if rule["decoupled"] else rule["weight_decay"]


def _factors(step: int, lr: float, rule: Rule) -> tuple[float, float, float]:
    """Return 1 - lr * weight_decay, sqrt(1 - beta2^step), lr / (1 - beta1^step)."""
    beta1, beta2 = rule["betas"]
    decay = 1 - lr * rule["weight_decay"] if rule["decoupled"] else 1.0
    return decay, math.sqrt(1 - beta2**step), lr / (1 - beta1**step)


def _update(
    parameter: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    factors: Sequence[float],
    rule: Rule,
) -> None:
    beta1, beta2 = rule["betas"]
    added = addition(rule)
    dtype = parameter.dtype.type
    scale, decay, correction, step_size = map(dtype, factors)
    xp = namespace(parameter)
    chunk = CHUNK if xp is np else parameter.size
    for start in range(0, parameter.size, chunk):
        part = slice(start, start + chunk)
        p, g, m, v = parameter[part], grad[part], exp_avg[part], exp_avg_sq[part]
        if scale != 1:
            g = g * scale
        if decay != 1:
            p *= decay
        if added != 0:
            g = g + p * dtype(added)
        work = g - m
        work *= dtype(1 - beta1)
        m += work
        xp.multiply(g, dtype(1 - beta2), out=work)
        work *= g
        v *= dtype(beta2)
        v += work
        xp.sqrt(v, out=work)
        work /= correction
        work += dtype(rule["eps"])
        p -= m * step_size / work
