"""Rounding, and division with a whole quotient.

Steps have a gradient of 0. Integers and booleans are whole already.
"""

from typing import Any

from kernels.array import Array, is_floating
from tinygrad_char.autograd import Function
from tinygrad_char.ops.elementwise import Binary


class _Step(Function):
    upcasts = True
    method: str

    def forward(self, x: Array) -> Array:
        """Return whole numbers."""
        return getattr(self.backend.xp, self.method)(x) if is_floating(x.dtype) else x.copy()

    def backward(self, grad: Array) -> Array:
        """Return 0."""
        return self.backend.xp.zeros_like(grad)


class Floor(_Step):
    """The largest whole number up to x."""

    method = "floor"


class Ceil(_Step):
    """The smallest whole number from x on."""

    method = "ceil"


class Trunc(_Step):
    """The whole part of x: towards 0."""

    method = "trunc"


class Round(Function):
    """The nearest number with so many decimals; of two, the one whose last digit is even."""

    upcasts = True

    def forward(self, x: Array, *, decimals: int) -> Array:
        """Return x rounded."""
        if x.dtype == bool:
            return x.copy()
        return self.backend.xp.around(x, decimals)

    def backward(self, grad: Array) -> Array:
        """Return 0."""
        return self.backend.xp.zeros_like(grad)


class FloorDivide(Binary):
    """floor(a / b)."""

    uses = ((False, False), (False, False))

    def result(self, a: Any, b: Any) -> Array:
        """Return a // b; ZeroDivisionError for integers divided by 0."""
        _refuse_zero("floor_divide", a, b)
        return self.backend.xp.floor_divide(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        """Return 0, 0."""
        zero = self.backend.xp.zeros_like(grad)
        return zero if self.needs[0] else None, zero if self.needs[1] else None


class Remainder(Binary):
    """a - b floor(a / b), which has the sign of b."""

    uses = ((False, False), (True, True))

    def result(self, a: Any, b: Any) -> Array:
        """Return a % b; ZeroDivisionError for integers divided by 0."""
        _refuse_zero("remainder", a, b)
        return self.backend.xp.remainder(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        """Return dy, -dy floor(a / b)."""
        return (
            grad if self.needs[0] else None,
            -grad * self.backend.xp.floor_divide(a, b) if self.needs[1] else None,
        )


class Fmod(Binary):
    """a - b trunc(a / b), which has the sign of a."""

    uses = ((False, False), (True, True))

    def result(self, a: Any, b: Any) -> Array:
        """Return fmod(a, b); ZeroDivisionError for integers divided by 0."""
        _refuse_zero("fmod", a, b)
        return self.backend.xp.fmod(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        """Return dy, -dy trunc(a / b)."""
        return (
            grad if self.needs[0] else None,
            -grad * self.backend.xp.trunc(a / b) if self.needs[1] else None,
        )


def _refuse_zero(name: str, a: Any, b: Any) -> None:
    """Raise ZeroDivisionError where an integer would be divided by 0."""
    dtypes = [each.dtype for each in (a, b) if hasattr(each, "dtype")]
    if any(map(is_floating, dtypes)):
        return
    if not (b.all() if hasattr(b, "dtype") else b):
        raise ZeroDivisionError(
            f"{name}: a division by 0 of integers ({' and '.join(map(str, dtypes))}), which have "
            "no infinity and no NaN; convert them with .astype('float32')"
        )
