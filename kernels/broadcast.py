"""The backward of broadcasting, which every operation with broadcast operands shares."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.reduce import total


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` over the axes along which an array of `shape` was broadcast to grad's shape."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + axis
        for axis, length in enumerate(shape)
        if length == 1 and grad.shape[extra + axis] != 1
    )
    return total(grad, axes).reshape(shape) if axes else grad.reshape(shape)
