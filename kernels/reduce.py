"""Sums over axes whose error does not grow with the number of rows.

NumPy adds up neighbours in memory pairwise, but rows one after the other: the rounding errors of
10,000 rows of 100.1 make a mean of 100.1096. Here rows are added up in blocks, and then the blocks
(Higham 1993, "The accuracy of floating point summation"). Where rows are short, several lie side
by side in one of the rows that are added, which is also faster. Rows of float32 that follow each
other in memory are added up by the kernel in C, where it is there.
"""

import math
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import (
    FLOAT32,
    Array,
    is_floating,
    is_half,
    namespace,
    rounded,
    widened,
)
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import wanted
from tinygrad_char.kernels.cpu.recording import empty

compiled: Any = wanted
_add: Any = np.add.reduce

BLOCK, FEW = 16, 64
"""Rows that are added one after the other, and so few that nothing else is done."""
RUN, CACHED = 128, 1 << 15
"""Elements of a running sum that are added one after the other, and that are worked on at once."""
FAR = 20
"""Standard deviations from which on a mean's own rounding could be seen in the variance."""
SMALL = 1024
"""Elements of which moments are computed in double precision."""
WIDTH, WIDE = 1024, 1 << 14
"""Elements of short rows that are taken side by side, and the most of a long row that are taken at
once, so that the sums stay in the cache."""


