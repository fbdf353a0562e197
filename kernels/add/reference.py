"""Addition with NumPy's broadcasting."""

from typing import Any

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.reduce import unbroadcast


def forward(a: Any, b: Any) -> Array:
    """Return a + b, where one of the two may be a number; backward needs their shapes."""
    return a + b


def into(a: Array, b: Array, out: Array) -> None:
    """Write a + b, of one shape, to an array of that shape, which may be one of them."""
    namespace(a).add(a, b, out=out)


def backward(
    grad: Array, a_shape: tuple[int, ...], b_shape: tuple[int, ...], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """Return da and db, dy summed over what was broadcast; each None where `needs` says so."""
    return (
        unbroadcast(grad, a_shape) if needs[0] else None,
        unbroadcast(grad, b_shape) if needs[1] else None,
    )
