"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167)."""

import math
from collections.abc import Callable

from tinygrad_char.autograd import Function
from tinygrad_char.kernels import reduce
from tinygrad_char.kernels.array import Array


class BatchNorm(Function):
    """(x - mean) * rstd * weight + bias for each channel, rstd = 1 / sqrt(var + eps).

    x is (N, C, ...), the others (C,). Where `mean` and `var` are None they are those of x over all
    axes but the second, and `note` is called with them and the number of elements that they are
    of. Saved are x, weight, mean and rstd.
    """

    upcasts = True

    def forward(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        mean: Array | None,
        var: Array | None,
        *,
        eps: float,
        note: Callable[[Array, Array, int], None],
    ) -> Array:
        self.axes = (0, *range(2, x.ndim))
        self.count = math.prod(x.shape[i] for i in self.axes)
        self.of_batch = mean is None or var is None
        if mean is None or var is None:
            mean, y, squares = reduce.moments(x, self.axes)
            var = squares / self.count
            note(mean.reshape(-1), var.reshape(-1), self.count)
        else:
            mean, var = self._beside(mean, x), self._beside(var, x)
            y = x - mean
        rstd = 1 / self.backend.xp.sqrt(var + eps)
        y *= rstd
        if weight is not None:
            y *= self._beside(weight, x)
        if bias is not None:
            y += self._beside(bias, x)
        self.saved = (x, weight, mean, rstd)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, Array | None, Array | None, None, None]:
        """Return dx, dweight, dbias.

        With n = (x - mean) * rstd: dweight = sum(dy * n), dbias = sum(dy), and
        dx = weight * rstd * (dy - (dbias + n * dweight) / count), or for a given mean and variance
        dx = weight * rstd * dy.
        """
        x, weight, mean, rstd = self.saved
        need_x, need_weight, need_bias = self.needs[:3]
        normalized = x - mean
        normalized *= rstd
        grad_x = grad_weight = grad_bias = None
        if need_weight or (need_x and self.of_batch):
            grad_weight = reduce.total(grad * normalized, self.axes)
        if need_bias or (need_x and self.of_batch):
            grad_bias = reduce.total(grad, self.axes)
        if need_x:
            grad_x = grad
            if self.of_batch and grad_weight is not None and grad_bias is not None:
                normalized *= self._beside(grad_weight, x) / self.count
                normalized += self._beside(grad_bias, x) / self.count
                grad_x = grad - normalized
            grad_x = grad_x * (rstd if weight is None else rstd * self._beside(weight, x))
        return (
            grad_x,
            grad_weight if need_weight else None,
            grad_bias if need_bias else None,
            None,
            None,
        )

    def _beside(self, channels: Array, x: Array) -> Array:
        return channels.reshape(1, -1, *(1,) * (x.ndim - 2))
