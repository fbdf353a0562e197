"""Exponentials and logarithms besides e's own, which are in elementwise.py."""

import math
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.ops.elementwise import Binary, OfInput, OfResult


class Exp2(OfResult):
    """y = 2^x: dx = dy y log(2)."""

    def backward(self, grad: Array) -> Array:
        return grad * (self.saved[0] * math.log(2))


class Expm1(OfResult):
    """y = exp(x) - 1, exact for small x: dx = dy (y + 1)."""

    def backward(self, grad: Array) -> Array:
        return grad * (self.saved[0] + 1)


class Log1p(OfInput):
    """log(1 + x), exact for small x: dx = dy / (1 + x)."""

    def backward(self, grad: Array) -> Array:
        return grad / (self.saved[0] + 1)


class Log2(OfInput):
    """The logarithm to base 2: dx = dy / (x log(2))."""

    def backward(self, grad: Array) -> Array:
        return grad / (self.saved[0] * math.log(2))


class Log10(OfInput):
    """The logarithm to base 10: dx = dy / (x log(10))."""

    def backward(self, grad: Array) -> Array:
        return grad / (self.saved[0] * math.log(10))


class Logaddexp(Binary):
    """log(exp(a) + exp(b)), without overflow: da = dy exp(a) / (exp(a) + exp(b)), db likewise.

    Where both are -infinity, each gets half.
    """

    def result(self, a: Any, b: Any) -> Array:
        return self.backend.xp.logaddexp(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        xp = self.backend.xp
        difference = xp.where(a == b, grad.dtype.type(0), xp.subtract(a, b, dtype=grad.dtype))
        small = xp.exp(-abs(difference))  # exp(smaller - larger)
        larger, smaller = 1 / (1 + small), small / (1 + small)
        of_a = xp.where(difference >= 0, larger, smaller)
        of_b = xp.where(difference >= 0, smaller, larger)
        return grad * of_a if self.needs[0] else None, grad * of_b if self.needs[1] else None
