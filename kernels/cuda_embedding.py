"""Embedding by CUDA kernels."""

import numpy as np

from kernels import embedding
from kernels.array import Array, namespace
from kernels.cuda_operation import (
    ROW_BLOCK,
    SCALARS,
    Operation,
    contiguous,
    serves,
    vector_width,
)
from kernels.launcher import Launcher

TABLE_ROWS, COLUMNS = 32, 128
"""The part of the gradient that a block adds up."""

MOST_BLOCKS = 1024


class Embedding(Operation):
    """See embedding.py; embedding.cu.

    With `check`, an index that is no row raises IndexError, for which the host waits for the
    device. Without, as under graph capture, its result is NaN. With `atomics`, backward adds in
    whatever order is fastest.
    """

    def __init__(self, launcher: Launcher, check: bool = True, atomics: bool = False) -> None:
        super().__init__(launcher)
        self.check, self.atomics = check, atomics

    def forward(self, idx: Array, weight: Array) -> Array:
        """See embedding.forward."""
        if not serves(weight):
            return embedding.forward(idx, weight)
        rows, columns = weight.shape
        if self.check:
            embedding.check_indices(idx, rows, "embedding: index")
        weight, indices = contiguous(weight), contiguous(idx).astype(np.int64, copy=False)
        out = namespace(weight).empty((*idx.shape, columns), weight.dtype)
        self.launch(
            "embedding",
            "embedding_forward",
            (-(-idx.size // 8),),
            ROW_BLOCK,
            indices,
            weight,
            out,
            np.int64(idx.size),
            np.int64(rows),
            np.int32(columns),
            SCALAR=SCALARS[weight.dtype.name],
            VECTOR=vector_width(columns, weight, out),
        )
        return out

    def backward(self, grad: Array, idx: Array, rows: int) -> Array:
        """See embedding.backward."""
        if not serves(grad):
            return embedding.backward(grad, idx, rows)
        xp = namespace(grad)
        grad, indices = contiguous(grad), contiguous(idx).astype(np.int64, copy=False)
        columns = grad.shape[-1]
        if self.atomics:
            return self._backward_atomic(grad, indices, rows)
        across, down = -(-columns // COLUMNS), -(-rows // TABLE_ROWS)
        # Enough blocks to fill a device, each with whole stretches of indices.
        parts = max(1, min(-(-idx.size // COLUMNS), MOST_BLOCKS // max(1, across * down)))
        part = -(-idx.size // (parts * COLUMNS)) * COLUMNS
        shape = (rows, columns)
        partial = xp.empty((parts, *shape), np.float32) if parts > 1 else None
        result = xp.empty(shape, grad.dtype) if partial is None else None
        self.launch(
            "embedding",
            "embedding_backward",
            (across, down, parts),
            COLUMNS,
            grad,
            indices,
            result,
            partial,
            np.int64(idx.size),
            np.int64(part),
            np.int64(rows),
            np.int32(columns),
            SCALAR=SCALARS[grad.dtype.name],
            VECTOR=1,
        )
        return result if partial is None else self.sum_rows(partial, shape, grad.dtype)

    def _backward_atomic(self, grad: Array, indices: Array, rows: int) -> Array:
        columns = grad.shape[-1]
        sums = namespace(grad).zeros((rows, columns), np.float32)
        self.launch(
            "embedding",
            "embedding_backward_atomic",
            (-(-indices.size // 8),),
            ROW_BLOCK,
            grad,
            indices,
            sums,
            np.int64(indices.size),
            np.int64(rows),
            np.int32(columns),
            SCALAR=SCALARS[grad.dtype.name],
            VECTOR=1,
        )
        return sums.astype(grad.dtype, copy=False)
