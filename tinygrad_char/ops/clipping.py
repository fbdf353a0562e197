"""Limits that are tensors."""

from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.reduce import unbroadcast
from tinygrad_char.ops.elementwise import broadcast_error


class ClipBetween(Function):
    """x limited to [low, high], which broadcast with it; where low is above high, high."""

    upcasts = True

    def forward(self, x: Array, low: Any, high: Any) -> Array:
        """Return min(max(x, low), high); either limit may be a number or None."""
        xp = self.backend.xp
        self.saved = (x, low, high)
        try:
            y = x if low is None else xp.maximum(x, low)
            y = y if high is None else xp.minimum(y, high)
        except ValueError:
            raise broadcast_error("clip", x, low if low is not None else high) from None
        return y.copy() if y is x else y

    def backward(self, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        """Return dy for whichever of x, low and high was taken, x where two are equal, else 0."""
        xp = self.backend.xp
        x, low, high = self.saved
        zero = grad.dtype.type(0)
        inside = x == x  # NaN takes part in nothing
        at_low = at_high = None
        if low is not None:
            inside = inside & (x >= low)
            at_low = x < low
        if high is not None:
            inside = inside & (x <= high)
            at_high = (x if low is None else xp.maximum(x, low)) > high
            if low is not None:
                at_low = at_low & ~at_high

        def part(number: int, taken: Any) -> Array | None:
            if not self.needs[number]:
                return None
            return unbroadcast(xp.where(taken, grad, zero), self.saved[number].shape)

        return part(0, inside), part(1, at_low), part(2, at_high)
