"""Residual connections in CUDA C. Biases and their gradients are float32."""

from typing import Any

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import (
    Operation,
    contiguous,
    fits_tiles,
    is_single,
    serves,
)
from tinygrad_char.kernels.dropout import MaskSource
from tinygrad_char.kernels.dropout.mask import can_draw, mask_arguments


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
        y = namespace(z).empty(z.shape, z.dtype)
        self._launch("residual_forward", z, (x, z, bias, y), p, key)
        return y

    def backward(
        self, grad: Array, p: float, key: MaskSource | None, need_bias: bool
    ) -> tuple[Array, Array | None]:
        if not (serves(grad) and can_draw(p, key) and fits_tiles(grad)):
            return NotImplemented
        grad = contiguous(grad)
        grad_x = namespace(grad).empty(grad.shape, grad.dtype)
        partial = self.column_parts(grad) if need_bias else None
        self._launch("residual_backward", grad, (grad, grad_x, partial), p, key)
        return grad_x, self.sum_parts(partial)

    def _launch(
        self, function: str, z: Array, arrays: tuple[Any, ...], p: float, key: MaskSource | None
    ) -> None:
        mask, drops = mask_arguments(p, key), int(p > 0 and key is not None)
        self.launch_tiles(function, z, arrays, *mask, DROPOUT=drops)
