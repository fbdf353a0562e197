"""Rectified linear unit."""

from kernels.array import Array, namespace


def forward(x: Array) -> Array:
    """Return y = max(x, 0), NaN where x is NaN; backward needs y."""
    return namespace(x).maximum(x, x.dtype.type(0))


def backward(grad: Array, y: Array) -> Array:
    """Return dx = dy where y > 0, else 0."""
    return grad * (y > 0)
