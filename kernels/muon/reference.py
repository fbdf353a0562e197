"""One step of Muon on matrices of one shape, which lie in a flat buffer.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982;
its coefficients as in Polar Express, Amsel et al. 2025, arXiv:2505.16932: see coefficients.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tinygrad_char.kernels.array import Array, in_float32, namespace

Step = tuple[float, float, float]

COEFFICIENTS: dict[int, tuple[Step, ...]] = {
    2: ((6.7524, -18.351, 13.2633), (2.5379, -1.8747, 0.4413)),
    3: (
        (7.711, -22.1138, 16.2487),
        (3.2153, -2.4112, 0.5013),
        (2.2183, -1.594, 0.4107),
    ),
    4: (
        (8.0934, -23.6204, 17.4462),
        (3.6366, -2.7219, 0.5365),
        (2.6613, -1.9772, 0.4526),
        (1.9562, -1.3375, 0.3839),
    ),
    5: (
        (8.2987, -24.4305, 18.0903),
        (3.9152, -2.9211, 0.5592),
        (3.1746, -2.3804, 0.4978),
        (2.1895, -1.5672, 0.4079),
        (1.8823, -1.2581, 0.3758),
    ),
}
"""a, b and c of each step, by the number of steps: those that coefficients.py derives."""


class Matrices(NamedTuple):
    """Where matrices of one shape (R, C) lie in flat buffers: each from one of `starts` (N,) on."""

    starts: Array
    shape: tuple[int, int]


class Rule(NamedTuple):
    """What is the same in each step."""

    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 3


class Rates(NamedTuple):
    """What changes from step to step."""

    lr: float
    weight_decay: float = 0.0
    grad_scale: float = 1.0


def orthogonalize(x: Array, ns_steps: int) -> Array:
    """Return x (N, R, C), matrix by matrix, with all singular values brought near to 1.

    x = U S V^T becomes U p(S / |x|) V^T, where |x| is the Frobenius norm, so that no singular
    value is above 1, and p the composition of `ns_steps` quintics a s + b s^3 + c s^5
    (`COEFFICIENTS`). The values s / |x| from 0.02 on end within 0.094 of 1 after three steps.

    A step multiplies x by q(G) = a I + b G + c G^2, where G = x^T x, or x x^T of a matrix with
    fewer rows. So only G and the product of all q(G) are computed from step to step, which are
    square matrices of the smaller size: G becomes q(G) G q(G). x itself is multiplied once.

    A matrix of zeros stays so.
    """
    xp = namespace(x)
    rows, columns = x.shape[1:]
    if not x.size:
        return x.copy()
    peak = abs(x).max(axis=(1, 2), keepdims=True)
    x = x / xp.where(peak == 0, xp.ones_like(peak), peak)  # whose squares all dtypes can hold
    norm = xp.sqrt((x * x).sum(axis=(1, 2), keepdims=True))
    x /= xp.maximum(norm, xp.ones_like(norm))
    turned = x.swapaxes(1, 2)
    gram = turned @ x if rows >= columns else x @ turned
    total = None
    for number, step in enumerate(COEFFICIENTS[ns_steps], start=1):
        factor = _polynomial(gram, gram @ gram, step)
        if number < ns_steps:
            gram = gram @ factor @ factor
        total = factor if total is None else total @ factor
    return x @ total if rows >= columns else total @ x


@in_float32
def update(
    parameter: Array, grad: Array, exp_avg: Array, matrices: Matrices, rule: Rule, rates: Rates
) -> None:
    """Update matrices W of flat buffers, and their exp_avg (m), in place.

    g = grad_scale * grad,  m += (g - m)(1 - momentum),
    u = momentum m + (1 - momentum) g by Nesterov's rule, else m,
    W *= 1 - lr * weight_decay,  W -= lr sqrt(max(1, R / C)) orthogonalize(u).
    """
    factors = rates.grad_scale, 1 - rates.lr * rates.weight_decay, rates.lr
    _update(parameter, grad, exp_avg, matrices, rule, factors)


def update_recorded(
    parameter: Array, grad: Array, exp_avg: Array, matrices: Matrices, rule: Rule, factors: Array
) -> None:
    """Update as `update` does, with what changes from step to step read from `factors`.

    They are those of `adamw.count_step`, with betas of 0: with nothing to correct, its step size
    is the learning rate.
    """
    scale, decay, _, lr, active = factors.tolist()
    if active:
        _update(parameter, grad, exp_avg, matrices, rule, (scale, decay, lr))


def stretch(shape: tuple[int, int]) -> float:
    """Return sqrt(max(1, R / C)), by which the update of a matrix with more rows is larger."""
    return math.sqrt(max(1.0, shape[0] / shape[1])) if shape[1] else 1.0


def _polynomial(gram: Array, square: Array, step: Step) -> Array:
    """Return a I + b G + c G^2, in place of the square."""
    a, b, c = map(gram.dtype.type, step)
    square *= c
    square += gram * b
    square += a * namespace(gram).eye(gram.shape[-1], dtype=gram.dtype)
    return square


def _update(
    parameter: Array,
    grad: Array,
    exp_avg: Array,
    matrices: Matrices,
    rule: Rule,
    factors: Sequence[float],
) -> None:
    dtype, shape = parameter.dtype.type, matrices.shape
    scale, decay, lr = map(dtype, factors)
    kept, new = dtype(rule.momentum), dtype(1 - rule.momentum)
    size = shape[0] * shape[1]
    parts = [slice(start, start + size) for start in matrices.starts.tolist()]
    x = namespace(parameter).empty((len(parts), *shape), parameter.dtype)
    for part, of_part in zip(parts, x, strict=True):
        g, m = grad[part] * scale, exp_avg[part]
        m += (g - m) * new
        of_part[...] = (m * kept + g * new if rule.nesterov else m).reshape(shape)
    x = orthogonalize(x, rule.ns_steps)
    for part, of_part in zip(parts, x, strict=True):
        p = parameter[part]
        p *= decay
        p -= of_part.reshape(-1) * (lr * dtype(stretch(shape)))
