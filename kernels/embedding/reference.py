"""Embedding: rows of a table by index."""

import numpy as np

from tinygrad_char.kernels.array import Array, namespace, select
from tinygrad_char.kernels.reduce import total_at, total_by_index, unbroadcast

ONE_HOT_ROWS = 1024
"""On a device, tables up to this many rows get their gradient by a one-hot product, larger ones row
by row."""


def check_indices(idx: Array, rows: int, what: str) -> None:
    """Raise IndexError that names the first index outside [0, rows)."""
    outside = (idx < 0) | (idx >= rows)
    if bool(outside.any()):
        first = int(outside.reshape(-1).argmax())
        position = tuple(map(int, np.unravel_index(first, idx.shape)))
        raise IndexError(
            f"{what} at position {position} is {int(idx[position])}, "
            f"expected an integer from 0 to {rows - 1}"
        )


def forward(
    idx: Array, weight: Array, addend: Array | None = None, dtype: np.dtype | None = None
) -> Array:
    """Return weight[idx] + addend: integers (...,) and a table (V, C) give (..., C).

    The addend, of the table's dtype, has the shape of the result's last axes, such as (T, C) for
    what is learned of positions. The sum is rounded to `dtype`, if one is given.

    Raises
    ------
    IndexError
        An index is negative or not below V.
    """
    check_indices(idx, weight.shape[0], "embedding: index")
    y = weight.take(idx, axis=0)
    if addend is not None:
        y += addend
    return y if dtype is None else y.astype(dtype, copy=False)


def backward(grad: Array, idx: Array, rows: int, dtype: np.dtype | None = None) -> Array:
    """Return dweight (V, C), of `dtype` or that of dy: the rows of dy (..., C) added up by index.

    The order of the sum is fixed, so the result is the same in every run.
    """
    xp = namespace(grad)
    grad = grad if dtype is None else grad.astype(dtype, copy=False)
    idx = idx.reshape(-1)
    grad = grad.reshape(idx.size, grad.shape[-1])  # (N, C)
    if xp is np:
        return total_by_index(grad, idx, rows)
    if rows <= ONE_HOT_ROWS:
        one_hot = xp.zeros((rows, idx.size), dtype=grad.dtype)
        one_hot[idx, xp.arange(idx.size)] = 1
        # 0 times infinity is NaN, so that what is not finite takes no part in the product
        finite = abs(grad) < xp.inf
        result = one_hot @ select(finite, grad)
        xp.add.at(result, idx, select(~finite, grad))
        return result
    return total_at((rows, grad.shape[1]), idx, grad)


def backward_addend(grad: Array, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Array:
    """Return daddend of a shape, of `dtype` or that of dy: dy summed over all axes before."""
    return unbroadcast(grad if dtype is None else grad.astype(dtype, copy=False), shape)
