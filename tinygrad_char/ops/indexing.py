"""Indexing with slices, integers, integer arrays and boolean masks."""

from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.reduce import total_at


def is_basic(index: Any) -> bool:
    """Return whether an index selects a regular part of an array, each element at most once."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or (isinstance(part, slice | int) and not isinstance(part, bool))
        for part in parts
    )


def is_whole(index: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a basic index gives every element in its place, as x[:] does.

    The result's strides do not tell: of a broadcast array, x[::-1] has those of x.
    """
    parts = index if isinstance(index, tuple) else (index,)
    lengths = iter(shape)
    for part in parts:
        if part is Ellipsis:
            lengths = iter(shape[len(shape) - (len(parts) - 1 - parts.index(part)) :])
        elif not isinstance(part, slice) or not _is_full(part, next(lengths)):
            return False
    return True


def _is_full(part: slice, length: int) -> bool:
    start, stop, step = part.indices(length)
    return step == 1 and start == 0 and stop >= length


class GetItem(Function):
    """x[index] with NumPy's rules."""

    def forward(self, x: Array, *, index: Any) -> Array:
        """Return x[index]; IndexError that names the shape and the index where it does not fit."""
        self.source = x.shape
        self.basic = self.is_view = is_basic(index)  # type: ignore[misc]
        if not self.basic:  # arrays may be the host's
            parts = index if isinstance(index, tuple) else (index,)
            xp = self.backend.xp
            index = tuple(xp.asarray(each) if hasattr(each, "dtype") else each for each in parts)
        self.index = index
        try:
            y = x[index]
        except IndexError as error:
            raise IndexError(f"getitem on shape {x.shape}: {error}") from None
        if self.basic and not isinstance(y, self.backend.array_type):
            # one element, which NumPy copies out: with an ellipsis it stays a view
            y = x[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return y

    def backward(self, grad: Array) -> Array:
        """Return zeros with dy added at the index, as often as an element was taken."""
        if self.basic and is_whole(self.index, self.source):
            return grad
        xp = self.backend.xp
        if self.basic:
            result = xp.zeros(self.source, dtype=grad.dtype)
            result[self.index] = grad
            return result
        return total_at(self.source, self.index, grad)
