"""Methods of Tensor that compute each element by itself."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_char.autograd import TensorBase
from tinygrad_char.coerce import boolean_mask, floating, operands
from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops import (
    clipping,
    elementwise,
    exponentials,
    neural,
    powers,
    rounding,
    trigonometry,
)
from tinygrad_char.spelling import spelled

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


class ElementwiseMethods(TensorMethods):
    """Activations, limits, rounding, powers, exponentials, logarithms, functions of angles."""

    __slots__ = ()

    # Exponentials, activations and limits

    def exp(self) -> Tensor:
        """Return e to the power of each element."""
        return elementwise.Exp.apply(floating(self))

    def log(self) -> Tensor:
        """Return the natural logarithm of each element."""
        return elementwise.Log.apply(floating(self))

    def sqrt(self) -> Tensor:
        """Return the square root of each element."""
        return elementwise.Sqrt.apply(floating(self))

    def tanh(self) -> Tensor:
        """Return the hyperbolic tangent of each element."""
        return elementwise.Tanh.apply(floating(self))

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + exp(-x)) of each element."""
        return elementwise.Sigmoid.apply(floating(self))

    def relu(self) -> Tensor:
        """Return max(x, 0) of each element."""
        return neural.Relu.apply(self)

    def gelu(self, approximate: str = "none") -> Tensor:
        """Return x Phi(x) of each element, exactly ("none") or by the "tanh" approximation."""
        if approximate not in ("none", "tanh"):
            raise ValueError(f"gelu: approximate={approximate!r}, expected 'none' or 'tanh'")
        return neural.Gelu.apply(floating(self), approximate=approximate)

    def abs(self) -> Tensor:
        """Return |x| of each element, whose gradient is the sign of x, and 0 where x is."""
        return abs(self)

    @spelled(low=("min", "a_min"), high=("max", "a_max"))
    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        """Return each element limited to [low, high]; None leaves a side open.

        Limits are numbers, or tensors that broadcast with this one; they get the gradient of the
        elements that they replace.
        """
        limits = [each.item() if isinstance(each, np.generic) else each for each in (low, high)]
        if all(each is None or isinstance(each, int | float) for each in limits):
            x = floating(self) if any(isinstance(each, float) for each in limits) else self
            return elementwise.Clip.apply(x, low=limits[0], high=limits[1])
        kinds = (type(None), int, float, TensorBase, np.ndarray, list, self.backend.array_type)
        if not all(isinstance(each, kinds) for each in limits):
            raise TypeError(f"clip: limits {low!r} and {high!r}, expected tensors, numbers or None")
        x, both = self, []
        for each in limits:
            x, each = (x, None) if each is None else operands("clip", x, each)
            both.append(each)
        if both[0] is not None and both[0] is not limits[0]:
            x, both[0] = operands("clip", x, both[0])
        return clipping.ClipBetween.apply(x, *both)

    clamp = clip

    def maximum(self, other: Any) -> Tensor:
        """Return the larger of each pair of elements; equal ones share the gradient."""
        return elementwise.Maximum.apply(*operands("maximum", self, other))

    def minimum(self, other: Any) -> Tensor:
        """Return the smaller of each pair of elements; equal ones share the gradient."""
        return elementwise.Minimum.apply(*operands("minimum", self, other))

    def masked_fill(self, mask: Any, value: float) -> Tensor:
        """Return a copy with `value` wherever the boolean `mask` (broadcast) is True."""
        mask = boolean_mask("masked_fill", mask, self)
        return elementwise.Where.apply(mask, *operands("masked_fill", value, self))

    # Rounding, and division with an integer quotient

    def floor(self) -> Tensor:
        """Return the largest integer up to each element; its gradient is 0."""
        return rounding.Floor.apply(self)

    def ceil(self) -> Tensor:
        """Return the smallest integer from each element on; its gradient is 0."""
        return rounding.Ceil.apply(self)

    def trunc(self) -> Tensor:
        """Return each element without what is behind the point; its gradient is 0."""
        return rounding.Trunc.apply(self)

    def round(self, decimals: int = 0) -> Tensor:
        """Return each element rounded to so many decimals, halves to even; its gradient is 0.

        Integers are rounded by negative decimals alone; OverflowError where the result has no room
        in their dtype.
        """
        return rounding.Round.apply(self, decimals=operator.index(decimals))

    def __floor__(self) -> Tensor:
        return self.floor()

    def __ceil__(self) -> Tensor:
        return self.ceil()

    def __trunc__(self) -> Tensor:
        return self.trunc()

    def __round__(self, ndigits: int | None = None) -> Tensor:
        return self.round(ndigits or 0)

    def floor_divide(self, other: Any) -> Tensor:
        """Return floor(self / other); its gradient is 0.

        ZeroDivisionError where an integer would be divided by 0.
        """
        return rounding.FloorDivide.apply(*operands("floor_divide", self, other))

    def remainder(self, other: Any) -> Tensor:
        """Return self - other * floor(self / other), which has the sign of `other`.

        ZeroDivisionError where an integer would be divided by 0.
        """
        return rounding.Remainder.apply(*operands("remainder", self, other))

    def fmod(self, other: Any) -> Tensor:
        """Return self - other * trunc(self / other), which has the sign of self.

        ZeroDivisionError where an integer would be divided by 0.
        """
        return rounding.Fmod.apply(*operands("fmod", self, other))

    # Powers, the sign, and the error function

    def square(self) -> Tensor:
        """Return each element times itself."""
        return powers.Square.apply(self)

    def reciprocal(self) -> Tensor:
        """Return 1 / x of each element."""
        return powers.Reciprocal.apply(floating(self))

    def rsqrt(self) -> Tensor:
        """Return 1 / sqrt(x) of each element."""
        return powers.Rsqrt.apply(floating(self))

    def hypot(self, other: Any) -> Tensor:
        """Return sqrt(self^2 + other^2) without overflow; where that is 0, so is the gradient."""
        return powers.Hypot.apply(*operands("hypot", self, other, quotient=True))

    def sign(self) -> Tensor:
        """Return -1, 0 or 1 as each element is below, at or above 0; its gradient is 0."""
        return powers.Sign.apply(self)

    def erf(self) -> Tensor:
        """Return the error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
        return powers.Erf.apply(floating(self))

    # Exponentials and logarithms

    def exp2(self) -> Tensor:
        """Return 2 to the power of each element."""
        return exponentials.Exp2.apply(floating(self))

    def expm1(self) -> Tensor:
        """Return exp(x) - 1 of each element, exact for small ones."""
        return exponentials.Expm1.apply(floating(self))

    def log1p(self) -> Tensor:
        """Return log(1 + x) of each element, exact for small ones."""
        return exponentials.Log1p.apply(floating(self))

    def log2(self) -> Tensor:
        """Return the logarithm to base 2 of each element."""
        return exponentials.Log2.apply(floating(self))

    def log10(self) -> Tensor:
        """Return the logarithm to base 10 of each element."""
        return exponentials.Log10.apply(floating(self))

    def logaddexp(self, other: Any) -> Tensor:
        """Return log(exp(self) + exp(other)) without overflow."""
        return exponentials.Logaddexp.apply(*operands("logaddexp", self, other, quotient=True))

    # Angles

    def sin(self) -> Tensor:
        """Return the sine of each element, in radians."""
        return trigonometry.Sin.apply(floating(self))

    def cos(self) -> Tensor:
        """Return the cosine of each element, in radians."""
        return trigonometry.Cos.apply(floating(self))

    def tan(self) -> Tensor:
        """Return the tangent of each element, in radians."""
        return trigonometry.Tan.apply(floating(self))

    def arcsin(self) -> Tensor:
        """Return the angle from -pi/2 to pi/2 whose sine each element is."""
        return trigonometry.Arcsin.apply(floating(self))

    def arccos(self) -> Tensor:
        """Return the angle from 0 to pi whose cosine each element is."""
        return trigonometry.Arccos.apply(floating(self))

    def arctan(self) -> Tensor:
        """Return the angle between -pi/2 and pi/2 whose tangent each element is."""
        return trigonometry.Arctan.apply(floating(self))

    def arctan2(self, other: Any) -> Tensor:
        """Return the angle from -pi to pi of the point (other, self)."""
        return trigonometry.Arctan2.apply(*operands("arctan2", self, other, quotient=True))

    def sinh(self) -> Tensor:
        """Return the hyperbolic sine of each element."""
        return trigonometry.Sinh.apply(floating(self))

    def cosh(self) -> Tensor:
        """Return the hyperbolic cosine of each element."""
        return trigonometry.Cosh.apply(floating(self))

    def arcsinh(self) -> Tensor:
        """Return the inverse hyperbolic sine of each element."""
        return trigonometry.Arcsinh.apply(floating(self))

    def arccosh(self) -> Tensor:
        """Return the inverse hyperbolic cosine of each element; NaN below 1."""
        return trigonometry.Arccosh.apply(floating(self))

    def arctanh(self) -> Tensor:
        """Return the inverse hyperbolic tangent of each element; NaN outside [-1, 1]."""
        return trigonometry.Arctanh.apply(floating(self))

    asin, acos, atan, atan2 = arcsin, arccos, arctan, arctan2
    asinh, acosh, atanh = arcsinh, arccosh, arctanh

    # Booleans

    def isnan(self) -> Tensor:
        """Return where elements are NaN."""
        return self._result(self.backend.xp.isnan(self.array))

    def isinf(self) -> Tensor:
        """Return where elements are an infinity."""
        return self._result(self.backend.xp.isinf(self.array))

    def isfinite(self) -> Tensor:
        """Return where elements are neither NaN nor an infinity."""
        return self._result(self.backend.xp.isfinite(self.array))
