"""GELU in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.bias_activation import ACTIVATIONS, APPROXIMATE
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty

KINDS = {
    approximate: ACTIVATIONS.index(activation) for activation, approximate in APPROXIMATE.items()
}


def forward(x: Array, approximate: str = "none") -> Array:
    if not fits(x):
        return NotImplemented
    y = empty(x.shape)
    compiled.bias_activation_forward(x, None, y, 1, x.size, KINDS[approximate])
    return y


def backward(grad: Array, x: Array, approximate: str = "none") -> Array:
    if not fits(grad, x):
        return NotImplemented
    dx = empty(x.shape)
    compiled.bias_activation_backward(grad, x, None, dx, None, 1, x.size, KINDS[approximate])
    return dx
