"""Norms, and the logarithm of a sum of exponentials, computed relative to the largest element."""

import math

from tinygrad_char.kernels.array import Array, select
from tinygrad_char.kernels.reduce import total
from tinygrad_char.ops.reduction import Axis, Reduction


class Logsumexp(Reduction):
    """log(sum(exp(x))) over axes."""

    upcasts = True

    def forward(self, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        """Return peak + log(sum(exp(x - peak))), -inf where there is nothing to add."""
        xp = self.backend.xp
        self.start(x, axis)
        if self.count:
            peak = x.max(axis=self.axes, keepdims=True)
            peak = xp.where(abs(peak) == math.inf, x.dtype.type(0), peak)
        else:
            peak = xp.zeros(self.kept, x.dtype)
        added = total(xp.exp(x - peak), self.axes, keepdims=True)
        self.saved = (x, peak, added)
        y = xp.log(added) + peak
        return y if keepdims else y.reshape(self.reduced)

    def backward(self, grad: Array) -> Array:
        """Return dy exp(x - peak) / sum(exp(x - peak)): 0 of only -inf, shared by those of +inf."""
        xp = self.backend.xp
        x, peak, added = self.saved
        infinite = added == math.inf
        largest = x == math.inf
        part = xp.where(infinite, largest.astype(x.dtype), xp.exp(x - peak))
        count = largest.sum(axis=self.axes, keepdims=True).astype(x.dtype)
        divisor = xp.where(infinite, count, added)
        part = part / xp.where(divisor == 0, x.dtype.type(1), divisor)
        return select(part != 0, self.spread(grad) * part)


class Norm(Reduction):
    """The norm of order p over axes: (sum |x|^p)^(1/p).

    Orders inf and -inf are the largest and the least |x|, order 0 counts the elements that are not
    0. Where the norm is 0 the gradient is the subgradient 0.
    """

    upcasts = True

    def forward(self, x: Array, *, axis: Axis, keepdims: bool, order: float) -> Array:
        """Return the norm; ValueError for inf and -inf where there is no element."""
        xp = self.backend.xp
        self.start(x, axis)
        self.p = order
        size = abs(x)
        if self.count == 0 and abs(order) == math.inf:
            raise ValueError(f"norm: shape {x.shape} holds no element along axis {axis}")
        if order == 0:
            y = (x != 0).sum(axis=self.axes, keepdims=True).astype(x.dtype)
        elif order == -math.inf:
            y = size.min(axis=self.axes, keepdims=True)
        elif self.count == 0:
            y = xp.zeros(self.kept, x.dtype)
        else:
            y = size.max(axis=self.axes, keepdims=True)
            if order != math.inf:
                y = self._sum_of_powers(size, y)
        self.saved = (x, y)
        return y if keepdims else y.reshape(self.reduced)

    def _sum_of_powers(self, size: Array, peak: Array) -> Array:
        """Return the norm from powers of |x| / peak, which neither overflow nor vanish."""
        xp = self.backend.xp
        if self.p == 1:
            return total(size, self.axes, keepdims=True)
        if self.p < 0:
            peak = size.min(axis=self.axes, keepdims=True)
        peak = xp.where((peak == 0) | (peak == math.inf), size.dtype.type(1), peak)
        added = total(self._powers(size / peak, self.p), self.axes, keepdims=True)
        root = xp.sqrt(added) if self.p == 2 else added ** (1 / self.p)
        return peak * root

    def _powers(self, size: Array, order: float) -> Array:
        return size * size if order == 2 else size**order

    def backward(self, grad: Array) -> Array:
        """Return dy sign(x) (|x| / y)^(p - 1); for inf, -inf equal parts to extreme elements."""
        xp = self.backend.xp
        x, y = self.saved
        if self.p == 0:
            return xp.zeros_like(x)
        zero, one = x.dtype.type(0), x.dtype.type(1)
        grad = grad.reshape(self.kept)
        size = abs(x)
        if abs(self.p) == math.inf:
            extreme = size == y
            count = extreme.sum(axis=self.axes, keepdims=True).astype(x.dtype)
            slope = xp.where(extreme, grad / count, zero)
        elif self.p == 1:
            slope = xp.broadcast_to(grad, x.shape)
        else:
            ratio = xp.where(size == 0, one, size / xp.where(y == 0, one, y))
            slope = grad * (ratio if self.p == 2 else ratio ** (self.p - 1))
            slope = xp.where(y == 0, zero, slope)
        slope = xp.where(x < 0, -slope, slope)
        still = (x == 0) | (x != x) if self.p == 1 else x == 0  # |x| of NaN has the gradient 0
        return xp.where(still, zero, slope)
