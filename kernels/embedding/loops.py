"""Embedding in plain Python: one row after the other, see reference.py."""

from math import prod

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.plain import in_python
from tinygrad_char.kernels.embedding.reference import check_indices


@in_python
def forward(
    idx: Array, weight: Array, addend: Array | None = None, dtype: np.dtype | None = None
) -> Array:
    check_indices(idx, weight.shape[0], "embedding: index")
    y = np.empty((*idx.shape, weight.shape[1]), weight.dtype)
    added = np.broadcast_to(0 if addend is None else addend, y.shape)
    table = weight.tolist()
    for place in np.ndindex(idx.shape):
        row = table[idx[place]]
        y[place] = [a + b for a, b in zip(row, added[place].tolist(), strict=True)]
    return y if dtype is None else y.astype(dtype)


@in_python
def backward(grad: Array, idx: Array, rows: int, dtype: np.dtype | None = None) -> Array:
    check_indices(idx, rows, "embedding: index")
    table = [[0.0] * grad.shape[-1] for _ in range(rows)]
    for place in np.ndindex(idx.shape):
        row = table[idx[place]]
        for c, slope in enumerate(grad[place].tolist()):
            row[c] += slope
    return np.array(table, dtype or grad.dtype).reshape(rows, grad.shape[-1])


@in_python
def backward_addend(grad: Array, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Array:
    if grad.shape[grad.ndim - len(shape) :] != tuple(shape):
        return NotImplemented  # an addend that is broadcast within its own axes
    sums = [0.0] * prod(shape)
    for position, slope in enumerate(grad.ravel().tolist()):
        sums[position % len(sums)] += slope
    return np.array(sums, dtype or grad.dtype).reshape(shape)
