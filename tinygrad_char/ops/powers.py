"""Powers with a name of their own, the sign, and the error function."""

import math
from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array, select
from tinygrad_char.kernels.gelu import erf
from tinygrad_char.ops.elementwise import Binary


class Square(Function):
    """x^2: dx = 2 dy x."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        self.saved = (x,)
        return x * x

    def backward(self, grad: Array) -> Array:
        return grad * (2 * self.saved[0])


class Reciprocal(Function):
    """y = 1 / x: dx = -dy y^2."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        y = 1 / x
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Array:
        y = self.saved[0]
        return -grad * (y * y)


class Rsqrt(Function):
    """y = 1 / sqrt(x): dx = -dy y^3 / 2."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        y = 1 / self.backend.xp.sqrt(x)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Array:
        y = self.saved[0]
        return grad * (-0.5 * (y * y * y))


class Hypot(Binary):
    """y = sqrt(a^2 + b^2), whose squares neither overflow nor vanish.

    da = dy a / y, db = dy b / y; 0 where both are 0.
    """

    def result(self, a: Any, b: Any) -> Array:
        return self.backend.xp.hypot(a, b)

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        xp = self.backend.xp
        y = xp.hypot(a, b)
        slope = select(y != 0, grad)
        y = xp.where(y == 0, y.dtype.type(1), y)
        return (
            slope * (a / y) if self.needs[0] else None,
            slope * (b / y) if self.needs[1] else None,
        )


class Sign(Function):
    """-1, 0 or 1, as x is below, at or above 0: dx = 0."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        return x.copy() if x.dtype == bool else self.backend.xp.sign(x)

    def backward(self, grad: Array) -> Array:
        return self.backend.xp.zeros_like(grad)


class Erf(Function):
    """erf(x), see kernels/gelu/erf.py: dx = dy 2 / sqrt(pi) exp(-x^2)."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        self.saved = (x,)
        return erf.erf(x)

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        return grad * (2 / math.sqrt(math.pi) * self.backend.xp.exp(-x * x))
