"""Operators of Tensor: arithmetic, comparisons, logic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tinygrad_char.autograd import Function, TensorBase
from tinygrad_char.coerce import (
    OPERANDS,
    binary_operator,
    first_tensor,
    is_array_beside,
    operands,
    tensor_like,
)
from tinygrad_char.integers import check_fits, fits
from tinygrad_char.kernels.array import is_floating
from tinygrad_char.methods.base import TensorMethods, named
from tinygrad_char.modes import quiet
from tinygrad_char.ops import elementwise, neural, rounding

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor

_quotient_of = partial(operands, quotient=True)
Operator = Callable[[Any, Any], "Tensor"]


def _signs(
    operation: type[Function],
    name: str,
    combine: Callable[[str, Any, Any], tuple[Any, Any]] = operands,
) -> tuple[Operator, Operator]:
    """Return the methods of a sign, for a tensor on its left and for one on its right.

    They do as `binary_operator` says, without a call more for it.
    """

    def left(self: Any, other: Any) -> Tensor:
        if isinstance(other, OPERANDS) or is_array_beside(other, self):
            return operation.apply(*combine(name, self, other))
        return NotImplemented

    def right(self: Any, other: Any) -> Tensor:
        if isinstance(other, OPERANDS) or is_array_beside(other, self):
            return operation.apply(*combine(name, other, self))
        return NotImplemented

    return left, right


def _comparison(name: str, sign: str, function: str) -> Operator:
    """Return the method of a comparison, by a function of the array module."""

    def compare(self: Any, other: Any) -> Tensor:
        return self._compare(other, function)

    return named(compare, name, f"Return where self {sign} other.")


class OperatorMethods(TensorMethods):
    """What the signs + - * / ** @ == < & and so on do."""

    __slots__ = ()

    __add__, __radd__ = _signs(elementwise.Add, "add")
    __sub__, __rsub__ = _signs(elementwise.Subtract, "subtract")
    __mul__, __rmul__ = _signs(elementwise.Multiply, "multiply")
    __truediv__, __rtruediv__ = _signs(elementwise.Divide, "divide", _quotient_of)
    __floordiv__, __rfloordiv__ = _signs(rounding.FloorDivide, "floor_divide")
    __mod__, __rmod__ = _signs(rounding.Remainder, "remainder")
    __pow__, __rpow__ = _signs(elementwise.Power, "power")

    @binary_operator
    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    @binary_operator
    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    @binary_operator
    def __matmul__(self, other: Any) -> Tensor:
        return neural.MatMul.apply(*operands("matmul", self, tensor_like("matmul", other, self)))

    @binary_operator
    def __rmatmul__(self, other: Any) -> Tensor:
        return neural.MatMul.apply(*operands("matmul", tensor_like("matmul", other, self), self))

    def __neg__(self) -> Tensor:
        return elementwise.Negate.apply(self)

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Tensor:
        return elementwise.Absolute.apply(self)

    def matmul(self, other: Any) -> Tensor:
        """Return self @ other: (..., M, K) and (..., K, N); vectors lack M or N."""
        return self @ other

    # Comparisons: boolean tensors without history

    @quiet
    def _compare(self, other: Any, name: str) -> Tensor:
        number = other.item() if isinstance(other, np.generic) else other
        if isinstance(number, int) and self.dtype.kind in "iu" and not fits(number, self.dtype):
            # Below or above all values of the dtype, which settles it for every element.
            answer = bool(getattr(np, name)(0, 1 if number > 0 else -1))
            return self._result(self.backend.xp.full(self.shape, answer))
        a, b = operands(name, self, other)
        left, right = (getattr(each, "array", each) for each in (a, b))
        try:
            return self._result(getattr(self.backend.xp, name)(left, right))
        except ValueError:
            raise elementwise.broadcast_error(name, left, right) from None

    eq = _comparison("eq", "==", "equal")
    ne = _comparison("ne", "!=", "not_equal")
    lt = _comparison("lt", "<", "less")
    le = _comparison("le", "<=", "less_equal")
    gt = _comparison("gt", ">", "greater")
    ge = _comparison("ge", ">=", "greater_equal")

    @binary_operator
    def __eq__(self, other: Any) -> Any:
        return self.eq(other)

    @binary_operator
    def __ne__(self, other: Any) -> Any:
        return self.ne(other)

    __lt__, __le__ = binary_operator(lt), binary_operator(le)
    __gt__, __ge__ = binary_operator(gt), binary_operator(ge)
    __hash__ = object.__hash__

    def _logical(self, other: Any, name: str) -> Tensor:
        number = other.item() if isinstance(other, np.generic) else other
        if isinstance(number, int) and self.dtype.kind in "iu":  # it takes the tensor's dtype
            check_fits(name, number, self.dtype)
            other = self.backend.xp.asarray(number, dtype=self.dtype)
        other = tensor_like(name, other, self)
        a, b = self.dtype, other.dtype
        # No integers hold both int64's and uint64's: together these are floats.
        if is_floating(a) or is_floating(b) or is_floating(np.result_type(a, b)):
            raise TypeError(f"{name}: {a} and {b}; expected booleans or integers")
        try:
            return self._result(getattr(self.backend.xp, name)(self.array, other.array))
        except ValueError:
            raise elementwise.broadcast_error(name, self, other) from None

    @binary_operator
    def __and__(self, other: Any) -> Tensor:
        return self._logical(other, "bitwise_and")

    @binary_operator
    def __or__(self, other: Any) -> Tensor:
        return self._logical(other, "bitwise_or")

    @binary_operator
    def __xor__(self, other: Any) -> Tensor:
        return self._logical(other, "bitwise_xor")

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Tensor:
        if is_floating(self.dtype):
            raise TypeError(f"invert: {self.dtype}, expected booleans or integers")
        return self._result(~self.array)

    # By name, as PyTorch has them

    def add(self, other: Any, *, alpha: float = 1) -> Tensor:
        """Return self + alpha other."""
        return added("add", self, other, alpha)

    def sub(self, other: Any, *, alpha: float = 1) -> Tensor:
        """Return self - alpha other."""
        return added("sub", self, other, alpha)

    def mul(self, other: Any) -> Tensor:
        """Return self * other."""
        return elementwise.Multiply.apply(*operands("multiply", self, other))

    def div(self, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        """Return self / other; with rounding_mode its floor ("floor") or integer part ("trunc").

        Rounded quotients have a gradient of 0, and those of integers are integers.
        ZeroDivisionError where such a one would be divided by 0.
        """
        return divided(self, other, rounding_mode)

    def pow(self, other: Any) -> Tensor:
        """Return self ** other."""
        return elementwise.Power.apply(*operands("power", self, other))

    def neg(self) -> Tensor:
        """Return -self."""
        return elementwise.Negate.apply(self)


def added(name: str, a: Any, b: Any, alpha: float) -> Tensor:
    """Return a + alpha b, or for the name "sub" a - alpha b; at least one of them is a tensor."""
    if isinstance(alpha, TensorBase | np.generic):
        alpha = alpha.item()
    if not isinstance(alpha, int | float):
        raise TypeError(f"{name}: alpha={alpha!r}, expected a number")
    operation, words = _SUMS[name]
    if isinstance(b, np.generic):
        b = b.item()
    if isinstance(b, int | float):
        b = b * alpha
    elif alpha != 1:
        b = tensor_like(name, b, first_tensor(name, a, b)) * alpha
    return operation.apply(*operands(words, a, b))


_SUMS: dict[str, tuple[Any, str]] = {
    "add": (elementwise.Add, "add"),
    "sub": (elementwise.Subtract, "subtract"),
}


def divided(a: Any, b: Any, rounding_mode: str | None) -> Tensor:
    """Return a / b, rounded as `Tensor.div` says; at least one of them is a tensor."""
    if rounding_mode is None:
        return elementwise.Divide.apply(*operands("divide", a, b, quotient=True))
    if rounding_mode not in _QUOTIENTS:
        raise ValueError(f"div: rounding_mode={rounding_mode!r}, expected None, 'floor' or 'trunc'")
    return _QUOTIENTS[rounding_mode].apply(*operands("div", a, b))


_QUOTIENTS: dict[str, Any] = {"floor": rounding.FloorDivide, "trunc": rounding.TruncDivide}
