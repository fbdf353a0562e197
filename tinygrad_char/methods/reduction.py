"""Methods of Tensor that reduce axes, or run along one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tinygrad_char.coerce import floating
from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops import norms, products
from tinygrad_char.ops.reduction import Axis
from tinygrad_char.spelling import spelled

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


class ReductionMethods(TensorMethods):
    """Products, norms, and the logarithm of a sum of exponentials."""

    __slots__ = ()

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
