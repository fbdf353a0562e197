"""Elements taken and added along one axis by integers of the same number of axes."""

from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.reduce import total_at
from tinygrad_char.ops.reduction import normalize_axis


def check_indices(name: str, indices: Array, length: int) -> Array:
    """Return integers from -length to length - 1 as those from 0 on; IndexError names another."""
    if indices.dtype.kind not in "iu":
        raise IndexError(f"{name}: indices are {indices.dtype}, expected integers")
    if not indices.size:
        return indices.astype("int64")
    for worst in (int(indices.min()), int(indices.max())):
        if not -length <= worst < length:
            raise IndexError(
                f"{name}: index {worst} for an axis of length {length}; expected one from "
                f"{-length} to {length - 1}"
            )
    indices = indices.astype("int64")
    return indices + length * (indices < 0)


def along_axis(xp: Any, indices: Array, axis: int) -> tuple[Array, ...]:
    """Return the index that takes along `axis` by `indices` and by position along the others."""
    parts = []
    for i, length in enumerate(indices.shape):
        shape = [1] * indices.ndim
        shape[i] = length
        parts.append(indices if i == axis else xp.arange(length).reshape(shape))
    return tuple(parts)


def _check(name: str, x: Array, indices: Array, axis: int) -> int:
    axis = normalize_axis(name, axis, x.ndim)
    rest = [i for i in range(x.ndim) if i != axis]
    if indices.ndim != x.ndim or any(indices.shape[i] > x.shape[i] for i in rest):
        raise ValueError(
            f"{name}: indices {indices.shape} for shape {x.shape}; expected as many axes, none "
            f"but axis {axis} longer"
        )
    return axis


class Gather(Function):
    """y[i, j, k] = x[i, indices[i, j, k], k], here along axis 1."""

    upcasts = True

    def forward(
        self, x: Array, indices: Array, *, axis: int, name: str = "gather", ordered: bool = False
    ) -> Array:
        """Return the elements; IndexError or ValueError where the indices do not fit.

        `ordered` indices come from sorting x: they fit, and take no element twice.
        """
        axis = _check(name, x, indices, axis)
        self.source, self.ordered = x.shape, ordered
        if ordered:
            self.saved = (indices,)  # the caller has them too, and may change them
        else:
            indices = check_indices(name, indices, x.shape[axis])
        self.index = along_axis(self.backend.xp, indices, axis)
        return x[self.index]

    def backward(self, grad: Array) -> tuple[Array, None]:
        """Return zeros with dy added where its elements were taken."""
        if self.ordered:
            result = self.backend.xp.zeros(self.source, grad.dtype)
            result[self.index] = grad
            return result, None
        return total_at(self.source, self.index, grad), None


class ScatterAdd(Function):
    """x with y[i, indices[i, j, k], k] += source[i, j, k], here along axis 1.

    What the source has beyond the shape of the indices is not used.
    """

    upcasts = True

    def forward(self, x: Array, indices: Array, source: Array, *, axis: int) -> Array:
        """Return the sums; IndexError or ValueError where the shapes or indices do not fit."""
        axis = _check("scatter_add", x, indices, axis)
        if source.ndim != x.ndim or any(
            i > s for i, s in zip(indices.shape, source.shape, strict=True)
        ):
            raise ValueError(
                f"scatter_add: source {source.shape} for indices {indices.shape}; expected as many "
                "axes, none shorter"
            )
        indices = check_indices("scatter_add", indices, x.shape[axis])
        self.index = along_axis(self.backend.xp, indices, axis)
        self.used = tuple(map(slice, indices.shape))
        self.source = source.shape
        added = total_at(x.shape, self.index, source[self.used])
        return self.backend.xp.where(added == 0, x, x + added)  # -0 stays what it is

    def backward(self, grad: Array) -> tuple[Array | None, None, Array | None]:
        """Return dy, and dy where the source's elements were added."""
        need_x, _, need_source = self.needs
        if not need_source:
            return grad, None, None
        result = self.backend.xp.zeros(self.source, grad.dtype)
        result[self.used] = grad[self.index]
        return grad if need_x else None, None, result
