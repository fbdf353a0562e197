"""Rounding, and division with an integer quotient.

Steps have a gradient of 0. Integers and booleans stay as they are.
"""

from typing import Any

import numpy as np

from tinygrad_char.autograd import Function
from tinygrad_char.integers import check_fits
from tinygrad_char.kernels.array import Array, is_floating
from tinygrad_char.ops.elementwise import Binary, OfArrayModule

MOST_DECIMALS = 400
"""Decimals beyond which no float64 has a digit, with either sign."""


class _Step(OfArrayModule):
    """Integers: dx = 0."""

    def forward(self, x: Array) -> Array:
        return getattr(self.backend.xp, self.function)(x) if is_floating(x.dtype) else x.copy()

    def backward(self, grad: Array) -> Array:
        return self.backend.xp.zeros_like(grad)


class Floor(_Step):
    """The largest integer up to x."""


class Ceil(_Step):
    """The smallest integer from x on."""


class Trunc(_Step):
    """The integer part of x: rounded towards 0."""


class Round(Function):
    """The nearest number with so many decimals, of two the one whose last digit is even: dx = 0."""

    upcasts = True

    def forward(self, x: Array, *, decimals: int) -> Array:
        if x.dtype == bool or (decimals >= 0 and not is_floating(x.dtype)):
            return x.copy()
        if not is_floating(x.dtype):
            return self._multiples(x, 10 ** min(-decimals, MOST_DECIMALS))
        xp = self.backend.xp
        # Beyond the exponents of the dtype there is nothing to round, or nothing left.
        other = x if decimals > 0 else xp.where(xp.isfinite(x), x * x.dtype.type(0), x)
        if abs(decimals) > MOST_DECIMALS:
            return other.copy()
        y = xp.around(x, decimals)
        if decimals > 0:  # elements without digits there are not to lose their last one
            digits = 24 if x.dtype.itemsize < 8 else 53
            y = xp.where(abs(x) < 2.0**digits * 10.0**-decimals, y, x)
        return xp.where(xp.isfinite(y), y, other) if decimals else y

    def _multiples(self, x: Array, step: int) -> Array:
        """Return integers rounded to multiples of the step; OverflowError where one has no room."""
        xp, held = self.backend.xp, np.iinfo(x.dtype)
        if x.size:
            for each in (int(x.min()), int(x.max())):
                check_fits("round", _nearest(each, step), x.dtype)
        if step > held.max:
            return xp.zeros_like(x)
        width = x.dtype.type(step)
        rest = xp.remainder(x, width)
        odd = xp.remainder(xp.floor_divide(x, width), x.dtype.type(2)) == 1
        up = (rest > width - rest) | ((rest == width - rest) & odd)
        return x - rest + xp.where(up, width, x.dtype.type(0))

    def backward(self, grad: Array) -> Array:
        return self.backend.xp.zeros_like(grad)


def _nearest(number: int, step: int) -> int:
    """Return the multiple of the step that is nearest; of two, the even one."""
    quotient, rest = divmod(number, step)
    return step * (quotient + (2 * rest > step or (2 * rest == step and quotient % 2 == 1)))


class _IntegerQuotient(Binary):
    """An integer quotient: da = db = 0."""

    uses = ((False, False), (False, False))

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        zero = self.backend.xp.zeros_like(grad)
        return zero if self.needs[0] else None, zero if self.needs[1] else None


class FloorDivide(_IntegerQuotient):
    """floor(a / b); ZeroDivisionError for integers divided by 0, as of the others here."""

    def result(self, a: Any, b: Any) -> Array:
        _refuse_zero("floor_divide", a, b)
        return self.backend.xp.floor_divide(a, b)


class TruncDivide(_IntegerQuotient):
    """trunc(a / b): the integer part of the quotient."""

    def result(self, a: Any, b: Any) -> Array:
        _refuse_zero("div", a, b)
        xp = self.backend.xp
        if any(is_floating(each.dtype) for each in (a, b) if hasattr(each, "dtype")):
            return xp.trunc(a / b)
        return xp.floor_divide(a - xp.fmod(a, b), b)


class _Rest(Binary):
    """What is left of a by b, of which q is the integer quotient: da = dy, db = -dy q."""

    uses = ((False, False), (True, True))

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        return (
            grad if self.needs[0] else None,
            -grad * self._quotient(a, b) if self.needs[1] else None,
        )

    def _quotient(self, a: Any, b: Any) -> Array:
        """Return the integer quotient q."""
        raise NotImplementedError(f"{type(self).__name__} defines no quotient")


class Remainder(_Rest):
    """a - b floor(a / b), which has the sign of b: da = dy, db = -dy floor(a / b)."""

    def result(self, a: Any, b: Any) -> Array:
        _refuse_zero("remainder", a, b)
        return self.backend.xp.remainder(a, b)

    def _quotient(self, a: Any, b: Any) -> Array:
        return self.backend.xp.floor_divide(a, b)


class Fmod(_Rest):
    """a - b trunc(a / b), which has the sign of a: da = dy, db = -dy trunc(a / b)."""

    def result(self, a: Any, b: Any) -> Array:
        _refuse_zero("fmod", a, b)
        return self.backend.xp.fmod(a, b)

    def _quotient(self, a: Any, b: Any) -> Array:
        return self.backend.xp.trunc(a / b)


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
