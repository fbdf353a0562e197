"""LayerNorm and RMSNorm in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty
from tinygrad_char.kernels.layernorm.reference import Gradients, Needs, Saved


def forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    if not fits(x, weight, bias):
        return NotImplemented
    y = empty(x.shape)
    mean, rstd = empty((*x.shape[:-1], 1)), empty((*x.shape[:-1], 1))
    compiled.layernorm_forward(x, weight, bias, y, mean, rstd, rstd.size, x.shape[-1], eps)
    return y, mean, rstd


def rms_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array]:
    if not fits(x, weight, bias):
        return NotImplemented
    y, rstd = empty(x.shape), empty((*x.shape[:-1], 1))
    compiled.layernorm_forward(x, weight, bias, y, None, rstd, rstd.size, x.shape[-1], eps)
    return y, rstd


def backward(grad: Array, saved: Saved, needs: Needs, addend: Array | None = None) -> Gradients:
    x, weight, mean, rstd = saved
    if not fits(grad, x, weight, addend):
        return NotImplemented
    channels = x.shape[-1]
    grad_x = empty(x.shape) if needs[0] else None
    grad_weight = empty((channels,)) if needs[1] else None
    grad_bias = empty((channels,)) if needs[2] else None
    compiled.layernorm_backward(
        *(grad, x, weight, mean, rstd, addend),
        *(grad_x, grad_weight, grad_bias, rstd.size, channels),
    )
    return grad_x, grad_weight, grad_bias


rms_backward = backward
