"""Normalisation by the root of the mean square (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from typing import Any

import numpy as np

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.reduce import mean, total


class RmsNorm(Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis: x (..., C), weight (C,) or None.

    The mean is taken in float64: no x of float32 is too large for its square.
    """

    upcasts = True

    def forward(self, x: Array, weight: Array | None, *, eps: float) -> Array:
        """Return y; ValueError that names the shapes where they do not fit."""
        if x.ndim == 0 or x.shape[-1] == 0:
            raise ValueError(f"rms_norm: x {x.shape}; expected a last axis to normalise over")
        if weight is not None and weight.shape != x.shape[-1:]:
            raise ValueError(
                f"rms_norm: weight {weight.shape} for x {x.shape}; expected {x.shape[-1:]}"
            )
        wide = _wide(x)
        square = self.backend.xp.square(wide, dtype=np.float64).mean(axis=-1, keepdims=True)
        rstd = (1 / self.backend.xp.sqrt(square + eps)).astype(wide.dtype)
        self.saved = (x, weight, rstd)
        y = wide * rstd
        if weight is not None:
            y *= _wide(weight)
        return y.astype(x.dtype, copy=False)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        """Return dx = rstd (g - n mean(g n)) with n = x rstd and g = dy weight; sum(dy n)."""
        x, weight, rstd = self.saved
        need_x, need_weight = self.needs
        normalized = _wide(x) * rstd
        grad = _wide(grad)
        grad_x: Any = None
        grad_weight: Any = None
        if need_weight:
            products = (grad * normalized).reshape(-1, x.shape[-1])
            grad_weight = total(products, (0,)).astype(weight.dtype, copy=False)
        if need_x:
            grad_x = grad if weight is None else grad * _wide(weight)
            projection = mean(grad_x * normalized, (x.ndim - 1,), True)
            grad_x = (grad_x - normalized * projection) * rstd
            grad_x = grad_x.astype(x.dtype, copy=False)
        return grad_x, grad_weight


def _wide(x: Array) -> Array:
    """Return x, in float32 where a device has it in sixteen bits."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x
