"""The square in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty


def forward(x: Array) -> Array:
    if not fits(x):
        return NotImplemented
    y = empty(x.shape)
    compiled.toy_forward(x, y, x.size)
    return y


def backward(grad: Array, x: Array) -> Array:
    if not fits(grad, x):
        return NotImplemented
    dx = empty(x.shape)
    compiled.toy_backward(grad, x, dx, x.size)
    return dx
