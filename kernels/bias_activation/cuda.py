"""Bias and activation in CUDA C. Biases and their gradients are float32."""

from typing import Any

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.bias_activation.reference import Kept
from tinygrad_char.kernels.cuda.operation import (
    Operation,
    contiguous,
    fits_tiles,
    is_single,
    serves,
)


class BiasActivation(Operation):
    def forward(self, x: Array, bias: Array | None, activation: str) -> tuple[Array, Kept]:
        if not (serves(x) and is_single(bias) and fits_tiles(x)):
            return NotImplemented
        x = contiguous(x)
        y = namespace(x).empty(x.shape, x.dtype)
        self.launch_tiles("bias_activation_forward", x, (x, bias, y), ACTIVATION=activation.upper())
        return y, (y, None) if activation == "relu" else (x, bias)

    def backward(
        self, grad: Array, kept: Kept, activation: str, need_bias: bool
    ) -> tuple[Array, Array | None]:
        saved, bias = kept
        if not (serves(grad, saved) and is_single(bias) and fits_tiles(grad)):
            return NotImplemented
        grad, saved = contiguous(grad), contiguous(saved)
        grad_x = namespace(grad).empty(grad.shape, grad.dtype)
        partial = self.column_parts(grad) if need_bias else None
        arrays = grad, saved, bias, grad_x, partial
        self.launch_tiles("bias_activation_backward", grad, arrays, ACTIVATION=activation.upper())
        return grad_x, self.sum_parts(partial)


def first(results: Any) -> Any:
    return results if results is NotImplemented else results[0]
