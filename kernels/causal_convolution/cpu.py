"""Causal convolution in C, for contiguous float32 arrays of the host: see reference.py."""

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels.causal_convolution.reference import Convolve
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty

MOST_TAPS = 16


def forward(x: Array, weight: Array) -> Array:
    if not fits(x, weight) or len(weight) > MOST_TAPS:
        return NotImplemented
    y = empty(x.shape)
    compiled.causal_convolution_forward(x, weight, y, *x.shape, len(weight))
    return y


def backward(
    grad: Array, x: Array, weight: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    if not fits(grad, x, weight) or len(weight) > MOST_TAPS:
        return NotImplemented
    grad_x = empty(x.shape) if needs[0] else None
    grad_weight = empty(weight.shape) if needs[1] else None
    compiled.causal_convolution_backward(
        grad, x, weight, grad_x, grad_weight, *x.shape, len(weight)
    )
    return grad_x, grad_weight


def cached(
    x: Array, weight: Array, history: Array, filled: np.ndarray, convolve: Convolve
) -> Array:
    # where `convolve` is the function above: else another version was asked for
    if not fits(x, weight, history) or asked_first(convolve) is not forward:
        return NotImplemented
    if len(weight) > MOST_TAPS:
        return NotImplemented
    y = empty(x.shape)
    compiled.causal_convolution_cached(x, weight, history, filled, y, *x.shape, len(weight))
    return y
