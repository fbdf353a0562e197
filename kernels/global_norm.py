"""The Euclidean norm of a flat buffer of gradients, by which they are clipped.

Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
"""

import math

from kernels.array import Array, namespace

CHUNK = 1 << 16
"""Squares that are added up by themselves, before the sums are added in double precision."""


def forward(grad: Array) -> Array:
    """Return sqrt(sum(grad^2)) as an array of shape (), float64, on the device of `grad`."""
    parts = (grad[start : start + CHUNK] for start in range(0, grad.size, CHUNK))
    # no product: a BLAS would spread it, and its threads then keep a core busy for a while
    return namespace(grad).asarray(math.sqrt(sum(float((part * part).sum()) for part in parts)))
