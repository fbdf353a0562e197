"""Methods of Tensor that move, repeat and pad elements."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_char.coerce import floating, lengths
from tinygrad_char.kernels.words import shorten
from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops import moving, shape
from tinygrad_char.ops.reduction import Axis, normalize_axes, normalize_axis
from tinygrad_char.spelling import spelled

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


class ShapeMethods(TensorMethods):
    """Reshaping, moving axes, splitting, expanding, flipping, tiling, padding, diagonals."""

    __slots__ = ()

    def reshape(self, *new: Any) -> Tensor:
        """Return the same elements in another shape; one length may be -1."""
        return shape.Reshape.apply(self, shape=lengths(new))

    view = reshape

    @spelled
    def flatten(self, start: int = 0, end: int = -1) -> Tensor:
        """Return the axes from `start` to `end` as one; ValueError where it lies before start."""
        start = normalize_axis("flatten", start, self.ndim, scalars=True)
        end = normalize_axis("flatten", end, self.ndim, scalars=True)
        if end < start:
            raise ValueError(f"flatten: axes {start} to {end} of shape {self.shape}")
        middle = math.prod(self.shape[start : end + 1])
        return self.reshape(*self.shape[:start], middle, *self.shape[end + 1 :])

    def permute(self, *axes: Any) -> Tensor:
        """Return the axes in another order: axis i of the result is axis axes[i]."""
        return shape.Permute.apply(self, axes=lengths(axes))

    def transpose(self, *axes: Any) -> Tensor:
        """Return all axes reversed, two of them swapped, or all of them in another order.

        t.transpose(a, b) swaps as PyTorch does; t.transpose((a, b)) and longer ones are NumPy's.
        """
        if len(axes) == 2:
            return self._swap("transpose", *axes)
        return self.permute(*(axes or range(self.ndim)[::-1]))

    @spelled(first=("dim0", "axis0"), second=("dim1", "axis1"))
    def swapaxes(self, first: int, second: int) -> Tensor:
        """Return two axes swapped."""
        return self._swap("swapaxes", first, second)

    def _swap(self, name: str, first: int, second: int) -> Tensor:
        a, b = (normalize_axis(name, each, self.ndim, scalars=True) for each in (first, second))
        order = list(range(self.ndim))
        if order:
            order[a], order[b] = order[b], order[a]
        return self.permute(*order)

    @property
    def T(self) -> Tensor:  # noqa: N802 (NumPy's and PyTorch's name)
        """All axes reversed."""
        return self.transpose()

    @property
    def mT(self) -> Tensor:  # noqa: N802
        """The last two axes swapped."""
        return self.swapaxes(-1, -2)

    def broadcast_to(self, *new: Any) -> Tensor:
        """Return a view in which axes of length 1 and new leading axes are repeated."""
        return shape.BroadcastTo.apply(self, shape=lengths(new))

    @spelled
    def squeeze(self, axis: Axis = None) -> Tensor:
        """Return the tensor without its axes of length 1, or without `axis` (length 1)."""
        if axis is None:
            return self.reshape([n for n in self.shape if n != 1])
        axes = normalize_axes("squeeze", axis, self.ndim)
        wrong = [i for i in axes if self.shape[i] != 1]
        if wrong:
            raise ValueError(f"squeeze: axis {wrong[0]} of shape {self.shape} is not 1 long")
        return self.reshape([n for i, n in enumerate(self.shape) if i not in axes])

    @spelled
    def unsqueeze(self, axis: int) -> Tensor:
        """Return the tensor with a new axis of length 1 at `axis`."""
        axis = normalize_axis("unsqueeze", axis, self.ndim + 1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    @spelled(sizes=("split_size", "split_size_or_sections"))
    def split(self, sizes: int | Sequence[int], axis: int = 0) -> list[Tensor]:
        """Return consecutive parts along `axis`: of one size (the last may be less), or several."""
        axis = normalize_axis("split", axis, self.ndim)
        total = self.shape[axis]
        if isinstance(sizes, int | np.integer):
            if sizes < 1:
                raise ValueError(f"split: size {shorten(sizes)}, expected at least 1")
            sizes = [min(sizes, total - start) for start in range(0, max(total, 1), sizes)]
        if sum(sizes) != total or min(sizes, default=0) < 0:
            raise ValueError(
                f"split: sizes {list(sizes)} do not add up to {total}, axis {axis} of shape "
                f"{self.shape}"
            )
        ends = list(itertools.accumulate(sizes, initial=0))
        before = (slice(None),) * axis
        return [self[(*before, slice(a, b))] for a, b in itertools.pairwise(ends)]

    def tril(self, diagonal: int = 0) -> Tensor:
        """Return the lower triangle of the last two axes, the rest zero."""
        return shape.Triangle.apply(self, lower=True, diagonal=diagonal)

    def triu(self, diagonal: int = 0) -> Tensor:
        """Return the upper triangle of the last two axes, the rest zero."""
        return shape.Triangle.apply(self, lower=False, diagonal=diagonal)

    def ravel(self) -> Tensor:
        """Return all elements along one axis."""
        return shape.Reshape.apply(self, shape=(-1,))

    def expand(self, *new: Any) -> Tensor:
        """Return a view in which axes of length 1 and new leading ones are repeated.

        -1 keeps the length of an axis.
        """
        wanted = lengths(new)
        missing = len(wanted) - self.ndim
        if missing < 0 or -1 in wanted[:missing]:
            raise ValueError(
                f"expand: shape {self.shape} to {wanted}; expected as many axes or more, and -1 "
                "only for an axis that is there"
            )
        kept = (1,) * missing + self.shape
        target = tuple(n if n != -1 else own for n, own in zip(wanted, kept, strict=True))
        return shape.BroadcastTo.apply(self, shape=target)

    def expand_as(self, other: Tensor) -> Tensor:
        """Return `expand` to the shape of another tensor."""
        return self.expand(*other.shape)

    def view_as(self, other: Tensor) -> Tensor:
        """Return the same elements in the shape of another tensor, of as many."""
        return shape.Reshape.apply(self, shape=other.shape)

    reshape_as = view_as

    @spelled
    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        """Return the axes `source` (one or several) at the places `destination`."""
        old = normalize_axes("moveaxis", _several(source), self.ndim)
        new = normalize_axes("moveaxis", _several(destination), self.ndim)
        if len(old) != len(new):
            raise ValueError(f"moveaxis: {len(old)} axes to {len(new)} places")
        order = [i for i in range(self.ndim) if i not in old]
        for place, axis in sorted(zip(new, old, strict=True)):
            order.insert(place, axis)
        return shape.Permute.apply(self, axes=order)

    movedim = moveaxis

    def flip(self, *axes: Any, axis: Any = None, dim: Any = None, dims: Any = None) -> Tensor:
        """Return a copy in reverse order along one axis or several, all if none is given."""
        names = {"axes": axes or None, "axis": axis, "dim": dim, "dims": dims}
        given = [name for name, each in names.items() if each is not None]
        if len(given) > 1:
            raise TypeError(
                f"flip: {given[0]} and {given[1]} are two names of one argument; give one of them"
            )
        if given and not axes:
            axes = tuple(_several(names[given[0]]))
        elif len(axes) == 1:
            axes = tuple(range(self.ndim)) if axes[0] is None else tuple(_several(axes[0]))
        elif not axes:
            axes = tuple(range(self.ndim))
        return moving.Flip.apply(self, axes=normalize_axes("flip", axes, self.ndim))

    def fliplr(self) -> Tensor:
        """Return a copy in reverse order along axis 1."""
        return self.flip(1)

    def flipud(self) -> Tensor:
        """Return a copy in reverse order along axis 0."""
        return self.flip(0)

    @spelled(shifts="shift")
    def roll(self, shifts: Any, axis: Any = None) -> Tensor:
        """Return the elements moved by `shifts` along `axis`, and round the end.

        Without an axis they are moved as if flattened. Several shifts go with several axes, one for
        each; one shift serves all axes.
        """
        if axis is None:
            flat = shape.Reshape.apply(self, shape=(-1,))
            total = sum(map(operator.index, _several(shifts)))
            rolled = moving.Roll.apply(flat, shifts=(total,), axes=(0,))
            return shape.Reshape.apply(rolled, shape=self.shape)
        axes = tuple(normalize_axis("roll", each, self.ndim) for each in _several(axis))
        counts = tuple(map(operator.index, _several(shifts)))
        counts = counts * len(axes) if len(counts) == 1 else counts
        if len(counts) != len(axes):
            raise ValueError(f"roll: {len(counts)} shifts for {len(axes)} axes")
        return moving.Roll.apply(self, shifts=counts, axes=axes)

    def tile(self, *times: Any) -> Tensor:
        """Return copies side by side, so many along each axis; missing leading counts are 1."""
        counts = _counts("tile", lengths(times))
        counts = (1,) * (self.ndim - len(counts)) + counts
        return moving.Tile.apply(self, times=counts)

    def repeat(self, *times: Any, axis: int | None = None, dim: int | None = None) -> Tensor:
        """Return copies side by side as PyTorch does: so many along each axis, as `tile`.

        With an axis each element is repeated along it as NumPy does: see `repeat_interleave`.
        """
        if axis is not None and dim is not None:
            raise TypeError("repeat: axis and dim are two names of one argument; give one of them")
        axis = dim if axis is None else axis
        if axis is not None:
            if len(times) != 1:
                raise TypeError(f"repeat: {len(times)} arguments with an axis, expected one")
            return self.repeat_interleave(times[0], axis)
        counts = _counts("repeat", lengths(times))
        if len(counts) < self.ndim:
            raise ValueError(
                f"repeat: {len(counts)} number(s) for {self.ndim} axes; expected one for each (see "
                "tile), or an axis to repeat elements along"
            )
        return moving.Tile.apply(self, times=counts)

    @spelled
    def repeat_interleave(self, repeats: Any, axis: int | None = None) -> Tensor:
        """Return each element `repeats` times along `axis`, or of the flattened tensor.

        `repeats` is an integer, or one for each element of the axis.
        """
        x: Any = self
        if axis is None:
            x, axis = shape.Reshape.apply(self, shape=(-1,)), 0
        axis = normalize_axis("repeat_interleave", axis, x.ndim)
        counts = np.atleast_1d(np.asarray(getattr(repeats, "array", repeats)))
        if counts.dtype.kind not in "iu" or (counts < 0).any():
            raise ValueError(
                f"repeat_interleave: {repeats!r} times, expected integers of at least 0"
            )
        if counts.ndim > 1 or counts.size not in (1, x.shape[axis]):
            raise ValueError(
                f"repeat_interleave: {counts.size} numbers of repeats for axis {axis} of shape "
                f"{x.shape}"
            )
        return moving.Repeat.apply(x, repeats=counts, axis=axis)

    @spelled(widths=("pad", "pad_width"), value="constant_values")
    def pad(self, widths: Any, mode: str = "constant", value: float = 0) -> Tensor:
        """Return the tensor with a border; a negative width cuts off.

        Parameters
        ----------
        widths
            As in PyTorch a flat sequence, (before, behind) of the last axis, then of the one before
            it, and so on: axes that are left out get no border. As in NumPy a sequence of
            (before, behind) for each axis, or one such pair for all; or one integer for all sides.
        mode
            "constant"; "reflect" mirrors without the edge, "replicate" (NumPy's "edge") repeats it,
            "circular" ("wrap") goes on at the other end.
        value
            What a constant border is filled with; a fraction makes floats of integers.
        """
        if mode not in moving.MODES:
            raise ValueError(f"pad: mode={mode!r}, expected one of {tuple(moving.MODES)}")
        x = floating(self) if isinstance(value, float) and not value.is_integer() else self
        return moving.Pad.apply(
            x, widths=_widths(widths, self.shape), mode=moving.MODES[mode], value=value
        )

    # Diagonals

    @spelled(axis1="dim1", axis2="dim2")
    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        """Return a view of the elements x[i, i + offset] of two axes, along a new last axis."""
        if self.ndim < 2:
            raise ValueError(f"diagonal: shape {self.shape} has fewer than two axes")
        first, second = normalize_axes("diagonal", (axis1, axis2), self.ndim)
        return moving.Diagonal.apply(self, offset=offset, axis1=first, axis2=second)

    @spelled(axis1="dim1", axis2="dim2")
    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        """Return the sum of the diagonal x[i, i + offset] of two axes."""
        return self.diagonal(offset, axis1, axis2).sum(-1)

    @spelled(diagonal="k")
    def diag(self, diagonal: int = 0) -> Tensor:
        """Return a copy of a matrix' diagonal, or a matrix with a vector as its diagonal."""
        if self.ndim == 1:
            return moving.DiagonalMatrix.apply(self, offset=diagonal)
        if self.ndim != 2:
            raise ValueError(f"diag: shape {self.shape}, expected a vector or a matrix")
        return self.diagonal(diagonal).clone()

    @spelled(axis1="dim1", axis2="dim2")
    def diag_embed(self, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
        """Return matrices, of the axes axis1 and axis2, with the last axis as their diagonals."""
        if self.ndim == 0:
            raise ValueError("diag_embed: a tensor without axes; expected (..., n)")
        places = normalize_axes("diag_embed", (axis1, axis2), self.ndim + 1)
        return moving.DiagonalMatrix.apply(self, offset=offset).moveaxis((-2, -1), places)

    # Parts

    @spelled
    def chunk(self, chunks: int, axis: int = 0) -> list[Tensor]:
        """Return at most `chunks` consecutive parts along `axis`, the last may be shorter."""
        if chunks < 1:
            raise ValueError(f"chunk: {shorten(chunks)} parts, expected at least 1")
        axis = normalize_axis("chunk", axis, self.ndim)
        size = max(1, -(-self.shape[axis] // chunks))
        return self.split(size, axis)

    @spelled
    def unbind(self, axis: int = 0) -> list[Tensor]:
        """Return the slices along `axis`, without it."""
        axis = normalize_axis("unbind", axis, self.ndim)
        before = (slice(None),) * axis
        return [self[(*before, i)] for i in range(self.shape[axis])]

    @spelled
    def narrow(self, axis: int, start: int, length: int) -> Tensor:
        """Return `length` slices along `axis` from `start` on."""
        axis = normalize_axis("narrow", axis, self.ndim)
        total = self.shape[axis]
        first = start + total if start < 0 else start
        if not 0 <= first <= first + length <= total:
            raise IndexError(
                f"narrow: {shorten(length)} from {shorten(start)} on, along axis {axis} of shape "
                f"{self.shape}"
            )
        return self[(*(slice(None),) * axis, slice(first, first + length))]

    @spelled
    def unflatten(self, axis: int, sizes: Sequence[int]) -> Tensor:
        """Return the tensor with `axis` cut into several; one length may be -1."""
        axis = normalize_axis("unflatten", axis, self.ndim)
        new = (*self.shape[:axis], *sizes, *self.shape[axis + 1 :])
        if 0 not in self.shape or -1 not in sizes:
            return shape.Reshape.apply(self, shape=new)
        rest = [n for n in sizes if n != -1]
        whole = int(np.prod(rest))
        if whole == 0 or self.shape[axis] % whole:
            raise ValueError(f"unflatten: axis {axis} of shape {self.shape} into {tuple(sizes)}")
        known = tuple(self.shape[axis] // whole if n == -1 else n for n in sizes)
        return shape.Reshape.apply(
            self, shape=(*self.shape[:axis], *known, *self.shape[axis + 1 :])
        )


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list | range) else (value,)


def _counts(name: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    if min(counts, default=0) < 0:
        raise ValueError(f"{name}: {shorten(counts)} times, expected integers of at least 0")
    return counts


def _widths(widths: Any, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (before, behind) for every axis, of whatever form `Tensor.pad` takes."""
    wrong = ValueError(
        f"pad: widths {shorten(widths)} for shape {shape}; expected (before, behind) of the last "
        "axis, of the one before it, ..., or a pair for each axis, or one integer"
    )
    try:
        if not isinstance(widths, tuple | list | np.ndarray):
            return [(operator.index(widths),) * 2] * len(shape)
        pairs = [each for each in widths if isinstance(each, tuple | list | np.ndarray)]
        if pairs:
            if len(pairs) != len(widths) or len(pairs) not in (1, len(shape)):
                raise wrong
            found = [(operator.index(a), operator.index(b)) for a, b in pairs]
            return found * len(shape) if len(found) == 1 else found
        flat = [operator.index(each) for each in widths]
    except (TypeError, ValueError):
        raise wrong from None
    if len(flat) % 2 or len(flat) > 2 * len(shape):
        raise wrong
    given = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
    return [(0, 0)] * (len(shape) - len(given)) + given
