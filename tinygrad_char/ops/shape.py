"""Operations that move elements without changing them, to another device too, and triangles."""

from collections.abc import Sequence
from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.reduce import unbroadcast
from tinygrad_char.kernels.words import shorten
from tinygrad_char.ops.reduction import normalize_axes, normalize_axis


class Copy(Function):
    """The same elements in memory of their own, in order."""

    def forward(self, x: Array) -> Array:
        return x.copy()

    def backward(self, grad: Array) -> Array:
        return grad


class Transfer(Function):
    """The same values on another device: dx is dy in the source's memory."""

    def forward(self, x: Array, *, target: Backend) -> Array:
        self.source = self.backend
        self.target = target
        return target.from_numpy(self.source.to_numpy(x))

    def backward(self, grad: Array) -> Array:
        return self.source.from_numpy(self.target.to_numpy(grad))


class Reshape(Function):
    """The same elements in another shape; one length may be -1."""

    is_view = True

    def forward(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        self.source = x.shape
        try:
            return x.reshape(shape)
        except (ValueError, TypeError):
            raise ValueError(
                f"reshape: shape {x.shape} ({x.size} elements) does not fit into {shorten(shape)}"
            ) from None

    def backward(self, grad: Array) -> Array:
        return grad.reshape(self.source)


class Permute(Function):
    """The axes in another order: axis i of the result is axes[i] of x."""

    is_view = True

    def forward(self, x: Array, *, axes: Sequence[int]) -> Array:
        order = normalize_axes("permute", tuple(axes), x.ndim)
        if len(axes) != x.ndim:
            raise ValueError(f"permute: axes {tuple(axes)} for a tensor of shape {x.shape}")
        self.inverse = [0] * x.ndim
        for position, axis in enumerate(order):
            self.inverse[axis] = position
        return x.transpose(order)

    def backward(self, grad: Array) -> Array:
        return grad.transpose(self.inverse)


class BroadcastTo(Function):
    """Axes of length 1 repeated, and new axes in front: dx is dy summed over the repetitions."""

    is_view = True

    def forward(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        self.source = x.shape
        try:
            return self.backend.xp.broadcast_to(x, shape)
        except ValueError:
            raise ValueError(
                f"broadcast_to: shape {x.shape} does not broadcast to {shorten(shape)}"
            ) from None

    def backward(self, grad: Array) -> Array:
        return unbroadcast(grad, self.source)


class Concatenate(Function):
    """Several arrays one after the other along an existing axis; each gets its part of dy."""

    def forward(self, *arrays: Array, axis: int) -> Array:
        shapes = [each.shape for each in arrays]
        if arrays[0].ndim == 0:
            raise ValueError("cat: tensors without axes; stack gives them one")
        self.axis = normalize_axis("cat", axis, arrays[0].ndim)
        rest = {shape[: self.axis] + shape[self.axis + 1 :] for shape in shapes}
        if len({len(shape) for shape in shapes}) > 1 or len(rest) > 1:
            raise ValueError(f"cat: shapes {shapes} differ in another axis than {axis}")
        self.lengths = [shape[self.axis] for shape in shapes]
        return self.backend.xp.concatenate(arrays, axis=self.axis)

    def backward(self, grad: Array) -> tuple[Array, ...]:
        parts = []
        start = 0
        for length in self.lengths:
            parts.append(grad[(slice(None),) * self.axis + (slice(start, start + length),)])
            start += length
        return tuple(parts)


class Stack(Function):
    """Several arrays of one shape along a new axis; each gets its slice of dy."""

    def forward(self, *arrays: Array, axis: int) -> Array:
        shapes = [each.shape for each in arrays]
        if len(set(shapes)) > 1:
            raise ValueError(f"stack: expected equal shapes, got {shapes}")
        self.axis = normalize_axis("stack", axis, arrays[0].ndim + 1)
        return self.backend.xp.stack(arrays, axis=self.axis)

    def backward(self, grad: Array) -> tuple[Array, ...]:
        return tuple(self.backend.xp.moveaxis(grad, self.axis, 0))


class Triangle(Function):
    """The lower or upper triangle of the last two axes, the rest zero; dy likewise."""

    def forward(self, x: Array, *, lower: bool, diagonal: int) -> Array:
        if x.ndim < 2:
            name = "tril" if lower else "triu"
            raise ValueError(f"{name}: shape {x.shape} has fewer than two axes")
        self.lower, self.diagonal = lower, diagonal
        return self._cut(x)

    def backward(self, grad: Array) -> Array:
        return self._cut(grad)

    def _cut(self, x: Array) -> Any:
        xp = self.backend.xp
        return xp.tril(x, self.diagonal) if self.lower else xp.triu(x, self.diagonal)
