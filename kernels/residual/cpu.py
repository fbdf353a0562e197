"""Residual in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import column_sums, fits, matrix
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty
from tinygrad_char.kernels.dropout import MaskSource
from tinygrad_char.kernels.dropout.cpu import mask_arguments


def forward(
    z: Array, bias: Array | None, x: Array | None, p: float = 0.0, key: MaskSource | None = None
) -> Array:
    # masks that are not counter-based are the reference's
    mask = mask_arguments(p, key)
    if mask is None or not fits(z, bias, x):
        return NotImplemented
    compiled.residual_forward(z, bias, x, *matrix(z), *mask)
    return z


def backward(
    grad: Array, p: float, key: MaskSource | None, need_bias: bool
) -> tuple[Array, Array | None]:
    # masks that are not counter-based are the reference's
    mask = mask_arguments(p, key)
    if mask is None or not fits(grad):
        return NotImplemented
    if p == 0:
        return grad, column_sums(grad) if need_bias else None
    grad_z = empty(grad.shape)
    grad_bias = empty(grad.shape[-1:]) if need_bias else None
    compiled.residual_backward(grad, grad_z, grad_bias, *matrix(grad), *mask)
    return grad_z, grad_bias
