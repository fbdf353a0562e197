"""Activations, dropout and residual connections by CUDA kernels, element by element.

Each class has the functions of the reference of its name, and hands over to it what its kernels
do not serve. Inputs and outputs are float32 or bfloat16, biases and their gradients float32.
"""

import numpy as np

from tinygrad_char.kernels import bias_activation, dropout, relu, residual
from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.bias_activation import Kept
from tinygrad_char.kernels.cuda_mask import can_draw, mask_arguments
from tinygrad_char.kernels.cuda_operation import (
    MOST_COLUMNS,
    MOST_ROWS,
    ROW_BLOCK,
    SCALARS,
    TILE_COLUMNS,
    TILE_ROWS,
    Operation,
    by_rows,
    contiguous,
    serves,
)
from tinygrad_char.kernels.dropout import MaskSource
from tinygrad_char.kernels.launcher import Launcher

BLOCK_ELEMENTS = TILE_ROWS * TILE_COLUMNS

_ACTIVATION = {"none": "gelu", "tanh": "gelu_tanh"}


class BiasActivation(Operation):
    """See bias_activation.py; bias_activation.cu."""

    def forward(self, x: Array, bias: Array | None, activation: str) -> tuple[Array, Kept]:
        """See bias_activation.forward."""
        if not (serves(x) and _single(bias) and _fits(x)):
            return bias_activation.forward(x, bias, activation)
        x = contiguous(x)
        rows, columns = by_rows(x)
        y = namespace(x).empty(x.shape, x.dtype)
        self.launch(
            "bias_activation",
            "bias_activation_forward",
            _grid(rows, columns),
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
        """See bias_activation.backward."""
        saved, bias = kept
        if not (serves(grad, saved) and _single(bias) and _fits(grad)):
            return bias_activation.backward(grad, kept, activation, need_bias)
        xp = namespace(grad)
        grad, saved = contiguous(grad), contiguous(saved)
        rows, columns = by_rows(grad)
        grad_x = xp.empty(grad.shape, grad.dtype)
        grid = _grid(rows, columns)
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


class Relu:
    """See relu.py; bias_activation.cu."""

    def __init__(self, launcher: Launcher) -> None:
        self._fused = BiasActivation(launcher)

    def forward(self, x: Array) -> Array:
        """See relu.forward."""
        if not (serves(x) and _fits(x)):
            return relu.forward(x)  # the reference of the fused one may overwrite x
        return self._fused.forward(x, None, "relu")[0]

    def backward(self, grad: Array, y: Array) -> Array:
        """See relu.backward."""
        return self._fused.backward(grad, (y, None), "relu", need_bias=False)[0]


class Gelu:
    """See gelu.py; bias_activation.cu."""

    def __init__(self, launcher: Launcher) -> None:
        self._fused = BiasActivation(launcher)

    def forward(self, x: Array, approximate: str = "none") -> Array:
        """See gelu.forward."""
        return self._fused.forward(x, None, _ACTIVATION[approximate])[0]

    def backward(self, grad: Array, x: Array, approximate: str = "none") -> Array:
        """See gelu.backward."""
        return self._fused.backward(grad, (x, None), _ACTIVATION[approximate], need_bias=False)[0]


class Dropout(Operation):
    """See dropout.py; dropout.cu."""

    def forward(self, x: Array, p: float, key: MaskSource) -> Array:
        """See dropout.forward."""
        if not (serves(x) and can_draw(p, key)):
            return dropout.forward(x, p, key)
        x = contiguous(x)
        y = namespace(x).empty(x.shape, x.dtype)
        self.launch(
            "dropout",
            "dropout",
            (-(-x.size // BLOCK_ELEMENTS),),
            ROW_BLOCK,
            x,
            y,
            np.int64(x.size),
            *mask_arguments(p, key),
            SCALAR=SCALARS[x.dtype.name],
        )
        return y

    def backward(self, grad: Array, p: float, key: MaskSource) -> Array:
        """See dropout.backward."""
        return self.forward(grad, p, key)


class Residual(Operation):
    """See residual.py; residual.cu."""

    def forward(
        self,
        z: Array,
        bias: Array | None,
        x: Array | None,
        p: float = 0.0,
        key: MaskSource | None = None,
    ) -> Array:
        """See residual.forward."""
        if x is None or not (serves(x, z) and _single(bias) and can_draw(p, key) and _fits(z)):
            return residual.forward(z, bias, x, p, key)
        x, z = contiguous(x), contiguous(z)
        rows, columns = by_rows(z)
        y = namespace(z).empty(z.shape, z.dtype)
        self.launch(
            "residual",
            "residual_forward",
            _grid(rows, columns),
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
        """See residual.backward."""
        if not (serves(grad) and can_draw(p, key) and _fits(grad)):
            return residual.backward(grad, p, key, need_bias)
        xp = namespace(grad)
        grad = contiguous(grad)
        rows, columns = by_rows(grad)
        grad_x = xp.empty(grad.shape, grad.dtype)
        grid = _grid(rows, columns)
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


def _grid(rows: int, columns: int) -> tuple[int, int]:
    return -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)


def _fits(x: Array) -> bool:
    return x.ndim > 0 and x.shape[-1] <= MOST_COLUMNS and by_rows(x)[0] <= MOST_ROWS


def _single(array: Array | None) -> bool:
    return array is None or (array.dtype == np.float32 and array.flags.c_contiguous)
