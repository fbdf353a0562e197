"""Reductions over axes. An axis is an integer, a tuple of them, or None for all."""

import operator
from typing import Any, SupportsIndex

from tinygrad_char.autograd import Function
from tinygrad_char.kernels import reduce
from tinygrad_char.kernels.array import Array, select
from tinygrad_char.kernels.words import shorten

Axis = SupportsIndex | tuple[SupportsIndex, ...] | None


def normalize_axes(name: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes as distinct non-negative integers, or raise IndexError that names them.

    A tensor without axes may be reduced over 0 or -1, as NumPy and PyTorch have it: over nothing.
    """
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    try:
        axes = tuple(map(operator.index, axis if isinstance(axis, tuple | list) else (axis,)))
    except TypeError:
        raise TypeError(
            f"{name}: axis {shorten(axis)}, expected an integer or a tuple of them"
        ) from None
    result = tuple(_within(name, each, ndim) for each in axes)
    if len(set(result)) != len(result):
        raise ValueError(f"{name}: axis {axis} names the same axis twice")
    return result if ndim else ()


def normalize_axis(name: str, axis: Any, ndim: int, *, scalars: bool = False) -> int:
    """Return the one axis along which an operation works, as a non-negative integer.

    With `scalars`, 0 or -1 of a tensor without axes is taken, and 0 returned.

    Raises
    ------
    TypeError
        It is None, or several axes.
    IndexError
        The tensor does not have it.
    """
    if type(axis) is int and -ndim <= axis < ndim:
        return axis % ndim
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"{name}: axis {shorten(axis)}, expected one integer") from None
    if ndim == 0 and not scalars:
        raise IndexError(f"{name}: axis {shorten(axis)} of a tensor without axes")
    return _within(name, axis, ndim)


def _within(name: str, axis: int, ndim: int) -> int:
    axes = max(ndim, 1)
    if not -axes <= axis < axes:
        raise IndexError(f"{name}: axis {shorten(axis)} of a tensor with {ndim} axes")
    return axis % axes


class Reduction(Function):
    """Shared by the reductions: which axes, and how a gradient gets them back."""

    upcasts = True

    def start(self, x: Array, axis: Axis) -> None:
        """Remember the input's shape and the axes."""
        shape = self.source = x.shape
        self.axes = normalize_axes(type(self).__name__.lower(), axis, x.ndim)
        self.count = 1
        for i in self.axes:
            self.count *= shape[i]

    @property
    def kept(self) -> tuple[int, ...]:
        """The result's shape with the reduced axes as 1."""
        return tuple(1 if i in self.axes else n for i, n in enumerate(self.source))

    @property
    def reduced(self) -> tuple[int, ...]:
        """The result's shape without the reduced axes."""
        return tuple(n for i, n in enumerate(self.source) if i not in self.axes)

    def spread(self, grad: Array) -> Array:
        """Return `grad` with the reduced axes back, as a read-only view of the input's shape."""
        return self.backend.xp.broadcast_to(grad.reshape(self.kept), self.source)


class Sum(Reduction):
    """The sum over axes: dx = dy."""

    def forward(self, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        self.start(x, axis)
        return reduce.total(x, self.axes, keepdims)

    def backward(self, grad: Array) -> Array:
        return self.spread(grad)


class Mean(Reduction):
    """The mean over axes, of n elements: dx = dy / n."""

    def forward(self, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        self.start(x, axis)
        if self.count == 0:
            raise ValueError(f"mean: shape {x.shape} holds no element along axis {axis}")
        return reduce.total(x, self.axes, keepdims) / self.count

    def backward(self, grad: Array) -> Array:
        return self.spread(grad / self.count)


class Var(Reduction):
    """sum((x - mean)^2) / (n - correction) over axes: dx = dy 2 (x - mean) / (n - correction)."""

    def forward(self, x: Array, *, axis: Axis, keepdims: bool, correction: float) -> Array:
        self.start(x, axis)
        self.divisor = self.count - correction
        if self.divisor <= 0:
            raise ValueError(
                f"{type(self).__name__.lower()}: {self.count} elements along axis {axis} of shape "
                f"{x.shape} with correction={shorten(correction)}; expected more than that"
            )
        y, mean = reduce.variance(x, self.axes, self.divisor)
        self.saved = (x, mean)
        return y if keepdims else y.reshape(self.reduced)

    def backward(self, grad: Array) -> Array:
        return self.by_variance(grad)

    def by_variance(self, grad: Array) -> Array:
        """Return the gradient of x, given that of the variance."""
        x, mean = self.saved[:2]
        dx = x - mean
        dx *= self.spread(grad * (2 / self.divisor))
        return dx


class Std(Var):
    """y = sqrt(var(x)) over axes: dx = dy (x - mean) / ((n - correction) y), 0 where y is."""

    def forward(self, x: Array, *, axis: Axis, keepdims: bool, correction: float) -> Array:
        variance = super().forward(x, axis=axis, keepdims=keepdims, correction=correction)
        y = self.backend.xp.sqrt(variance)
        self.saved = (*self.saved, y)
        return y

    def backward(self, grad: Array) -> Array:
        y = self.saved[2]
        constant = y == 0
        where = self.backend.xp.where
        divisor = 2 * where(constant, y.dtype.type(1), y)
        return self.by_variance(where(constant, grad.dtype.type(0), grad) / divisor)


class _Extreme(Reduction):
    """The extreme element over axes: dy goes to it, in equal parts where several are, or NaN."""

    method: str

    def forward(self, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        self.start(x, axis)
        if self.count == 0:
            raise ValueError(f"{self.method}: shape {x.shape} holds no element along axis {axis}")
        y = getattr(x, self.method)(axis=self.axes, keepdims=True)
        self.saved = (x, y)
        return y if keepdims else y.reshape(self.reduced)

    def backward(self, grad: Array) -> Array:
        x, y = self.saved
        extreme = (x == y) | ((x != x) & (y != y))
        share = extreme.sum(axis=self.axes, keepdims=True).astype(grad.dtype)
        return select(extreme, grad.reshape(self.kept) / share)


class Max(_Extreme):
    """The maximum over axes."""

    method = "max"


class Min(_Extreme):
    """The minimum over axes."""

    method = "min"


class Cumsum(Function):
    """y_i = x_0 + ... + x_i along one axis: dx_i = dy_i + ... + dy_n."""

    upcasts = True

    def forward(self, x: Array, *, axis: int) -> Array:
        self.axis = normalize_axis("cumsum", axis, x.ndim, scalars=True)
        return reduce.running_total(x, self.axis).reshape(x.shape)

    def backward(self, grad: Array) -> Any:
        if grad.ndim == 0:
            return grad
        xp = self.backend.xp
        return xp.flip(reduce.running_total(xp.flip(grad, self.axis), self.axis), self.axis)
