"""Methods of Tensor that reduce axes, or run along one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tinygrad_char.along import along
from tinygrad_char.coerce import floating
from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops import neural, norms, products, reduction
from tinygrad_char.ops.reduction import Axis, normalize_axes, normalize_axis
from tinygrad_char.spelling import spelled

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


class ReductionMethods(TensorMethods):
    """Sums, means, extremes, products, norms, softmax."""

    __slots__ = ()

    @spelled
    def sum(self, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the sum over `axis`, in `dtype` if given."""
        x = self if dtype is None else self.astype(dtype)
        y = reduction.Sum.apply(x, axis=axis, keepdims=keepdims)
        return y if dtype is None else y.astype(dtype)  # small integers are added up in int64

    @spelled
    def mean(self, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the mean over `axis`, in `dtype` if given."""
        x = floating(self if dtype is None else self.astype(dtype))
        return reduction.Mean.apply(x, axis=axis, keepdims=keepdims)

    @spelled
    def var(self, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> Tensor:
        """Return the variance over `axis`, divided by n - correction.

        The default correction is NumPy's, 0; PyTorch's is 1. By its other name `unbiased` it may be
        False or True.
        """
        correction = (correction or 0) + 0  # 0 of None, 1 of True
        options = {"axis": axis, "keepdims": keepdims, "correction": correction}
        return reduction.Var.apply(floating(self), **options)

    @spelled
    def std(self, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> Tensor:
        """Return the square root of `var`; where that is 0, so is the gradient."""
        correction = (correction or 0) + 0
        options = {"axis": axis, "keepdims": keepdims, "correction": correction}
        return reduction.Std.apply(floating(self), **options)

    @spelled
    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the maximum over `axis`; equal ones share the gradient."""
        return reduction.Max.apply(self, axis=axis, keepdims=keepdims)

    @spelled
    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the minimum over `axis`; equal ones share the gradient."""
        return reduction.Min.apply(self, axis=axis, keepdims=keepdims)

    @spelled
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the index of the first maximum along `axis`, or of the flattened tensor."""
        axis = self._search_axis("argmax", axis)
        return self._result(self.backend.xp.argmax(self.array, axis=axis, keepdims=keepdims))

    @spelled
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the index of the first minimum along `axis`, or of the flattened tensor."""
        axis = self._search_axis("argmin", axis)
        return self._result(self.backend.xp.argmin(self.array, axis=axis, keepdims=keepdims))

    def _search_axis(self, name: str, axis: int | None) -> int | None:
        if axis is not None:
            axis = normalize_axis(name, axis, self.ndim, scalars=True)
        if (self.size if axis is None or self.ndim == 0 else self.shape[axis]) == 0:
            raise ValueError(f"{name}: shape {self.shape} holds no element along axis {axis}")
        return axis

    @spelled
    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return whether every element is true, over `axis`."""
        axes = normalize_axes("all", axis, self.ndim)
        return self._result(self.backend.xp.all(self.array, axis=axes, keepdims=keepdims))

    @spelled
    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return whether any element is true, over `axis`."""
        axes = normalize_axes("any", axis, self.ndim)
        return self._result(self.backend.xp.any(self.array, axis=axes, keepdims=keepdims))

    @spelled
    def cumsum(self, axis: int, dtype: Any = None) -> Tensor:
        """Return the running sum along `axis`, in `dtype` if given."""
        x = self if dtype is None else self.astype(dtype)
        y = reduction.Cumsum.apply(x, axis=axis)
        return y if dtype is None else y.astype(dtype)

    @spelled
    def softmax(self, axis: Axis = -1, dtype: Any = None) -> Tensor:
        """Return exp(x) / sum(exp(x)) over `axis`: one, several, or all of them for None.

        In `dtype`, to which x is converted first, if given.
        """
        x = floating(self if dtype is None else self.astype(dtype))

        def apply(x: Tensor, axis: int) -> Tensor:
            return neural.Softmax.apply(x, None, axis=axis)

        return along(x, normalize_axes("softmax", axis, self.ndim), apply)

    @spelled
    def log_softmax(self, axis: Axis = -1, dtype: Any = None) -> Tensor:
        """Return the logarithm of the softmax over `axis`, in `dtype` if given."""
        x = floating(self if dtype is None else self.astype(dtype))

        def apply(x: Tensor, axis: int) -> Tensor:
            return neural.LogSoftmax.apply(x, axis=axis)

        return along(x, normalize_axes("log_softmax", axis, self.ndim), apply)

    @spelled
    def prod(self, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the product over `axis`, in `dtype` if given; right where factors are 0, too."""
        x = self if dtype is None else self.astype(dtype)
        return _of(dtype, products.Prod.apply(x, axis=axis, keepdims=keepdims))

    @spelled
    def cumprod(self, axis: int, dtype: Any = None) -> Tensor:
        """Return the running product along `axis`, in `dtype` if given."""
        x = self if dtype is None else self.astype(dtype)
        return _of(dtype, products.Cumprod.apply(x, axis=axis))

    @spelled
    def logsumexp(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return log(sum(exp(x))) over `axis` without overflow; -inf, with gradient 0, of -inf."""
        return norms.Logsumexp.apply(floating(self), axis=axis, keepdims=keepdims)

    @spelled(order=("ord", "p"))
    def norm(
        self,
        order: float | str | None = 2,
        axis: Axis = None,
        keepdims: bool = False,
        dtype: Any = None,
    ) -> Tensor:
        """Return (sum |x|^p)^(1/p) over `axis`, the elements taken as one vector.

        The order p is a number (0 counts what is not 0), inf or -inf for the largest and the least
        |x|; None and "fro" mean 2. Where the norm is 0, so is the gradient.
        """
        if order is None or order == "fro":
            order = 2
        if isinstance(order, str | bool) or math.isnan(order):
            raise ValueError(f"norm: order {order!r}, expected a number, inf, -inf, None or 'fro'")
        x = floating(self) if dtype is None else self.astype(dtype)
        return norms.Norm.apply(x, axis=axis, keepdims=keepdims, order=float(order))


def _of(dtype: Any, result: Tensor) -> Tensor:
    """Return the result in the dtype that was asked for: small integers are added up in int64."""
    return result if dtype is None else result.astype(dtype)
