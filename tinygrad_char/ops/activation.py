"""Activations of one input, elementwise."""

from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array


def sigmoid(xp: Any, x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), from exp(-|x|), which cannot overflow."""
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, x.dtype.type(1), small) / (1 + small)


def softplus(xp: Any, x: Array) -> Array:
    """Return log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), which cannot overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-abs(x)))


class Elementwise(Function):
    """Shared by the activations: result(x), slope(x), and where the slope is a shut gate."""

    upcasts = True

    def forward(self, x: Array, **options: Any) -> Array:
        self.saved = (x,)
        self.options = options
        return self.result(self.backend.xp, x, **options)

    def backward(self, grad: Array) -> Array:
        """Return dy times the slope, 0 where that is 0 whatever dy is."""
        xp = self.backend.xp
        slope = self.slope(xp, self.saved[0], **self.options)
        return xp.where(slope == 0, slope, grad * slope)

    def result(self, xp: Any, x: Array, **options: Any) -> Array:
        """Return y, of the shape of x."""
        raise NotImplementedError

    def slope(self, xp: Any, x: Array, **options: Any) -> Array:
        """Return dy/dx."""
        raise NotImplementedError


class Silu(Elementwise):
    """x s of s = sigmoid(x), 0 at -infinity (Elfwing, Uchibe and Doya 2017, arXiv:1702.03118).

    The slope is s (1 + x (1 - s)): 1 and 0 where 1 - s or s is 0.
    """

    def result(self, xp: Any, x: Array) -> Array:  # type: ignore[override]
        s = sigmoid(xp, x)
        return xp.where(s == 0, s, x * s)

    def slope(self, xp: Any, x: Array) -> Array:  # type: ignore[override]
        s, rest = sigmoid(xp, x), sigmoid(xp, -x)
        return s * (1 + xp.where((rest == 0) | (s == 0), rest.dtype.type(0), x * rest))


class LeakyRelu(Elementwise):
    """x above 0, else negative_slope x (Maas, Hannun and Ng 2013)."""

    def result(self, xp: Any, x: Array, *, negative_slope: float) -> Array:  # type: ignore[override]
        if negative_slope == 0:  # a gate: -infinity gives 0
            return xp.maximum(x, 0)
        return xp.where(x > 0, x, x * negative_slope)

    def slope(self, xp: Any, x: Array, *, negative_slope: float) -> Array:  # type: ignore[override]
        return xp.where(x > 0, x.dtype.type(1), x.dtype.type(negative_slope))


class Elu(Elementwise):
    """x above 0, else alpha (exp(x) - 1) (Clevert, Unterthiner and Hochreiter 2015).

    From expm1, which keeps the digits of small x.
    """

    def result(self, xp: Any, x: Array, *, alpha: float) -> Array:  # type: ignore[override]
        return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))

    def slope(self, xp: Any, x: Array, *, alpha: float) -> Array:  # type: ignore[override]
        return xp.where(x > 0, x.dtype.type(1), alpha * xp.exp(xp.minimum(x, 0)))


class Softplus(Elementwise):
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold."""

    def result(  # type: ignore[override]
        self, xp: Any, x: Array, *, beta: float, threshold: float
    ) -> Array:
        scaled = x * beta
        return xp.where(scaled > threshold, x, softplus(xp, scaled) / beta)

    def slope(  # type: ignore[override]
        self, xp: Any, x: Array, *, beta: float, threshold: float
    ) -> Array:
        scaled = x * beta
        return xp.where(scaled > threshold, x.dtype.type(1), sigmoid(xp, scaled))
