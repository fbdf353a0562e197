"""Embedding: rows of a table by index."""

import numpy as np

from kernels.array import Array, namespace

ONE_HOT_ROWS = 1024
"""Tables up to this many rows get their gradient by a one-hot product, larger ones row by row."""


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


def forward(idx: Array, weight: Array) -> Array:
    """Return weight[idx]: integers (...,) and a table (V, C) give (..., C).

    Raises
    ------
    IndexError
        An index is negative or not below V.
    """
    check_indices(idx, weight.shape[0], "embedding: index")
    return weight.take(idx, axis=0)


def backward(grad: Array, idx: Array, rows: int) -> Array:
    """Return dweight (V, C): the rows of dy (..., C) added up by index.

    The order of the sum is fixed, so the result is the same in every run.
    """
    xp = namespace(grad)
    idx = idx.reshape(-1)
    grad = grad.reshape(idx.size, grad.shape[-1])  # (N, C)
    if rows <= ONE_HOT_ROWS:
        one_hot = xp.zeros((rows, idx.size), dtype=grad.dtype)
        one_hot[idx, xp.arange(idx.size)] = 1
        return one_hot @ grad
    result = xp.zeros((rows, grad.shape[1]), dtype=grad.dtype)
    xp.add.at(result, idx, grad)
    return result
