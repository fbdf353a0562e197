"""Log softmax in C, for contiguous float32 arrays of the host: see reference.py."""

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits_rows, matrix, with_room
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled


def forward(x: Array, axis: int = -1) -> Array:
    # along another axis than the last the reference serves
    if not fits_rows(axis, x):
        return NotImplemented
    x, y = with_room(x)
    compiled.log_softmax_forward(x, y, *matrix(x), threads_for(20 * x.size))
    return y


def backward(grad: Array, y: Array, axis: int = -1) -> Array:
    # along another axis than the last the reference serves
    if not fits_rows(axis, y, grad):
        return NotImplemented
    grad, grad_x = with_room(grad)
    y = np.ascontiguousarray(y)
    compiled.log_softmax_backward(grad, y, grad_x, *matrix(y), threads_for(20 * y.size))
    return grad_x
