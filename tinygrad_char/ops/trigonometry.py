"""Circular and hyperbolic functions and their inverses; angles are in radians."""

from typing import Any

from tinygrad_char.kernels.array import Array, select
from tinygrad_char.ops.elementwise import Binary, OfInput, OfResult


class Sin(OfInput):
    """sin(x): dx = dy cos(x)."""

    def backward(self, grad: Array) -> Array:
        return grad * self.backend.xp.cos(self.saved[0])


class Cos(OfInput):
    """cos(x): dx = -dy sin(x)."""

    def backward(self, grad: Array) -> Array:
        return -grad * self.backend.xp.sin(self.saved[0])


class Tan(OfResult):
    """y = tan(x): dx = dy (1 + y^2)."""

    def backward(self, grad: Array) -> Array:
        y = self.saved[0]
        return grad * (1 + y * y)


class Arcsin(OfInput):
    """The angle from -pi/2 to pi/2 whose sine is x, else NaN: dx = dy / sqrt(1 - x^2)."""

    def backward(self, grad: Array) -> Array:
        return grad / _leg(self.backend.xp, self.saved[0])


class Arccos(OfInput):
    """The angle from 0 to pi whose cosine is x, else NaN: dx = -dy / sqrt(1 - x^2)."""

    def backward(self, grad: Array) -> Array:
        return -grad / _leg(self.backend.xp, self.saved[0])


def _leg(xp: Any, x: Array) -> Array:
    """Return sqrt(1 - x^2), from factors that lose no digits near 1."""
    return xp.sqrt((1 - x) * (1 + x))


class Arctan(OfInput):
    """The angle between -pi/2 and pi/2 whose tangent is x: dx = dy / (1 + x^2)."""

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        return grad / (1 + x * x)


class Arctan2(Binary):
    """The angle from -pi to pi of the point (b, a).

    da = dy b / (a^2 + b^2), db = -dy a / (a^2 + b^2); 0 at the origin.
    """

    def result(self, a: Any, b: Any) -> Array:
        return self.backend.xp.arctan2(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        xp = self.backend.xp
        radius = xp.hypot(a, b)  # squares of large or small elements would be lost
        away = radius != 0
        radius = xp.where(away, radius, grad.dtype.type(1))
        # One after the other: dy / radius may be infinite, which times 0 would be NaN.
        return (
            select(away, grad * (b / radius) / radius) if self.needs[0] else None,
            select(away, -grad * (a / radius) / radius) if self.needs[1] else None,
        )


class Sinh(OfInput):
    """sinh(x): dx = dy cosh(x)."""

    def backward(self, grad: Array) -> Array:
        return grad * self.backend.xp.cosh(self.saved[0])


class Cosh(OfInput):
    """cosh(x): dx = dy sinh(x)."""

    def backward(self, grad: Array) -> Array:
        return grad * self.backend.xp.sinh(self.saved[0])


class Arcsinh(OfInput):
    """The number whose hyperbolic sine is x: dx = dy / sqrt(x^2 + 1)."""

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        return grad / self.backend.xp.hypot(x, x.dtype.type(1))


class Arccosh(OfInput):
    """The number of at least 0 whose hyperbolic cosine is x, else NaN: dx = dy / sqrt(x^2 - 1)."""

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        sqrt = self.backend.xp.sqrt
        return grad / (sqrt(x - 1) * sqrt(x + 1))


class Arctanh(OfInput):
    """The number whose hyperbolic tangent is x, else NaN: dx = dy / (1 - x^2)."""

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        return grad / ((1 - x) * (1 + x))
