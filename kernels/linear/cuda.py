"""Linear layers by cuBLAS, with sums in float32."""

from math import prod

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.operation import Operation, contiguous


class Linear(Operation):
    """With x in bfloat16, weight and bias may be float32.

    The products are then of bfloat16, the gradients of weight and bias float32.
    """

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        weight = self._rounded(weight, x.dtype)
        if not self.device.products.serves(x, weight):
            return NotImplemented
        y = self.device.products.multiply(
            _rows(x), weight.T, tf32=bool(self.settings.tf32)
        )  # (N, O)
        if bias is not None:
            y += self._rounded(bias, y.dtype)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def backward(
        self, grad: Array, x: Array | None, weight: Array | None, needs: tuple[bool, bool, bool]
    ) -> tuple[Array | None, Array | None, Array | None]:
        # where weight is None it has the dtype of x
        if not self.device.products.serves(grad, grad):
            return NotImplemented
        rows = _rows(grad)  # (N, O)
        dtype = grad.dtype if weight is None else weight.dtype
        grad_x = grad_weight = None
        if needs[0] and weight is not None:
            low = self._rounded(weight, grad.dtype)
            product = self.device.products.multiply(rows, low, tf32=bool(self.settings.tf32))
            grad_x = product.reshape(*grad.shape[:-1], weight.shape[1])
        if needs[1] and x is not None:
            flat = self.settings.parameters
            out = None if flat is None or weight is None else flat.buffer(weight)
            grad_weight = self.device.products.multiply(
                rows.T, _rows(x), dtype=dtype, tf32=bool(self.settings.tf32), out=out
            )
        grad_bias = self.sum_columns(contiguous(rows), dtype) if needs[2] else None
        return grad_x, grad_weight, grad_bias

    def _rounded(self, parameter: Array, dtype: np.dtype) -> Array:
        if parameter.dtype == dtype:
            return parameter
        flat = self.settings.parameters
        rounded = None if flat is None else flat.rounded(parameter, dtype)
        return parameter.astype(dtype) if rounded is None else rounded


def _rows(x: Array) -> Array:
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])
