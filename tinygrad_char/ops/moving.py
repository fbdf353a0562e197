"""Elements rolled, reversed, repeated, padded and taken from diagonals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_char.autograd import Function
from tinygrad_char.integers import check_fits
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.reduce import total, total_at
from tinygrad_char.kernels.words import shorten

MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "edge": "edge",
    "circular": "wrap",
    "wrap": "wrap",
}
"""PyTorch's and NumPy's names for what a border is filled with: NumPy's."""


class Flip(Function):
    """The elements in reverse order along axes; dy likewise."""

    def forward(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        self.axes = axes
        return self.backend.xp.flip(x, axes).copy()

    def backward(self, grad: Array) -> Array:
        return self.backend.xp.flip(grad, self.axes)


class Roll(Function):
    """The elements moved on along axes; those that leave at the end come in at the start."""

    def forward(self, x: Array, *, shifts: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        self.shifts, self.axes = shifts, axes
        return self.backend.xp.roll(x, shifts, axes)

    def backward(self, grad: Array) -> Array:
        return self.backend.xp.roll(grad, tuple(-each for each in self.shifts), self.axes)


class Tile(Function):
    """Copies side by side: so many along each axis, as many axes as x has or more.

    dx is the sum of dy over the copies.
    """

    upcasts = True

    def forward(self, x: Array, *, times: tuple[int, ...]) -> Array:
        lengths = (1,) * (len(times) - x.ndim) + x.shape
        self.source = x.shape
        self.copies = [each for pair in zip(times, lengths, strict=True) for each in pair]
        return self.backend.xp.tile(x, times)

    def backward(self, grad: Array) -> Array:
        copies = tuple(range(0, len(self.copies), 2))
        return total(grad.reshape(self.copies), copies).reshape(self.source)


class Repeat(Function):
    """Each element along an axis several times, or as often as `repeats` says of it.

    dx is the sum of dy over the repetitions.
    """

    upcasts = True

    def forward(self, x: Array, *, repeats: Sequence[int], axis: int) -> Array:
        before = (slice(None),) * axis
        self.source = x.shape
        self.index = (
            *before,
            self.backend.xp.asarray(np.repeat(np.arange(x.shape[axis]), repeats)),
        )
        return x[self.index]

    def backward(self, grad: Array) -> Array:
        return total_at(self.source, self.index, grad)


class Pad(Function):
    """A border before and behind each axis; a negative width cuts off."""

    upcasts = True

    def forward(
        self, x: Array, *, widths: Sequence[tuple[int, int]], mode: str, value: float
    ) -> Array:
        """Return x with its border; ValueError where x is too short for it."""
        self.source = x.shape
        self.mode = mode
        for length, (a, b) in zip(x.shape, widths, strict=True):
            left = length + min(a, 0) + min(b, 0)
            source = {"constant": 1, "wrap": left}.get(mode, length)
            if left < 0 or (source == 0 and max(a, b) > 0):
                raise ValueError(
                    f"pad: widths {shorten((a, b))} for an axis of length {length}, mode={mode!r}; "
                    "expected to cut no more than there is, and something to fill a border from"
                )
        if mode != "constant":
            self.index = np.ix_(*self._sources(x.shape, widths))
            self.index = tuple(map(self.backend.xp.asarray, self.index))
            return x[self.index]
        shape = tuple(a + n + b for n, (a, b) in zip(x.shape, widths, strict=True))
        self.inside = tuple(
            slice(max(a, 0), max(a, 0) + n + min(a, 0) + min(b, 0))
            for n, (a, b) in zip(x.shape, widths, strict=True)
        )
        self.taken = tuple(
            slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, widths, strict=True)
        )
        check_fits("pad", value, x.dtype)
        y = self.backend.xp.full(shape, value, x.dtype)
        y[self.inside] = x[self.taken]
        return y

    def _sources(
        self, shape: tuple[int, ...], widths: Sequence[tuple[int, int]]
    ) -> list[np.ndarray]:
        """Return along each axis which elements the padded axis has."""
        sources = []
        for length, (a, b) in zip(shape, widths, strict=True):
            positions = np.arange(length)
            border = [(max(a, 0), max(b, 0))]
            if self.mode == "wrap":  # which goes on with what is left, as in PyTorch
                sources.append(np.pad(positions[_cut(a, b, length)], border, mode="wrap"))
            else:
                padded = np.pad(positions, border, mode=self.mode)  # type: ignore[call-overload]
                sources.append(padded[_cut(a, b, len(padded))])
        return sources

    def backward(self, grad: Array) -> Array:
        """Return dy without the border, or with the border added where it was taken from."""
        if self.mode != "constant":
            return total_at(self.source, self.index, grad)
        result = self.backend.xp.zeros(self.source, grad.dtype)
        result[self.taken] = grad[self.inside]
        return result


def _cut(before: int, behind: int, length: int) -> slice:
    """Return what negative widths leave of an axis."""
    return slice(max(-before, 0), length - max(-behind, 0))


class Diagonal(Function):
    """The elements x[i, i + offset] of two axes, which become the last axis.

    dx is zeros with dy on the diagonal.
    """

    is_view = True

    def forward(self, x: Array, *, offset: int, axis1: int, axis2: int) -> Array:
        self.source = x.shape
        self.options = (offset, axis1, axis2)
        y = self.backend.xp.diagonal(x, *self.options)
        if getattr(x.flags, "writeable", False):
            y.flags.writeable = True  # which NumPy's diagonals are not, unlike its other views
        return y

    def backward(self, grad: Array) -> Array:
        xp = self.backend.xp
        offset, axis1, axis2 = self.options
        result = xp.zeros(self.source, grad.dtype)
        moved = xp.moveaxis(result, (axis1, axis2), (-2, -1))
        steps = xp.arange(grad.shape[-1])
        moved[..., steps + max(-offset, 0), steps + max(offset, 0)] = grad
        return result


class DiagonalMatrix(Function):
    """Zeros but for y[..., i, i + offset] = x[..., i]; dx is the diagonal of dy."""

    def forward(self, x: Array, *, offset: int) -> Array:
        xp = self.backend.xp
        size = x.shape[-1] + abs(offset)
        steps = xp.arange(x.shape[-1])
        self.index = (..., steps + max(-offset, 0), steps + max(offset, 0))
        y = xp.zeros((*x.shape[:-1], size, size), x.dtype)
        y[self.index] = x
        return y

    def backward(self, grad: Array) -> Any:
        return grad[self.index]
