"""Muon in C, for contiguous float32 arrays of the host: see reference.py."""

from types import NotImplementedType

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.muon.reference import COEFFICIENTS, Matrices, Rates, Rule, stretch

_TABLES = {steps: np.array(table) for steps, table in COEFFICIENTS.items()}


def orthogonalize(x: Array, ns_steps: int) -> Array:
    if not fits(x):
        return NotImplemented
    result, (count, rows, columns) = np.empty_like(x), x.shape
    threads = _threads(count, rows, columns, ns_steps)
    compiled.muon_orthogonalize(
        *(x, result, _TABLES[ns_steps], count, rows, columns, ns_steps, threads)
    )
    return result


def update(
    parameter: Array, grad: Array, exp_avg: Array, matrices: Matrices, rule: Rule, rates: Rates
) -> NotImplementedType | None:
    if not fits(parameter, grad, exp_avg):
        return NotImplemented
    (starts, shape), (momentum, nesterov, steps) = matrices, rule
    compiled.muon_update(
        *(parameter, grad, exp_avg, starts, _TABLES[steps], parameter.size, len(starts)),
        *(*shape, steps, rates.grad_scale, momentum, nesterov),
        *(1 - rates.lr * rates.weight_decay, rates.lr, stretch(shape)),
        _threads(len(starts), *shape, steps),
    )
    return None


def _threads(count: int, rows: int, columns: int, steps: int) -> int:
    """Return on how many threads so many matrices are worth it."""
    size = min(rows, columns)
    operations = size * size * (3 * max(rows, columns) + (4 * steps - 3) * size)
    # a tenth, since a product does ten times as many operations in a time as other kernels
    return threads_for(count * operations / 10)
