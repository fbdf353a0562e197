"""Exponentials and logarithms besides e's own, which are in elementwise.py."""

import math
from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.ops.elementwise import Binary


class Exp2(Function):
    """Powers of two."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        """Return 2^x."""
        y = self.backend.xp.exp2(x)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Array:
        """Return dy y log(2)."""
        return grad * (self.saved[0] * math.log(2))


class Expm1(Function):
    """The exponential function less 1, exact for small x."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        """Return exp(x) - 1."""
        y = self.backend.xp.expm1(x)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Array:
        """Return dy (y + 1)."""
        return grad * (self.saved[0] + 1)


class Log1p(Function):
    """The logarithm of 1 + x, exact for small x."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        """Return log(1 + x)."""
        self.saved = (x,)
        return self.backend.xp.log1p(x)

    def backward(self, grad: Array) -> Array:
        """Return dy / (1 + x)."""
        return grad / (self.saved[0] + 1)


class _Logarithm(Function):
    upcasts = True
    base: int

    def forward(self, x: Array) -> Array:
        """Return the logarithm of x."""
        self.saved = (x,)
        return getattr(self.backend.xp, f"log{self.base}")(x)

    def backward(self, grad: Array) -> Array:
        """Return dy / (x log(base))."""
        return grad / (self.saved[0] * math.log(self.base))


class Log2(_Logarithm):
    """The logarithm to base 2."""

    base = 2


class Log10(_Logarithm):
    """The logarithm to base 10."""

    base = 10


class Logaddexp(Binary):
    """log(exp(a) + exp(b)), without overflow."""

    def result(self, a: Any, b: Any) -> Array:
        """Return max(a, b) + log(1 + exp(-|a - b|))."""
        return self.backend.xp.logaddexp(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        """Return dy exp(a) / (exp(a) + exp(b)) and the same for b; half where both are -inf."""
        xp = self.backend.xp
        difference = xp.where(a == b, grad.dtype.type(0), xp.subtract(a, b, dtype=grad.dtype))
        small = xp.exp(-abs(difference))  # exp(smaller - larger)
        larger, smaller = 1 / (1 + small), small / (1 + small)
        of_a = xp.where(difference >= 0, larger, smaller)
        of_b = xp.where(difference >= 0, smaller, larger)
        return grad * of_a if self.needs[0] else None, grad * of_b if self.needs[1] else None
