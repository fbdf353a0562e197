"""Dropout in CUDA C, in float32 or bfloat16."""

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import (
    ROW_BLOCK,
    SCALARS,
    TILE_COLUMNS,
    TILE_ROWS,
    Operation,
    contiguous,
    serves,
)
from tinygrad_char.kernels.dropout.mask import can_draw, mask_arguments
from tinygrad_char.kernels.dropout.reference import MaskSource

BLOCK_ELEMENTS = TILE_ROWS * TILE_COLUMNS


class Dropout(Operation):
    def forward(self, x: Array, p: float, key: MaskSource) -> Array:
        if not (serves(x) and can_draw(p, key)):
            return NotImplemented
        x = contiguous(x)
        y = namespace(x).empty(x.shape, x.dtype)
        self.launch(
            "dropout",
            (-(-x.size // BLOCK_ELEMENTS),),
            ROW_BLOCK,
            *(x, y, np.int64(x.size), *mask_arguments(p, key)),
            SCALAR=SCALARS[x.dtype.name],
        )
        return y

    def backward(self, grad: Array, p: float, key: MaskSource) -> Array:
        return self.forward(grad, p, key)
