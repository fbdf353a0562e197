"""The Euclidean norm of a flat buffer of gradients, by which they are clipped.

Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
"""

import math
from collections.abc import Iterator

import numpy as np

from tinygrad_char.kernels.array import Array, namespace, widened

CHUNK = 1 << 16
"""Squares that are added up by themselves, before the sums are added in double precision."""

SAFE32, SAFE64 = (1e-16, 1e30), (1e-280, 1e300)
"""Sums of squares that have lost nothing to the ends of the range of float32, and of float64."""


def forward(grad: Array) -> Array:
    """Return sqrt(sum(grad^2)) as an array of shape (), float64, on the device of `grad`.

    Squares that leave the range of the gradients' dtype are no harm: the norm is finite wherever
    the gradients are and it is in float64's range.
    """
    # no product: a BLAS would run it on threads, which then keep a core busy for a while
    total = sum(_sum_of_squares(part) for part in _chunks(grad))
    if not SAFE64[0] < total < SAFE64[1]:
        peak = float(abs(grad).max()) if grad.size else 0.0
        if 0 < peak < math.inf:
            total = sum(_sum_of_squares(part / peak) for part in _chunks(grad))
            return namespace(grad).asarray(peak * math.sqrt(total))
    return namespace(grad).asarray(math.sqrt(total))


def _chunks(grad: Array) -> Iterator[Array]:
    return (grad[start : start + CHUNK] for start in range(0, grad.size, CHUNK))


def _sum_of_squares(part: Array) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        part = widened(part)
        total = float((part * part).sum())
        if part.dtype.itemsize < 8 and not SAFE32[0] < total < SAFE32[1]:
            part = part.astype(np.float64)
            total = float((part * part).sum())
    return total
