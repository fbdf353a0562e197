"""Logarithm of the softmax along one axis."""

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.reduce import total


def forward(x: Array, axis: int = -1) -> Array:
    """Return y = (x - max) - log(sum(exp(x - max))) along `axis`; backward needs y."""
    if x.shape[axis] == 0:
        return x.copy()
    xp = namespace(x)
    y = x - x.max(axis=axis, keepdims=True)
    y -= xp.log(total(xp.exp(y), (axis % x.ndim,), True))
    return y


def backward(grad: Array, y: Array, axis: int = -1) -> Array:
    """Return dx = dy - exp(y) * sum(dy) along `axis`."""
    return grad - namespace(y).exp(y) * total(grad, (axis % y.ndim,), True)