def total(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Return the sum of x over axes (from 0 on), with x's dtype if that is floating.

    Sixteen bits are added up in float32 and rounded once.
    """
    if type(x) is np.ndarray and x.dtype.itemsize > 2:
        shape, count = x.shape, 1
        for i in axes:
            count *= shape[i]
        if count <= FEW:
            return _add(x, axis=axes, keepdims=keepdims)
    if is_half(x):
        return rounded(total(widened(x), axes, keepdims), x.dtype)
    if _is_pairwise(x, axes) or not is_floating(x.dtype):
        return x.sum(axis=axes, keepdims=keepdims)
    result = _sum_blocks(x, axes)
    if keepdims:
        return result.reshape([1 if i in axes else n for i, n in enumerate(x.shape)])
    return result


def mean(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Return the mean of floating x over axes (from 0 on)."""
    return total(x, axes, keepdims) / math.prod(x.shape[i] for i in axes)


def running_total(x: Array, axis: int) -> Array:
    """Return the running sum along an axis (from 0 on), with x's dtype if that is floating.

    In C, and on a device, it is added up in double precision. In NumPy stretches of RUN are added
    up by themselves, and what comes before each in double precision. Sixteen bits are added up in
    float32 and rounded once.
    """
    short = x.ndim == 0 or x.shape[axis] <= BLOCK
    if short and x.dtype.itemsize > 2:
        return x.cumsum(axis=axis)
    if type(x) is not np.ndarray:
        wide = np.float64 if is_floating(x.dtype) else None
        return rounded(x.cumsum(axis=axis, dtype=wide), x.dtype) if wide else x.cumsum(axis=axis)
    if is_half(x):
        return rounded(running_total(widened(x), axis), x.dtype)
    if compiled is not None and x.dtype == FLOAT32:
        result = empty(x.shape)
        sizes = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
        threads = threads_for(4 * x.size)
        compiled.running_sum(np.ascontiguousarray(x), result, *sizes, threads)
        return result
    if not is_floating(x.dtype) or x.shape[axis] <= RUN or x.size == 0:
        return x.cumsum(axis=axis)
    result = np.empty(x.shape, x.dtype)
    source, target = np.moveaxis(x, axis, 0), np.moveaxis(result, axis, 0)
    beside = source.shape[1:]
    before = np.zeros(beside)
    step = max(1, CACHED // (math.prod(beside) * RUN)) * RUN
    for start in range(0, len(source), step):
        given, sums = source[start : start + step], target[start : start + step]
        whole = len(given) // RUN * RUN
        if whole:
            runs = sums[:whole].reshape(-1, RUN, *beside)
            np.cumsum(given[:whole].reshape(-1, RUN, *beside), axis=1, out=runs)
            ends = before + np.cumsum(runs[:, -1], axis=0, dtype=np.float64)
            runs[0] += before.astype(x.dtype)
            runs[1:] += ends[:-1, None].astype(x.dtype)
            before = ends[-1]
        if whole < len(given):  # the last ones
            np.cumsum(given[whole:], axis=0, out=sums[whole:])
            sums[whole:] += before.astype(x.dtype)
    return result


def total_by_index(x: Array, idx: Array, rows: int) -> Array:
    """Return (rows, C), of which row i is the sum of the rows of x (N, C) whose idx (N,) is i.

    Raises
    ------
    IndexError
        An index is negative or not below `rows`.
    """
    if idx.size and not 0 <= int(idx.min()) <= int(idx.max()) < rows:
        raise IndexError(f"indices from {idx.min()} to {idx.max()} for {rows} rows")
    single = x.dtype == FLOAT32 and x.shape[1] == 1
    if single and len(idx) * 16 > rows:
        sums = np.bincount(idx, weights=x[:, 0], minlength=rows)  # in double precision
        return rounded(sums, FLOAT32)[:, None]
    if x.dtype == FLOAT32 and compiled is not None and not single:
        sums = empty((rows, x.shape[1]))
        x, idx = np.ascontiguousarray(x), np.ascontiguousarray(idx, np.int64)
        if compiled.embedding_backward(x, idx, sums, len(idx), *sums.shape) < 0:
            raise MemoryError(f"no room for the sums of {rows} rows")
        return sums
    order = np.argsort(idx, kind="stable")
    dtype = x.dtype
    x, idx = widened(x[order]), idx[order]
    while len(idx):
        first = np.flatnonzero(np.concatenate(([True], idx[1:] != idx[:-1])))
        if len(first) == len(idx):
            break
        lengths = np.diff(first, append=len(idx))
        place = np.arange(len(idx)) - np.repeat(first, lengths)  # among those of its index
        starts = np.flatnonzero(place % BLOCK == 0)
        x, idx = np.add.reduceat(x, starts, axis=0), idx[starts]
    result = np.zeros((rows, x.shape[1]), x.dtype)
    result[idx] = x
    return rounded(result, dtype)


def total_at(shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """Return zeros of a shape with values added at an index, as often as it names an element.

    The index and the values' shape, which is that of what it selects, are NumPy's; the result has
    the values' dtype. A device adds up in double precision, since it does so one after the other.
    """
    xp, dtype = namespace(values), values.dtype
    if not is_floating(dtype) or (values.size <= FEW and dtype.itemsize > 2):
        result = xp.zeros(shape, dtype)
        xp.add.at(result, index, values)
        return result
    if xp is not np:
        result = xp.zeros(shape, np.float64)
        xp.add.at(result, index, values.astype(np.float64))
        return rounded(result, dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) == 1 and getattr(parts[0], "dtype", None) == np.bool_:  # each element once
        result = np.zeros(shape, dtype)
        result[index] = values
        return result
    values = widened(values)
    integers = all(type(each) is np.ndarray and each.dtype.kind in "iu" for each in parts)
    if integers:  # along the first axes: whole rows of what is behind them
        lengths, behind = shape[: len(parts)], shape[len(parts) :]
        idx: Any = 0
        for number, (each, length) in enumerate(zip(parts, lengths, strict=True)):
            own = each.astype(np.int64, copy=False)
            if (own < 0).any():
                own = np.where(own < 0, own + length, own)
            idx = idx * length + own if number else own
    else:
        lengths, behind = shape, ()
        idx = np.arange(math.prod(shape)).reshape(shape)[index]
    columns = math.prod(behind)
    rows = total_by_index(values.reshape(idx.size, columns), idx.reshape(-1), math.prod(lengths))
    return rounded(rows.reshape(shape), dtype)


def moments(
    x: Array, axes: tuple[int, ...], *, overwrite: bool = False
) -> tuple[Array, Array, Array]:
    """Return mean, x - mean, and sum((x - mean)^2) of float32 or float64, axes kept as 1.

    A mean far from zero is first corrected by the mean of x - mean (Neely 1966, "Comparison of
    several algorithms for computation of means, standard deviations and correlation
    coefficients"), so that of equal numbers the sum is 0; also where their own sum would be beyond
    the range. With `overwrite` nothing is promised of x - mean, whose place is then used.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if x.size <= SMALL and type(x) is np.ndarray and x.dtype == FLOAT32:
            wide = x.astype(np.float64)
            center = _add(wide, axis=axes, keepdims=True)
            center /= wide.size / max(center.size, 1)
            wide -= center
            squares = _add(wide * wide, axis=axes, keepdims=True)
            return center.astype(x.dtype), wide.astype(x.dtype), squares.astype(x.dtype)
        return _moments(x, axes, overwrite)


def variance(x: Array, axes: tuple[int, ...], divisor: float) -> tuple[Array, Array]:
    """Return sum((x - mean)^2) / divisor, and the mean, of float32 or float64; axes kept as 1.

    float32 is added up in double precision: in C with one look at each element (cpu/variance.c);
    on a device about the mean in single precision, and what that is off by is taken away.
    """
    if x.dtype != FLOAT32 or (compiled is None and namespace(x) is np):
        mean, _, squares = moments(x, axes, overwrite=True)
        return squares / divisor, mean
    shape = x.shape
    kept = tuple([1 if i in axes else n for i, n in enumerate(shape)])
    if type(x) is np.ndarray:
        mean, y = empty(kept), empty(kept)
        rows, *sizes = _as_rows(x, axes)
        compiled.variance(rows, mean, y, *sizes, float(divisor), threads_for(8 * x.size))
        return y, mean
    wide = x.sum(axis=axes, keepdims=True, dtype=np.float64)
    count = math.prod([shape[i] for i in axes])
    wide /= count
    mean = wide.astype(FLOAT32)
    centered = x - mean
    centered *= centered
    squares = centered.sum(axis=axes, keepdims=True, dtype=np.float64)
    wide -= mean
    squares -= count * wide * wide
    return (squares / divisor).astype(FLOAT32), mean


def _as_rows(x: Array, axes: tuple[int, ...]) -> tuple[Array, int, int, int]:
    """Return contiguous x with the axes beside each other, and their size between two others.

    What lies before and behind them are the other axes in their order.
    """
    order = list(range(x.ndim))
    if not x.flags.c_contiguous:
        order.sort(key=lambda i: -abs(x.strides[i]))
    others = [i for i in order if i not in axes]
    at = [order.index(i) for i in axes]
    first, end = (min(at), max(at) + 1) if at else (0, 0)
    if end - first != len(axes) or others != sorted(others):
        reduced = [i for i in order if i in axes]
        behind = order[-1] in axes  # so that most neighbours stay what they are
        order = [*sorted(others), *reduced] if behind else [*reduced, *sorted(others)]
        first, end = (len(others), len(order)) if behind else (0, len(axes))
    if order != sorted(order):
        x = x.transpose(order)
    x, shape = np.ascontiguousarray(x), x.shape
    return x, math.prod(shape[:first]), math.prod(shape[first:end]), math.prod(shape[end:])


def _moments(x: Array, axes: tuple[int, ...], overwrite: bool) -> tuple[Array, Array, Array]:
    xp = namespace(x)

    def squares(centered: Array) -> Array:
        return total(
            xp.multiply(centered, centered, out=centered if overwrite else None), axes, True
        )

    center = mean(x, axes, True)
    if xp is not np:
        center = xp.where(abs(center) < np.inf, center, _mean_of_shares(x, axes))
    centered = xp.asarray(x - center)
    result = squares(centered)
    if xp is np and _is_near(center, result, x.size):
        return center, centered, result
    if xp is np and not np.isfinite(center).all():
        center = np.where(np.isfinite(center), center, _mean_of_shares(x, axes))
        np.subtract(x, center, out=centered)
    elif overwrite:
        xp.subtract(x, center, out=centered)
    rest = mean(centered, axes, True)
    # about another center the sum is larger by a square: which leaves digits where it is small
    excess = rest * rest * (x.size / max(center.size, 1))
    if xp is np and (16 * excess < result).all() and (result < np.inf).all():
        result = result - excess
        if not overwrite:
            centered -= rest
    else:
        centered -= rest
        result = squares(centered)
    return center + rest, centered, result


def _mean_of_shares(x: Array, axes: tuple[int, ...]) -> Array:
    """Return the mean of elements of which the sum is beyond the range, as the sum of x / n."""
    return total(x / math.prod(x.shape[i] for i in axes), axes, True)


def _is_near(center: Array, squares: Array, size: int) -> bool:
    """Return whether a mean is so near zero that its rounding cannot be seen in the squares.

    On a device nobody asks: the answer would have to be waited for.
    """
    share = size / (max(center.size, 1) * FAR**2)
    return bool(((center * center * share < squares) & (squares < np.inf)).all())


def _is_pairwise(x: Array, axes: tuple[int, ...]) -> bool:
    """Return whether besides neighbours in memory only few rows are added up, or a device adds."""
    if not isinstance(x, np.ndarray) or x.size == 0:
        return True
    end = x.ndim
    if x.flags.c_contiguous:
        while end and (end - 1 in axes or x.shape[end - 1] == 1):
            end -= 1
    return math.prod([x.shape[i] for i in axes if i < end]) <= FEW


def _sum_blocks(x: Array, axes: tuple[int, ...]) -> Array:
    if x.flags.c_contiguous and len(axes) == max(axes) + 1:
        shape = x.shape[len(axes) :]
        if _fits_kernel(x):
            sums = empty(shape)
            compiled.column_sums(x, sums, 1, x.size // max(sums.size, 1), sums.size)
            return sums
        return _sum_rows(x.reshape(-1, math.prod(shape)), 0).reshape(shape)
    order = list(range(x.ndim))
    if not x.flags.c_contiguous:
        order.sort(key=lambda i: -abs(x.strides[i]))
    kept = [i for i in order if i not in axes]
    y, reduced = _merged(x.transpose(order), [i in axes for i in order])
    while any(reduced):
        last = max(i for i, each in enumerate(reduced) if each)
        y = y.sum(axis=-1) if last == y.ndim - 1 else _sum_rows(y, last)
        y, reduced = _merged(y, reduced[:last] + reduced[last + 1 :])
    y = y.reshape([x.shape[i] for i in kept])
    return y.transpose(np.argsort(kept).tolist())


def _merged(x: Array, reduced: list[bool]) -> tuple[Array, list[bool]]:
    """Return x with neighbouring axes of one kind as one, where they lie so in memory."""
    shape: list[int] = []
    strides: list[int] = []
    kinds: list[bool] = []
    for length, stride, kind in zip(x.shape, x.strides, reduced, strict=True):
        if length == 1:
            continue
        if kinds and kinds[-1] == kind and strides[-1] == stride * length:
            shape[-1] *= length
            strides[-1] = stride
        else:
            shape.append(length)
            strides.append(stride)
            kinds.append(kind)
    return x.reshape(shape), kinds


def _sum_rows(x: Array, axis: int) -> Array:
    """Return the sum over an axis that is not the last."""
    length, outer, inner = x.shape[axis], x.shape[:axis], x.shape[axis + 1 :]
    if length <= BLOCK:
        return x.sum(axis=axis)
    if _fits_kernel(x):
        sums = empty((*outer, *inner))
        compiled.column_sums(x, sums, math.prod(outer), length, math.prod(inner))
        return sums
    if math.prod(inner) > 2 * WIDE and len(inner) == 1:
        sums = namespace(x).empty((*outer, *inner), x.dtype)
        for start in range(0, inner[0], WIDE):
            part = slice(start, start + WIDE)
            sums[..., part] = _sum_rows(x[..., part], axis)
        return sums
    beside = 1
    if len(inner) == 1 and x.strides[-1] == x.itemsize and x.strides[axis] == inner[0] * x.itemsize:
        beside = min(max(1, WIDTH // inner[0]), -(-length // BLOCK))
        inner = (beside * inner[0],)
    blocks = -(-length // (BLOCK * beside))
    rows = length // (blocks * beside)
    end = blocks * rows * beside
    before = (slice(None),) * axis
    whole = x[(*before, slice(end))].reshape(*outer, blocks, rows, *inner).sum(axis=axis + 1)
    result = _sum_rows(whole.reshape(*outer, blocks * beside, *x.shape[axis + 1 :]), axis)
    if end < length:
        result += _sum_rows(x[(*before, slice(end, None))], axis)
    return result


def _fits_kernel(x: Array) -> bool:
    return (
        compiled is not None
        and type(x) is np.ndarray
        and x.dtype == FLOAT32
        and x.flags.c_contiguous
    )


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` over the axes along which an array of `shape` was broadcast to grad's shape."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + axis
        for axis, length in enumerate(shape)
        if length == 1 and grad.shape[extra + axis] != 1
    )
    return total(grad, axes).reshape(shape) if axes else grad.reshape(shape)
