"""Bias activation in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.bias_activation.reference import ACTIVATIONS, Kept
from tinygrad_char.kernels.cpu.arguments import fits, matrix
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty


def forward(z: Array, bias: Array | None, activation: str) -> tuple[Array, Kept]:
    if not fits(z, bias):
        return NotImplemented
    kind = ACTIVATIONS.index(activation)
    y = z if activation == "relu" else empty(z.shape)
    compiled.bias_activation_forward(z, bias, y, *matrix(z), kind)
    return y, (y, None) if activation == "relu" else (z, bias)


def backward(
    grad: Array, kept: Kept, activation: str, need_bias: bool
) -> tuple[Array, Array | None]:
    if not fits(grad, *kept):
        return NotImplemented
    kind = ACTIVATIONS.index(activation)
    grad_z = empty(grad.shape)
    grad_bias = empty(grad.shape[-1:]) if need_bias else None
    compiled.bias_activation_backward(grad, *kept, grad_z, grad_bias, *matrix(grad), kind)
    return grad_z, grad_bias
