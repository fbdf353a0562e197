"""Embedding in C, for contiguous float32 arrays of the host: see reference.py."""

import math

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import FLOAT32, as_int64, fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty


def forward(
    idx: Array, weight: Array, addend: Array | None = None, dtype: np.dtype | None = None
) -> Array:
    # the reference also serves to name an index that is out of range
    if fits(weight, addend) and dtype in (None, FLOAT32):
        y = empty((*idx.shape, weight.shape[1]))
        period = 1 if addend is None else math.prod(addend.shape[:-1])
        sizes = (idx.size, max(1, period), *weight.shape)
        if compiled.embedding_forward(as_int64(idx), weight, addend, y, *sizes):
            return y
    return NotImplemented


def backward(grad: Array, idx: Array, rows: int, dtype: np.dtype | None = None) -> Array:
    if grad.dtype == FLOAT32 and dtype in (None, FLOAT32):
        grad = np.ascontiguousarray(grad)
        result = empty((rows, grad.shape[-1]))
        done = compiled.embedding_backward(grad, as_int64(idx), result, idx.size, *result.shape)
        if done < 0:
            raise MemoryError("embedding: no memory to add up the gradients of the rows")
        if done:
            return result
    return NotImplemented


def backward_addend(grad: Array, shape: tuple[int, ...], dtype: np.dtype | None = None) -> Array:
    if grad.shape == shape or not grad.size or not fits(grad) or dtype not in (None, FLOAT32):
        return NotImplemented
    sums = empty(shape)
    compiled.column_sums(grad, sums, 1, grad.size // sums.size, sums.size)
    return sums
