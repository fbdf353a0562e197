"""Bias and activation in CUDA C. Biases and their gradients are float32."""

from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.bias_activation.reference import Kept
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


class BiasActivation(Operation):
    def forward(self, x: Array, bias: Array | None, activation: str) -> tuple[Array, Kept]:
        if not (serves(x) and is_single(bias) and fits_tiles(x)):
            return NotImplemented
        x = contiguous(x)
        rows, columns = by_rows(x)
        y = namespace(x).empty(x.shape, x.dtype)
        self.launch(
            "bias_activation",
            "bias_activation_forward",
            tile_grid(rows, columns),
            ROW_BLOCK,
            x,
            bias,
            y,
            np.int32(rows),
            np.int32(columns),
            SCALAR=SCALARS[x.dtype.name],
            ACTIVATION=activation.upper(),
        )
        return y, (y, None) if activation == "relu" else (x, bias)

    def backward(
        self, grad: Array, kept: Kept, activation: str, need_bias: bool
    ) -> tuple[Array, Array | None]:
        saved, bias = kept
        if not (serves(grad, saved) and is_single(bias) and fits_tiles(grad)):
            return NotImplemented
        xp = namespace(grad)
        grad, saved = contiguous(grad), contiguous(saved)
        rows, columns = by_rows(grad)
        grad_x = xp.empty(grad.shape, grad.dtype)
        grid = tile_grid(rows, columns)
        partial = xp.empty((grid[0], columns), np.float32) if need_bias else None
        self.launch(
            "bias_activation",
            "bias_activation_backward",
            grid,
            ROW_BLOCK,
            grad,
            saved,
            bias,
            grad_x,
            partial,
            np.int32(rows),
            np.int32(columns),
            SCALAR=SCALARS[grad.dtype.name],
            ACTIVATION=activation.upper(),
        )
        if partial is None:
            return grad_x, None
        return grad_x, self.sum_rows(partial, (columns,), partial.dtype)


def first(results: Any) -> Any:
    """Return the first of some results, or NotImplemented."""
    return results if results is NotImplemented else results[0]
