"""Softmax in C, for contiguous float32 arrays of the host: see reference.py."""

import numpy as np

from tinygrad_char.kernels import softmax
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import FLOAT32, fits_rows, matrix, with_room
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled


def forward(
    x: Array, mask: Array | None = None, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    # along another axis than the last the reference serves
    if not fits_rows(axis, x):
        return NotImplemented
    if mask is not None:
        x, scale = softmax.split_scale(x, scale)
        x = y = np.ascontiguousarray(np.where(mask, x, FLOAT32.type(-np.inf)))
    else:
        x, y = with_room(x)
    arguments = (x, y, *_matrices(x), causal, mask is not None, scale)
    compiled.softmax_forward(*arguments, threads_for(20 * x.size))
    return y


def backward(
    grad: Array, y: Array, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    # along another axis than the last the reference serves
    if not fits_rows(axis, y, grad):
        return NotImplemented
    grad, grad_x = with_room(grad)
    y = np.ascontiguousarray(y)
    threads = threads_for(6 * y.size)
    compiled.softmax_backward(grad, y, grad_x, *_matrices(y), causal, scale, threads)
    return grad_x


def _matrices(array: Array) -> tuple[int, int, int]:
    """Return how many rows an array has, and the rows and columns of each of its matrices."""
    count, columns = matrix(array)
    return count, array.shape[-2] if array.ndim > 1 else 1, columns
