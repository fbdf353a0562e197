"""Matrix products and linear layers of the CUDA backends, by cuBLAS.

Sums are float32. `tf32` says whether float32 products may round their operands to ten bits after
the point, for which GPUs have units that are several times faster.
"""

from math import prod

import numpy as np

from tinygrad_char.kernels import linear, matmul
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.broadcast import unbroadcast
from tinygrad_char.kernels.cublas import Products
from tinygrad_char.kernels.cuda_operation import Operation, contiguous
from tinygrad_char.kernels.cuda_parameters import FlatParameters
from tinygrad_char.kernels.launcher import Launcher


class MatMul:
    """See matmul.py."""

    def __init__(self, products: Products, tf32: bool = False) -> None:
        self.products, self.tf32 = products, tf32

    def forward(self, a: Array, b: Array) -> Array:
        """See matmul.forward."""
        if not self.products.serves(a, b):
            return matmul.forward(a, b)
        left = a[None, :] if a.ndim == 1 else a  # (..., M, K)
        right = b[:, None] if b.ndim == 1 else b  # (..., K, N)
        y = self.products.multiply(left, right, tf32=self.tf32)
        if a.ndim == 1:
            y = y.reshape(*y.shape[:-2], y.shape[-1])
        return y.reshape(y.shape[:-1]) if b.ndim == 1 else y

    def backward(
        self, grad: Array, a: Array, b: Array, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        """See matmul.backward."""
        if not self.products.serves(a, b):
            return matmul.backward(grad, a, b, needs)
        left = a[None, :] if a.ndim == 1 else a
        right = b[:, None] if b.ndim == 1 else b
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        grad = grad.reshape(*batch, left.shape[-2], right.shape[-1])
        grad_a = grad_b = None
        if needs[0]:
            full = self.products.multiply(grad, right.swapaxes(-1, -2), tf32=self.tf32)
            grad_a = unbroadcast(full, left.shape).reshape(a.shape)
        if needs[1]:
            full = self.products.multiply(left.swapaxes(-1, -2), grad, tf32=self.tf32)
            grad_b = unbroadcast(full, right.shape).reshape(b.shape)
        return grad_a, grad_b


class Linear(Operation):
    """See linear.py.

    With x in bfloat16, weight and bias may be float32: the products are of bfloat16, the
    gradients of weight and bias float32.
    """

    def __init__(self, launcher: Launcher, products: Products, tf32: bool = False) -> None:
        super().__init__(launcher)
        self.products, self.tf32 = products, tf32
        self.flat: FlatParameters | None = None

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """See linear.forward."""
        weight = self._rounded(weight, x.dtype)
        if not self.products.serves(x, weight):
            return linear.forward(x, weight, bias)
        y = self.products.multiply(_rows(x), weight.T, tf32=self.tf32)  # (N, O)
        if bias is not None:
            y += self._rounded(bias, y.dtype)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def backward(
        self, grad: Array, x: Array | None, weight: Array | None, needs: tuple[bool, bool, bool]
    ) -> tuple[Array | None, Array | None, Array | None]:
        """See linear.backward; where weight is None it has the dtype of x."""
        if not self.products.serves(grad, grad):
            return linear.backward(grad, x, weight, needs)
        rows = _rows(grad)  # (N, O)
        dtype = grad.dtype if weight is None else weight.dtype
        grad_x = grad_weight = None
        if needs[0] and weight is not None:
            low = self._rounded(weight, grad.dtype)
            product = self.products.multiply(rows, low, tf32=self.tf32)
            grad_x = product.reshape(*grad.shape[:-1], weight.shape[1])
        if needs[1] and x is not None:
            out = None if self.flat is None or weight is None else self.flat.buffer(weight)
            grad_weight = self.products.multiply(
                rows.T, _rows(x), dtype=dtype, tf32=self.tf32, out=out
            )
        grad_bias = self.sum_columns(contiguous(rows), dtype) if needs[2] else None
        return grad_x, grad_weight, grad_bias

    def _rounded(self, parameter: Array, dtype: np.dtype) -> Array:
        if parameter.dtype == dtype:
            return parameter
        rounded = None if self.flat is None else self.flat.rounded(parameter, dtype)
        return parameter.astype(dtype) if rounded is None else rounded


def _rows(x: Array) -> Array:
    return x.reshape(prod(x.shape[:-1]), x.shape[-1])
