"""Methods of Tensor that take, add and order elements by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygrad_char.coerce import promoted, raw_index, tensor_like
from tinygrad_char.kernels.words import shorten
from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops import gathering, indexing
from tinygrad_char.ops.reduction import normalize_axis
from tinygrad_char.spelling import spelled

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


class Ordered(NamedTuple):
    """Elements in order, and the integers that say where each was."""

    values: Tensor
    indices: Tensor


class IndexingMethods(TensorMethods):
    """Indexing, gathering, scattering, sorting, and what is not 0."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Tensor:
        return indexing.GetItem.apply(self, index=raw_index(index))

    @spelled(indices="index")
    def gather(self, axis: int, indices: Any) -> Tensor:
        """Return y[i, j, k] = x[i, indices[i, j, k], k], here along axis 1.

        The indices have as many axes as x, and no other is longer than x's. Negative ones count
        from the end; IndexError names one that is out of bounds.
        """
        index = _integers("gather", indices, self)
        if self.ndim == 0 and index.ndim < 2:
            x, axis = _as_vector("gather", self, axis)
            found = gathering.Gather.apply(x, index.reshape(-1), axis=axis)
            return found.reshape(index.shape)
        return gathering.Gather.apply(self, index, axis=axis)

    @spelled
    def take_along_axis(self, indices: Any, axis: int | None = -1) -> Tensor:
        """Return what `gather` does, with x and the indices broadcast along the other axes.

        Without an axis (None) x is flattened.
        """
        name = "take_along_axis"
        index = _integers(name, indices, self)
        x: Any = self
        if axis is None:
            x, axis = x.reshape(-1), 0
        axis = normalize_axis(name, axis, x.ndim)
        if index.ndim != x.ndim:
            raise ValueError(
                f"{name}: indices {index.shape} for shape {x.shape}; expected as many axes"
            )
        shapes = [(*each.shape[:axis], 1, *each.shape[axis + 1 :]) for each in (x, index)]
        try:
            wide = np.broadcast_shapes(*shapes)
        except ValueError:
            raise ValueError(
                f"{name}: indices {index.shape} and shape {x.shape} do not broadcast besides axis "
                f"{axis}"
            ) from None
        length, count = x.shape[axis], index.shape[axis]
        x = x.broadcast_to(*wide[:axis], length, *wide[axis + 1 :])
        index = index.broadcast_to(*wide[:axis], count, *wide[axis + 1 :])
        return gathering.Gather.apply(x, index, axis=axis, name=name)

    @spelled(indices="index", source="src")
    def scatter_add(self, axis: int, indices: Any, source: Any) -> Tensor:
        """Return a copy with y[i, indices[i, j, k], k] += source[i, j, k], here along axis 1.

        Indices and source have as many axes as x; of a larger source what lies beyond the shape of
        the indices is not used. Indices may repeat, and negative ones count from the end;
        IndexError names one that is out of bounds.
        """
        index = _integers("scatter_add", indices, self)
        x, values = promoted("scatter_add", [self, source])
        if self.ndim == index.ndim == values.ndim == 0:
            x, axis = _as_vector("scatter_add", x, axis)
            index, values = index.reshape(1), values.reshape(1)
            return gathering.ScatterAdd.apply(x, index, values, axis=axis).reshape(())
        return gathering.ScatterAdd.apply(x, index, values, axis=axis)

    @spelled(indices="index")
    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        """Return the elements at `indices` along `axis`, or of the flattened tensor (None).

        Indices of any shape, which takes the axis' place.
        """
        x: Any = self
        index = _integers("take", indices, self)
        if axis is None:
            x, axis = x.reshape(-1), 0
        if x.ndim == 0:
            x, axis = _as_vector("take", x, axis)
        axis = normalize_axis("take", axis, x.ndim)
        raw = gathering.check_indices("take", index.array, x.shape[axis])
        return indexing.GetItem.apply(x, index=((slice(None),) * axis) + (raw,))

    @spelled(indices="index")
    def index_select(self, axis: int, indices: Any) -> Tensor:
        """Return the slices along `axis` that `indices`, a vector, name."""
        index = _integers("index_select", indices, self)
        if index.ndim > 1:
            raise ValueError(f"index_select: indices {index.shape}, expected a vector")
        axis = normalize_axis("index_select", axis, self.ndim, scalars=True)
        if self.ndim == 0 and index.size == 1:
            return self.take(index.reshape(()), axis)
        return self.take(index.reshape(-1), axis)

    def masked_select(self, mask: Any) -> Tensor:
        """Return the elements where the boolean mask holds, along one axis; both broadcast.

        x[mask], whose mask has axes as long as x's first ones, does not broadcast.
        """
        mask = tensor_like("masked_select", mask, self)
        if mask.dtype != bool:
            raise TypeError(f"masked_select: mask is {mask.dtype}, expected booleans")
        try:
            shape = np.broadcast_shapes(mask.shape, self.shape)
        except ValueError:
            raise ValueError(
                f"masked_select: mask {mask.shape} and x {self.shape} do not broadcast"
            ) from None
        x: Any = self
        return x.broadcast_to(shape)[mask.broadcast_to(shape)]

    # Order

    @spelled
    def argsort(
        self, axis: int | None = -1, descending: bool = False, stable: bool = True
    ) -> Tensor:
        """Return the indices that put the elements in order along `axis` (None: flattened).

        Equal elements keep their order, in either direction and whatever `stable` says; NaN counts
        as larger than all others.
        """
        x = self.detach() if axis is not None else self.detach().reshape(-1)
        axis = normalize_axis("argsort", 0 if axis is None else axis, x.ndim, scalars=True)
        if x.ndim == 0:
            return x.reshape(1).argsort().reshape(())
        xp = self.backend.xp
        if not descending:
            return self._result(xp.argsort(x.array, axis=axis, kind="stable"))
        backward = xp.argsort(xp.flip(x.array, axis), axis=axis, kind="stable")
        return self._result(x.shape[axis] - 1 - xp.flip(backward, axis))

    @spelled
    def sort(self, axis: int | None = -1, descending: bool = False, stable: bool = True) -> Ordered:
        """Return the elements in order along `axis`, and where they were: (values, indices).

        See `argsort`.
        """
        x: Any = self if axis is not None else self.reshape(-1)
        axis = normalize_axis("sort", 0 if axis is None else axis, x.ndim, scalars=True)
        if x.ndim == 0:
            return Ordered(x.clone(), x.argsort())
        order = x.argsort(axis, descending=descending)
        values = gathering.Gather.apply(x, order, axis=axis, name="sort", ordered=True)
        return Ordered(values, order)

    @spelled
    def topk(self, k: int, axis: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
        """Return the k largest (or smallest) along `axis` in order: (values, indices).

        Of equal elements the first come first. They are in order whatever `sorted` says.
        """
        axis = normalize_axis("topk", axis, self.ndim, scalars=True)
        if self.ndim == 0:
            found = self.reshape(1).topk(k)
            return Ordered(*(each.reshape(()) for each in found)) if k else found
        if not 0 <= k <= self.shape[axis]:
            raise ValueError(f"topk: k={shorten(k)} for an axis of length {self.shape[axis]}")
        order = self.argsort(axis, descending=largest)[(slice(None),) * axis + (slice(k),)]
        values = gathering.Gather.apply(self, order, axis=axis, name="topk", ordered=True)
        return Ordered(values, order)

    # What is not 0

    def nonzero(self, as_tuple: bool = True) -> Any:
        """Return the indices of what is not 0, one vector for each axis: x[x.nonzero()].

        With as_tuple=False one matrix with a row for each element, as `argwhere`.
        """
        if self.ndim == 0:
            raise ValueError("nonzero: a tensor without axes has no indices; use x.reshape(1)")
        found = [self._result(each) for each in self.backend.xp.nonzero(self.array)]
        return tuple(found) if as_tuple else self.argwhere()

    def argwhere(self) -> Tensor:
        """Return the indices of what is not 0, a row for each element, a column for each axis."""
        return self._result(self.backend.xp.argwhere(self.array))


def _as_vector(name: str, x: TensorMethods, axis: int) -> tuple[Tensor, int]:
    """Return a tensor without axes, of which the axis 0 or -1 was asked for, as one of length 1."""
    return x.reshape(1), normalize_axis(name, axis, 0, scalars=True)


def _integers(name: str, indices: Any, like: TensorMethods) -> Tensor:
    indices = tensor_like(name, np.asarray(indices) if isinstance(indices, int) else indices, like)
    if indices.array.size == 0 and indices.array.dtype.kind not in "iu":
        indices = indices.astype(np.int64)  # an empty list has no integers to tell
    if indices.array.dtype.kind not in "iu":
        raise IndexError(f"{name}: indices are {indices.dtype}, expected integers")
    return indices
