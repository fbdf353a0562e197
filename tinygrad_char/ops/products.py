"""Products over axes, whose gradients hold where factors are 0: nothing is divided by a factor."""

from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.ops.reduction import Axis, Reduction, normalize_axis


class Prod(Reduction):
    """The product over axes, 1 of nothing: dx = dy times the product of the other factors."""

    upcasts = True

    def forward(self, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        self.start(x, axis)
        self.saved = (x,)
        return x.prod(axis=self.axes, keepdims=keepdims)

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        xp = self.backend.xp
        rest = [i for i in range(x.ndim) if i not in self.axes]
        order = [*rest, *self.axes]
        moved = x.transpose(order)
        factors = moved.reshape(*moved.shape[: len(rest)], self.count)
        behind = xp.flip(_before(xp, xp.flip(factors, -1)), -1)
        others = (_before(xp, factors) * behind).reshape(moved.shape)
        inverse = sorted(range(x.ndim), key=order.__getitem__)
        return self.spread(grad) * others.transpose(inverse)


def _before(xp: Any, x: Array) -> Array:
    """Return for each element the product of those before it along the last axis."""
    result = xp.ones_like(x)
    result[..., 1:] = xp.cumprod(x[..., :-1], axis=-1)
    return result


class Cumprod(Function):
    """y_i = x_0 ... x_i along one axis."""

    upcasts = True

    def forward(self, x: Array, *, axis: int) -> Array:
        self.axis = normalize_axis("cumprod", axis, x.ndim, scalars=True)
        self.saved = (x,)
        return self.backend.xp.cumprod(x, axis=self.axis).reshape(x.shape)

    def backward(self, grad: Array) -> Array:
        """Return dx_k = (x_0 ... x_(k-1)) r_k, with r_k = dy_k + x_(k+1) r_(k+1).

        The recurrence is solved by doubling: r_k from the next 1, 2, 4, ... factors.
        """
        if grad.ndim == 0:
            return grad
        xp = self.backend.xp
        x = xp.moveaxis(self.saved[0], self.axis, -1)
        factors = xp.zeros_like(x)
        factors[..., :-1] = x[..., 1:]
        sums = xp.moveaxis(grad, self.axis, -1).copy()
        step = 1
        while step < x.shape[-1]:
            sums[..., :-step] += factors[..., :-step] * sums[..., step:]
            factors[..., :-step] = factors[..., :-step] * factors[..., step:]
            factors[..., -step:] = 0
            step *= 2
        return xp.moveaxis(_before(xp, x) * sums, -1, self.axis)
