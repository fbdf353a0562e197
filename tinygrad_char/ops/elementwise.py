"""Elementwise operations, with NumPy's broadcasting.

Operands are arrays or Python numbers; a number takes the dtype of the other operand.
"""

from typing import Any, ClassVar

from tinygrad_char.autograd import Function
from tinygrad_char.integers import limits
from tinygrad_char.kernels import add
from tinygrad_char.kernels.array import Array, rounded, select
from tinygrad_char.kernels.reduce import unbroadcast
from tinygrad_char.modes import quiet
from tinygrad_char.ops.activation import sigmoid


def _shape(operand: Any) -> tuple[int, ...]:
    return getattr(operand, "shape", ())


def broadcast_error(name: str, a: Any, b: Any) -> ValueError:
    """Return the error for operands whose shapes do not fit."""
    return ValueError(
        f"{name}: shapes {_shape(a)} and {_shape(b)} do not broadcast; counted from the last "
        "axis, each pair of lengths must be equal or hold a 1"
    )


class Binary(Function):
    """An operation of two operands that broadcast: result(a, b), gradients(grad, a, b)."""

    upcasts = True

    def result(self, a: Any, b: Any) -> Array:
        """Return the result; ValueError of NumPy's where the shapes do not broadcast."""
        raise NotImplementedError

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        """Return the gradients before broadcasting is undone; None where not needed."""
        raise NotImplementedError

    uses: ClassVar[tuple[tuple[bool, bool], tuple[bool, bool]]] = ((True, True), (True, True))
    """For the gradient of a, and of b: whether it is computed from a, from b."""

    def forward(self, a: Any, b: Any) -> Array:
        """Return the result, or raise ValueError that names the shapes that do not broadcast."""
        need_a, need_b = self.needs
        if need_a or need_b:
            (a_by_a, a_by_b), (b_by_a, b_by_b) = self.uses
            self.saved = (
                a if (need_a and a_by_a) or (need_b and b_by_a) else None,
                b if (need_a and a_by_b) or (need_b and b_by_b) else None,
            )
            self.shapes = (_shape(a), _shape(b))
        try:
            return self.result(a, b)
        except ValueError as error:
            if "broadcast" not in str(error):
                raise
            raise broadcast_error(type(self).__name__.lower(), a, b) from None

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        """Return the operands' gradients, summed over the axes that were broadcast."""
        grad_a, grad_b = self.gradients(grad, *self.saved)
        return (
            None if grad_a is None else unbroadcast(grad_a, self.shapes[0]),
            None if grad_b is None else unbroadcast(grad_b, self.shapes[1]),
        )


class Add(Binary):
    """a + b: da = db = dy, see kernels/add/."""

    uses = ((False, False), (False, False))

    def result(self, a: Any, b: Any) -> Array:
        return self.backend.kernels[add.forward](a, b)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        a_shape, b_shape = self.shapes
        need_a, need_b = self.needs
        return self.backend.kernels[add.backward](grad, a_shape, b_shape, (need_a, need_b))


class Subtract(Binary):
    """a - b: da = dy, db = -dy."""

    uses = ((False, False), (False, False))

    def result(self, a: Any, b: Any) -> Array:
        return a - b

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        return grad if self.needs[0] else None, -grad if self.needs[1] else None


class Multiply(Binary):
    """a b: da = dy b, db = dy a."""

    uses = ((False, True), (True, False))

    def result(self, a: Any, b: Any) -> Array:
        return a * b

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        return grad * b if self.needs[0] else None, grad * a if self.needs[1] else None


class Divide(Binary):
    """a / b: da = dy / b, db = -dy (a / b) / b, which is 0 for a = 0 however small b is."""

    uses = ((False, True), (True, True))

    def result(self, a: Any, b: Any) -> Array:
        return a / b

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        return (
            grad / b if self.needs[0] else None,
            -grad * (a / b / b) if self.needs[1] else None,
        )


class Power(Binary):
    """a^b: da = dy b a^(b - 1), db = dy a^b log(a).

    Whatever dy is, da is 0 where b is, and db where a is and b is not negative.
    """

    def result(self, a: Any, b: Any) -> Array:
        return a**b

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        xp = self.backend.xp
        grad_a = grad_b = None
        if self.needs[0]:
            if not isinstance(b, int | float):
                grad_a = select(b != 0, grad * (b * a ** (b - 1)))
            else:
                grad_a = grad * (b * a ** (b - 1)) if b != 0 else xp.zeros_like(grad)
        if self.needs[1]:
            base = xp.asarray(a, dtype=grad.dtype)
            grad_b = select((base != 0) | ~(b >= 0), grad * (a**b * xp.log(base)))
        return grad_a, grad_b


