"""Embedding by CUDA kernels."""

from math import prod
from typing import Any

import numpy as np

from tinygrad_char.kernels import embedding
from tinygrad_char.kernels.array import Array, namespace, signed
from tinygrad_char.kernels.cuda.operation import (
    MOST_COLUMNS,
    ROW_BLOCK,
    SCALARS,
    Operation,
    access_macros,
    contiguous,
    serves,
)

BLOCK_ROWS = ROW_BLOCK // 32
"""Rows of the table whose gradient a block adds up, and rows that it makes: a warp's each."""

MOST_BLOCKS = 1024


class Embedding(Operation):
    """With `check`, an index that is no row raises IndexError; the host waits for the device.

    Without, as under graph capture, its result is NaN. With `atomics`, backward adds in whatever
    order is fastest.
    """

    def forward(
        self,
        idx: Array,
        weight: Array,
        addend: Array | None = None,
        dtype: np.dtype | None = None,
    ) -> Array:
        dtype = weight.dtype if dtype is None else dtype
        if not (serves(weight, addend) and _rounds(weight.dtype, dtype)):
            return NotImplemented
        rows, columns = weight.shape
        if self.settings.checks:
            embedding.check_indices(idx, rows, "embedding: index")
        weight, indices = contiguous(weight), contiguous(signed(idx)).astype(np.int64, copy=False)
        addend = None if addend is None else contiguous(addend)
        period = 1 if addend is None else max(1, prod(addend.shape[:-1]))
        out = namespace(weight).empty((*idx.shape, columns), dtype)
        self.launch(
            "embedding_forward",
            (-(-idx.size // BLOCK_ROWS),),
            ROW_BLOCK,
            *(indices, weight, addend, out),
            *map(np.int64, (idx.size, period, rows)),
            np.int32(columns),
            **_macros(out, weight.dtype, weight, addend),
        )
        return out

    def backward(self, grad: Array, idx: Array, rows: int, dtype: np.dtype | None = None) -> Array:
        dtype = grad.dtype if dtype is None else dtype
        if not (serves(grad) and _rounds(dtype, grad.dtype)):
            return NotImplemented
        xp = namespace(grad)
        grad, indices = contiguous(grad), contiguous(signed(idx)).astype(np.int64, copy=False)
        columns = grad.shape[-1]
        sizes = np.int64(rows), np.int32(columns)
        macros = _macros(grad, dtype)
        if self.settings.atomics:
            sums = xp.zeros((rows, columns), np.float32)
            self.launch(
                "embedding_backward_atomic",
                (-(-idx.size // BLOCK_ROWS),),
                ROW_BLOCK,
                *(grad, indices, sums, np.int64(idx.size)),
                *sizes,
                **macros,
            )
            return sums.astype(dtype, copy=False)
        down, across = -(-rows // BLOCK_ROWS), -(-columns // (32 * macros["VECTOR"]))
        # Enough blocks to fill a device, each with whole stretches of indices.
        parts = max(1, min(-(-idx.size // ROW_BLOCK), MOST_BLOCKS // max(1, down * across)))
        part = -(-idx.size // (parts * ROW_BLOCK)) * ROW_BLOCK
        partial = xp.empty((parts, rows, columns), np.float32) if parts > 1 else None
        result = xp.empty((rows, columns), dtype)
        self.launch(
            "embedding_backward",
            (down, across, parts),
            ROW_BLOCK,
            *(grad, indices, result if partial is None else None, partial),
            *(np.int64(idx.size), np.int64(part)),
            *sizes,
            **macros,
        )
        return result if partial is None else self.sum_rows(partial, result.shape, dtype, result)

    def backward_addend(
        self, grad: Array, shape: tuple[int, ...], dtype: np.dtype | None = None
    ) -> Array:
        dtype = grad.dtype if dtype is None else dtype
        columns = prod(shape)
        if not (serves(grad) and _rounds(dtype, grad.dtype) and 0 < columns <= MOST_COLUMNS):
            return NotImplemented
        matrix = contiguous(grad).reshape(grad.size // columns, columns)
        return self.sum_columns(matrix, dtype).reshape(shape)


def _rounds(table: np.dtype, dtype: np.dtype) -> bool:
    """Return whether kernels make elements of this dtype from a table of that one."""
    return dtype == table or (table.name, dtype.name) == ("float32", "bfloat16")


def _macros(rows: Array, table: np.dtype, *others: Array | None) -> dict[str, Any]:
    """Return the macros for these rows; what kernels write begins at sixteen bytes anyway."""
    return {**access_macros(rows.shape[-1], rows, *others), "TABLE": SCALARS[table.name]}
