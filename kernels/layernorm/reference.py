"""LayerNorm over the last axis (Ba, Kiros and Hinton 2016, arXiv:1607.06450), and RMSNorm.

RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) is LayerNorm that takes the mean to be 0.
"""

from typing import NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.reduce import mean as mean_over
from tinygrad_char.kernels.reduce import moments, total

FAR = 4
"""Standard deviations from which on a mean's own rounding could be seen in the gradients."""

Needs = tuple[bool, bool, bool]
Gradients = tuple[Array | None, Array | None, Array | None]
"""Those of x, weight and bias."""


class Saved(NamedTuple):
    """What backward needs of forward."""

    x: Array
    weight: Array | None
    mean: Array | None
    """None of rms_forward."""
    rstd: Array


def forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """Return y = (x - mean) * rstd * weight + bias, with mean and rstd, which backward needs.

    x and y are (..., C), weight and bias (C,) or None, mean and rstd (..., 1).
    rstd = 1 / sqrt(mean((x - mean)^2) + eps): the two-pass variance, which stays right where
    E[x^2] - E[x]^2 cancels.
    """
    xp = namespace(x)
    mean, y, squares = moments(x, (x.ndim - 1,))
    rstd = 1 / xp.sqrt(squares / x.shape[-1] + eps)
    y *= rstd
    return _scaled(y, weight, bias), mean, rstd


def rms_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array]:
    """Return y = x * rstd * weight + bias, with rstd = 1 / sqrt(mean(x^2) + eps).

    Shapes are those of `forward`. Squares are added up in float64, so that of no float32 they are
    too large or too small.
    """
    xp = namespace(x)
    square = xp.square(x, dtype=np.float64).mean(axis=-1, keepdims=True)
    rstd = (1 / xp.sqrt(square + eps)).astype(x.dtype)
    return _scaled(x * rstd, weight, bias), rstd


def _scaled(y: Array, weight: Array | None, bias: Array | None) -> Array:
    if weight is not None:
        y *= weight
    if bias is not None:
        y += bias
    return y


def backward(grad: Array, saved: Saved, needs: Needs, addend: Array | None = None) -> Gradients:
    """Return the gradients of x, weight and bias, each None where `needs` says so.

    With n = (x - mean) * rstd and g = dy * weight:
    dx = rstd * (g - mean(g) - n * mean(g * n)),  dweight = sum(dy * n),  dbias = sum(dy).
    Of a row far from zero the mean is kept but to the row's own size: the mean of x - mean is what
    that has lost, and is subtracted too, as in forward.
    An addend of x's shape and dtype, which is left as it is, is added to dx.
    """
    x, weight, mean, rstd = saved
    need_x, need_weight, need_bias = needs
    channels = x.shape[-1]
    xp = namespace(x)
    last = (x.ndim - 1,)
    if mean is None:
        normalized = x * rstd
    else:
        normalized = x - mean
        far = abs(mean) * rstd > FAR
        if xp is not np or far.any():  # on a device nobody asks: the answer would be waited for
            rest = mean_over(normalized, last, True)
            normalized -= xp.where(far, rest, rest.dtype.type(0))
        normalized *= rstd
    grad_x = grad_weight = grad_bias = None
    if need_weight:
        grad_weight = total((grad * normalized).reshape(-1, channels), (0,))
    if need_bias:
        grad_bias = total(grad.reshape(-1, channels), (0,))
    if need_x:
        grad_x = grad * weight if weight is not None else grad.copy()
        projection = mean_over(grad_x * normalized, last, True)
        if mean is not None:
            grad_x -= mean_over(grad_x, last, True)
        normalized *= projection
        grad_x -= normalized
        grad_x *= rstd
        if addend is not None:
            grad_x += addend
    return grad_x, grad_weight, grad_bias


def rms_backward(grad: Array, saved: Saved, needs: Needs, addend: Array | None = None) -> Gradients:
    """Return the gradients of x, weight and bias as `backward` does, where mean is None.

    With n = x * rstd and g = dy * weight: dx = rstd * (g - n * mean(g * n)).
    """
    return backward(grad, saved, needs, addend)