class _Extremum(Binary):
    """The operand that is `better`: dy goes to it, and half to each where they are equal.

    Where either is NaN, so is the result, and both get dy.
    """

    def gradients(self, grad: Array, a: Any, b: Any) -> tuple[Array | None, Array | None]:
        shared = self.backend.xp.where(a == b, grad * grad.dtype.type(0.5), grad)
        return (
            select(~self.better(b, a), shared) if self.needs[0] else None,
            select(~self.better(a, b), shared) if self.needs[1] else None,
        )

    def better(self, a: Any, b: Any) -> Any:
        raise NotImplementedError


class Maximum(_Extremum):
    """max(a, b), NaN where either is."""

    def result(self, a: Any, b: Any) -> Array:
        return self.backend.xp.maximum(a, b)

    def better(self, a: Any, b: Any) -> Array:
        return a > b


class Minimum(_Extremum):
    """min(a, b), NaN where either is."""

    def result(self, a: Any, b: Any) -> Array:
        return self.backend.xp.minimum(a, b)

    def better(self, a: Any, b: Any) -> Array:
        return a < b


class Where(Function):
    """a where the condition holds, else b: dy goes to whichever was taken."""

    @quiet  # a number beyond the dtype's range becomes infinite
    def forward(self, condition: Array, a: Any, b: Any) -> Array:
        self.saved = (condition, _shape(a), _shape(b))
        # NumPy lets a number widen dtypes that it does not know, such as bfloat16
        a, b = (
            other.dtype.type(each) if isinstance(each, int | float) else each
            for each, other in ((a, b), (b, a))
        )
        try:
            return self.backend.xp.where(condition, a, b)
        except ValueError:
            raise ValueError(
                f"where: shapes {_shape(condition)} (condition), {_shape(a)} and {_shape(b)} do "
                "not broadcast"
            ) from None

    def backward(self, grad: Array) -> tuple[None, Array | None, Array | None]:
        condition, shape_a, shape_b = self.saved
        where, zero = self.backend.xp.where, grad.dtype.type(0)
        return (
            None,
            unbroadcast(where(condition, grad, zero), shape_a) if self.needs[1] else None,
            unbroadcast(where(condition, zero, grad), shape_b) if self.needs[2] else None,
        )


class Negate(Function):
    """-x: dx = -dy."""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, grad: Array) -> Array:
        return -grad


class OfArrayModule(Function):
    """A function of the array module: the one of the class's name, as xp.log of Log."""

    upcasts = True
    function: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.function = cls.__name__.lower()


class OfInput(OfArrayModule):
    """One with a gradient computed from its input."""

    def forward(self, x: Array) -> Array:
        self.saved = (x,)
        return getattr(self.backend.xp, self.function)(x)


class OfResult(OfArrayModule):
    """One with a gradient computed from its result."""

    def forward(self, x: Array) -> Array:
        y = getattr(self.backend.xp, self.function)(x)
        self.saved = (y,)
        return y


class Exp(OfResult):
    """y = exp(x): dx = dy y."""

    def backward(self, grad: Array) -> Array:
        return grad * self.saved[0]


class Log(OfInput):
    """log(x): dx = dy / x."""

    def backward(self, grad: Array) -> Array:
        return grad / self.saved[0]


class Sqrt(OfResult):
    """y = sqrt(x): dx = dy / (2 y)."""

    def backward(self, grad: Array) -> Array:
        return grad / (2 * self.saved[0])


class Tanh(OfResult):
    """y = tanh(x): dx = dy (1 - y^2)."""

    def backward(self, grad: Array) -> Array:
        y = self.saved[0]
        return grad * (1 - y * y)


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x)): dx = dy y (1 - y)."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        y = sigmoid(self.backend.xp, x)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Array:
        y = self.saved[0]
        return grad * (y * (1 - y))


class Absolute(Function):
    """|x|: dx = dy sign(x), 0 where x is 0 or NaN."""

    def forward(self, x: Array) -> Array:
        self.saved = (x,)
        return abs(x)

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        return select(x > 0, grad) - select(x < 0, grad)


class Clip(Function):
    """min(max(x, low), high), either may be None: dx = dy from low to high, else 0."""

    upcasts = True

    def forward(self, x: Array, *, low: float | None, high: float | None) -> Array:
        self.saved = (x,)
        self.low, self.high = low, high = limits("clip", low, high, x.dtype)
        return x.copy() if low is high is None else self.backend.xp.clip(x, low, high)

    def backward(self, grad: Array) -> Array:
        x = self.saved[0]
        if self.low is not None:
            grad = select(x >= self.low, grad)
        if self.high is not None:
            grad = select(x <= self.high, grad)
        return grad


class Cast(Function):
    """x in another floating dtype: dx = dy in x's."""

    def forward(self, x: Array, *, dtype: Any) -> Array:
        self.source = x.dtype
        return rounded(x, dtype)

    def backward(self, grad: Array) -> Array:
        return rounded(grad, self.source)
