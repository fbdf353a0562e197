"""Residual connections in CUDA C. Biases and their gradients are float32."""

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import (
    ROW_BLOCK,
    SCALARS,
    Operation,
    by_rows,
    contiguous,
    fits_tiles,
    is_single,
    serves,
    tile_grid,
)
from tinygrad_char.kernels.dropout.mask import can_draw, mask_arguments
from tinygrad_char.kernels.dropout.reference import MaskSource


class Residual(Operation):
    def forward(
        self,
        z: Array,
        bias: Array | None,
        x: Array | None,
        p: float = 0.0,
        key: MaskSource | None = None,
    ) -> Array:
        if x is None or not (
            serves(x, z) and is_single(bias) and can_draw(p, key) and fits_tiles(z)
        ):
            return NotImplemented
        x, z = contiguous(x), contiguous(z)
        rows, columns = by_rows(z)
        y = namespace(z).empty(z.shape, z.dtype)
        self.launch(
            "residual",
            "residual_forward",
            tile_grid(rows, columns),
            ROW_BLOCK,
            x,
            z,
            bias,
            y,
            np.int32(rows),
            np.int32(columns),
            *mask_arguments(p, key),
            SCALAR=SCALARS[z.dtype.name],
            DROPOUT=int(p > 0 and key is not None),
        )
        return y

    def backward(
        self, grad: Array, p: float, key: MaskSource | None, need_bias: bool
    ) -> tuple[Array, Array | None]:
        if not (serves(grad) and can_draw(p, key) and fits_tiles(grad)):
            return NotImplemented
        xp = namespace(grad)
        grad = contiguous(grad)
        rows, columns = by_rows(grad)
        grad_x = xp.empty(grad.shape, grad.dtype)
        grid = tile_grid(rows, columns)
        partial = xp.empty((grid[0], columns), np.float32) if need_bias else None
        self.launch(
            "residual",
            "residual_backward",
            grid,
            ROW_BLOCK,
            grad,
            grad_x,
            partial,
            np.int32(rows),
            np.int32(columns),
            *mask_arguments(p, key),
            SCALAR=SCALARS[grad.dtype.name],
            DROPOUT=int(p > 0 and key is not None),
        )
        if partial is None:
            return grad_x, None
        return grad_x, self.sum_rows(partial, (columns,), partial.dtype)
